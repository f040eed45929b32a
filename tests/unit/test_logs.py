"""Logs have one event per line, and never contain a secret."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
import structlog
from hypothesis import given, strategies as st

from provisioner.core.secret import Secret
from provisioner.observe.logs import REDACTED, _Bridge, configure_logging, redact_event, redact_text

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Restore the logging of the process."""
    root = logging.getLogger()
    level = root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    only_ours(root, ours=False)
    root.setLevel(level)


def only_ours(root: logging.Logger, *, ours: bool) -> None:
    """Leave the root logger with our handler alone, or without it."""
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, _Bridge) is ours]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Claim to be a terminal."""
        return True


def started(level: str = "info", stream: io.StringIO | None = None) -> tuple[Any, io.StringIO]:
    """Configure logging as JSON into memory; return a logger and its output."""
    out = io.StringIO() if stream is None else stream
    configure_logging(level, "json", out)
    return structlog.get_logger(), out


def fail(message: str) -> NoReturn:
    """Raise, as the code of others does."""
    raise ValueError(message)


def events(out: io.StringIO) -> list[dict[str, Any]]:
    """Read the lines that were written."""
    return [json.loads(line) for line in out.getvalue().split("\n")[:-1]]


class TestLines:
    """The form of a line."""

    def test_is_one_json_object_a_line(self) -> None:
        """Each event is one line of JSON with time in UTC, level, name and fields, in this order."""
        log, out = started()
        log.bind(worker="w1").info("request_created", request=7, tags=("a", "b"))
        log.warning("two\nlines")
        first, second = events(out)
        assert list(first) == ["timestamp", "level", "event", "worker", "request", "tags"]
        assert first["timestamp"].endswith("Z")
        assert {key: first[key] for key in first if key != "timestamp"} == {
            "level": "info",
            "event": "request_created",
            "worker": "w1",
            "request": 7,
            "tags": ["a", "b"],
        }
        assert second["level"] == "warning"

    @pytest.mark.parametrize("value", [2**70, "\ud800", object(), {1: {2}}, b"\xff", float("nan"), Secret("s")])
    def test_takes_any_value(self, value: object) -> None:
        """No value is so odd that its event is lost."""
        log, out = started()
        log.info("odd", value=value)
        assert events(out)[0]["event"] == "odd"

    def test_takes_a_value_that_holds_itself(self) -> None:
        """A circle ends."""
        circle: list[object] = []
        circle.append(circle)
        log, out = started()
        log.info("odd", value=circle)
        assert "…" in json.dumps(events(out)[0]["value"], ensure_ascii=False)

    def test_takes_a_value_that_cannot_be_shown(self) -> None:
        """A value whose own text fails is named by its type."""

        class Shy:
            def __str__(self) -> str:
                raise RuntimeError("no")

        log, out = started()
        log.info("odd", value=Shy())
        assert events(out)[0]["value"] == "<Shy>"

    def test_carries_what_the_context_has_bound(self) -> None:
        """Fields bound to the context are in every event."""
        log, out = started()
        with structlog.contextvars.bound_contextvars(request=7):
            log.info("request_created")
        assert events(out)[0]["request"] == 7

    def test_survives_a_stream_that_is_gone(self) -> None:
        """A log that cannot be written stops no work."""
        log, out = started()
        out.close()
        log.info("request_created")


class TestLevels:
    """Which events are written."""

    def test_leaves_out_what_is_below_the_level(self) -> None:
        """Events below the level are not written."""
        log, out = started("warning")
        log.info("unimportant")
        log.warning("important")
        assert [event["event"] for event in events(out)] == ["important"]

    def test_a_disabled_line_does_nothing(self) -> None:
        """A disabled line on a bound logger is an empty function, not a filter that runs."""
        log, _ = started("info")
        bound = log.bind()
        assert type(bound).debug.__name__ == "_nop"
        assert type(bound).info.__name__ != "_nop"

    def test_can_be_configured_again(self) -> None:
        """A module's logger obeys the last configuration, although it is older."""
        log, first = started("error")
        log.error("one")
        _, second = started("debug")
        log.debug("two")
        assert len(events(first)) == 1
        assert [event["event"] for event in events(second)] == ["two"]


class TestFormat:
    """For whom the lines are."""

    def test_auto_is_console_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """People get coloured text."""
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        out = Terminal()
        configure_logging("info", "auto", out)
        structlog.get_logger().info("request_created", request=7)
        assert not out.getvalue().startswith("{")
        assert "\x1b[" in out.getvalue()
        assert "request_created" in out.getvalue()

    def test_auto_is_json_elsewhere(self) -> None:
        """Programs get JSON."""
        out = io.StringIO()
        configure_logging("info", "auto", out)
        structlog.get_logger().info("request_created")
        assert events(out)[0]["event"] == "request_created"

    @pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_colour_can_be_declined(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        """Colour can be switched off."""
        monkeypatch.setenv(name, value)
        out = Terminal()
        configure_logging("info", "console", out)
        structlog.get_logger().info("request_created")
        assert "\x1b[" not in out.getvalue()

    def test_console_shows_a_traceback_at_debug(self) -> None:
        """The console has the traceback below its line when it is wanted."""
        out = io.StringIO()
        configure_logging("debug", "console", out)
        try:
            fail("boom")
        except ValueError:
            structlog.get_logger().exception("request_failed")
        assert "ValueError: boom" in out.getvalue()
        assert "Traceback" in out.getvalue()


class TestExceptions:
    """The output for an exception."""

    def test_is_one_line(self) -> None:
        """An exception is its type and message in `error`, without a traceback."""
        log, out = started()
        try:
            fail("two\nlines")
        except ValueError:
            log.exception("request_failed")
        event = events(out)[0]
        assert event["error"] == "ValueError: two lines"
        assert "Traceback" not in out.getvalue()

    def test_has_its_traceback_at_debug(self) -> None:
        """The traceback is included at the level debug."""
        log, out = started("debug")
        log.warning("request_failed", exc_info=ValueError("boom"))
        event = events(out)[0]
        assert event["error"] == "ValueError: boom"
        assert "ValueError: boom" in event["exception"]

    def test_names_what_a_group_holds(self) -> None:
        """A group is described by its members, because its own message says nothing."""
        log, out = started()
        log.error("stopped", exc_info=ExceptionGroup("unhandled", [ValueError("a"), ExceptionGroup("b", [KeyError()])]))
        assert events(out)[0]["error"] == "ExceptionGroup: ValueError: a; ExceptionGroup: KeyError"

    def test_leaves_the_callers_error_code(self) -> None:
        """A field `error` that the caller gave is not overwritten."""
        log, out = started()
        log.error("request_failed", error="gave_up", exc_info=ValueError("boom"))
        assert (events(out)[0]["error"], events(out)[0]["cause"]) == ("gave_up", "ValueError: boom")

    def test_hides_secrets_in_message_and_traceback(self) -> None:
        """Neither the line nor the traceback shows a key that an exception's message holds."""
        log, out = started("debug")
        key = "sk-or-v1-" + "a1b2" * 8
        try:
            fail(f"refused {key}")
        except ValueError:
            log.exception("request_failed", cause=ValueError(key))
        assert key not in out.getvalue()
        assert out.getvalue().count(REDACTED) >= 3


class TestStandardLibrary:
    """Messages that libraries log."""

    def test_warnings_go_the_same_way(self) -> None:
        """A library's warning is one of our lines, redacted, with the logger's name."""
        _, out = started()
        logging.getLogger("asyncio").warning("slow\n%s", "Bearer abc.def")
        event = events(out)[0]
        assert (event["level"], event["event"], event["logger"]) == ("warning", f"slow Bearer {REDACTED}", "asyncio")

    def test_chatter_stays_away(self) -> None:
        """Below a warning libraries are silent, even when we debug ourselves."""
        _, out = started("debug")
        logging.getLogger("aiohttp.client").info("chatter")
        assert not out.getvalue()

    def test_exceptions_are_compact_too(self) -> None:
        """A library's exception is one line."""
        _, out = started()
        logging.getLogger("asyncio").error("never retrieved", exc_info=ValueError("boom"))
        assert events(out)[0]["error"] == "ValueError: boom"

    def test_a_wrong_format_loses_no_message(self) -> None:
        """A message with mismatched arguments is logged unformatted."""
        _, out = started()
        only_ours(logging.getLogger(), ours=True)  # the test runner's own handler raises
        logging.getLogger("x").warning("%d items", "many")
        assert events(out)[0]["event"] == "%d items"

    def test_pythons_own_warnings_are_lines(self) -> None:
        """A Python warning does not break the one-event-a-line rule."""
        _, out = started()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(False)  # somebody may have switched it on before pytest put its own in place
            logging.captureWarnings(True)
            warnings.warn("old", ResourceWarning, stacklevel=1)
            logging.captureWarnings(False)
        assert events(out)[0]["logger"] == "py.warnings"

    def test_configuring_twice_logs_once(self) -> None:
        """Configuring again replaces what routes libraries' messages."""
        started()
        _, out = started()
        logging.getLogger("x").warning("once")
        assert len(events(out)) == 1


@dataclass
class Holder:
    """An object whose repr shows its contents."""

    api_key: str


class TestRedaction:
    """The last line of defence."""

    @pytest.mark.parametrize(
        "key",
        [
            *("api_key", "apiKey", "OPENROUTER-API-KEY", "token", "accessToken", "client_secret", "Authorization"),
            *("password", "secret", "jwt", "Set-Cookie", "private_key"),
        ],
    )
    def test_hides_what_a_name_gives_away(self, key: str) -> None:
        """The value beside a secret's name is hidden, however deep it is."""
        event = redact_event(None, "info", {"event": "e", key: "hush", "deep": [{"er": {key: ["hush"]}}]})
        assert "hush" not in json.dumps(event)

    @pytest.mark.parametrize(
        ("text", "clean"),
        [
            ("key sk-or-v1-0123456789abcdef failed", f"key {REDACTED} failed"),
            (f"token is {JWT}.", f"token is {REDACTED}."),
            ("Authorization: Bearer abc-def", f"Authorization: {REDACTED} {REDACTED}"),
            ("sent bearer abc", f"sent bearer {REDACTED}"),
            ("Authorization: Basic dTpw", f"Authorization: {REDACTED} {REDACTED}"),
            ("postgresql://me:p@ss:w@rd@db.example/x", f"postgresql://me:{REDACTED}@db.example/x"),
            ("http://:pw@proxy:3128", f"http://:{REDACTED}@proxy:3128"),
            ('{"clientSecret": "a \\" b", "n": 1}', f'{{"clientSecret": {REDACTED}, "n": 1}}'),
            ("Holder(api_key='hush hush')", f"Holder(api_key={REDACTED})"),
            ("GET /x?token=hush&page=2", f"GET /x?token={REDACTED}&page=2"),
            ("token: hunter2, secret: correcthorsebattery", f"token: {REDACTED}, secret: {REDACTED}"),
            (
                "password: swordfish; token:plain; jwt='plain'",
                f"password: {REDACTED}; token:{REDACTED}; jwt={REDACTED}",
            ),
            ("sealed:k1:QUJDREVGR0hJSktMTU5PUA==", f"sealed:k1:{REDACTED}"),
        ],
    )
    def test_hides_what_its_form_gives_away(self, text: str, clean: str) -> None:
        """Keys, tokens, headers and passwords in running text are replaced, and only they."""
        assert redact_text(text) == clean

    @pytest.mark.parametrize(
        "text",
        [
            "Your token has expired. Please re-authenticate.",
            "https://us.infisical.com:443/api/v1/app-connections",
            "Access denied due to expired client secret",
            "2026-11-01T10:00:00Z took 1.5 s: ok",
            "task-force, risk-free",
            "Failed to verify the service account token: connect ECONNREFUSED 10.0.0.1:6443",
            "Kubernetes refused the reviewer JWT: Unauthorized",
            "invalid token: ECONNREFUSED, jwt: expired. Token: 503",
            "Could not check jwt: 10.96.0.1:443 refused the connection",
        ],
    )
    def test_leaves_what_is_harmless(self, text: str) -> None:
        """Text that an operator needs stays readable."""
        assert redact_text(text) == text

    def test_leaves_numbers_beside_a_secrets_name(self) -> None:
        """Counts and times are no secrets."""
        assert redact_event(None, "info", {"event": "e", "token_expires_in": 7}) == {
            "event": "e",
            "token_expires_in": 7,
        }

    def test_hides_what_an_object_shows_of_itself(self) -> None:
        """An object's own text is searched too."""
        assert "hush" not in json.dumps(redact_event(None, "info", {"event": "e", "holder": Holder("hush")}))

    @given(
        secret=st.from_regex(
            r"sk-or-v1-[a-f0-9]{16,64}|eyJ[A-Za-z0-9_-]{8,40}\.[A-Za-z0-9_-]{8,40}\.[A-Za-z0-9_-]{8,40}", fullmatch=True
        ),
        before=st.text(st.characters(exclude_categories=["L", "N", "Cs"], exclude_characters="_-")),
        after=st.text(st.characters(exclude_categories=["Cs"])),
        way=st.sampled_from(["text", "key", "list", "nested", "exception", "bytes", "object", "event"]),
    )
    def test_lets_no_planted_secret_through(self, secret: str, before: str, after: str, way: str) -> None:
        """Wherever a secret is planted in an event, it is not written."""
        log, out = started("debug")
        text = f"{before}{secret}{' ' + after if after else ''}"
        fields: dict[str, dict[str, object]] = {
            "text": {"note": text},
            "key": {"note": {text: 1}},
            "list": {"note": [(text,), {text}]},
            "nested": {"note": {"a": {"b": [{"c": text}]}}},
            "exception": {"exc_info": ValueError(text)},
            "bytes": {"note": text.encode()},
            "object": {"note": Holder(text)},
            "event": {},
        }
        log.info(text if way == "event" else "planted", **fields[way])
        assert len(events(out)) == 1
        assert secret not in out.getvalue()

    @given(
        secret=st.text(st.characters(codec="utf-8"), min_size=12),
        name=st.sampled_from(["password", "clientSecret", "x-api-key"]),
    )
    def test_lets_nothing_through_beside_a_secrets_name(self, secret: str, name: str) -> None:
        """Beside a secret's name any text is hidden."""
        log, out = started()
        log.info("planted", fields={name: secret, "more": [{name: [secret]}]})
        assert events(out)[0]["fields"] == {name: REDACTED, "more": [{name: REDACTED}]}
