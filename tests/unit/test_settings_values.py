"""The kinds of value that a setting can have."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from provisioner.settings import RateLimit, SettingsError, load_settings
from provisioner.settings.values import parse_limit


def target(**values: object) -> dict[str, object]:
    """Load the default target with these values, and return the result."""
    loaded = load_settings(cwd=Path("/nonexistent"), environ={}, overrides={"targets": {"default": values}})
    return {name: getattr(loaded.targets["default"], name) for name in values}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("auto", "auto"),
        (" None ", "none"),
        ("200/min", RateLimit(200, 60.0)),
        ("5/s", RateLimit(5, 1.0)),
        ("20/10s", RateLimit(20, 10.0)),
        ("90 / 2 min", RateLimit(90, 120.0)),
        ("1000/h", RateLimit(1000, 3600.0)),
        (RateLimit(1, 2.0), RateLimit(1, 2.0)),
    ],
)
def test_limits_are_read(text: object, limit: object) -> None:
    """A limit is auto, none, or a number of calls in a window of seconds, minutes or hours."""
    assert target(write_limit=text, read_limit=text, login_limit=text) == dict.fromkeys(
        ["write_limit", "read_limit", "login_limit"], limit
    )


@pytest.mark.parametrize("text", ["", "200", "0/s", "5/0s", "-1/s", "1/d", "1.5/s", "٣/s", "1/s1", 5, None])
def test_other_limits_are_refused(text: object) -> None:
    """An invalid limit is refused."""
    with pytest.raises(ValueError, match="auto"):
        parse_limit(text)


@given(st.integers(1, 9_999_999), st.integers(1, 99_999))
def test_limits_are_written_as_they_are_read(permits: int, seconds: int) -> None:
    """A limit's text means the same limit."""
    limit = RateLimit(permits, float(seconds))
    assert parse_limit(str(limit)) == limit


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://eu.infisical.com", "https://eu.infisical.com"),
        ("https://eu.infisical.com/", "https://eu.infisical.com"),
        ("https://eu.infisical.com/api/", "https://eu.infisical.com"),
        ("https://example.com:8443/infisical/api", "https://example.com:8443/infisical"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.2", "http://127.0.0.2"),
        ("http://[::1]:80/", "http://[::1]"),
        ("HTTPS://EU.Infisical.com:443/api", "https://eu.infisical.com"),
    ],
)
def test_base_urls_lose_what_is_added_later(url: str, base: str) -> None:
    """A base URL is kept without its last slash and `/api`; plain http is for this machine."""
    assert target(url=url) == {"url": base}


@pytest.mark.parametrize("host", ["10.0.0.1", "infisical.example", "localhost.example", "[fe80::1]"])
def test_plain_http_is_for_this_machine(host: str) -> None:
    """Another host is spoken to without encryption only when that is allowed."""
    with pytest.raises(SettingsError, match="allow_http"):
        target(url=f"http://{host}")
    assert target(url=f"http://{host}", allow_http=True)["url"] == f"http://{host}"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "us.infisical.com",
            "ftp://x",
            "https://",
            "https://u:planted@x",
            "https://u@x",
            "https://x?a=b",
            "https://x#f",
        ),
        *(
            "https://x?",
            "https://x:0",
            "https://x:99999",
            "https://x:a",
            "https://[::1",
            "https://x\n.y",
            "https://x y",
        ),
        "https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.de",
    ],
)
def test_other_base_urls_are_refused(url: str) -> None:
    """An invalid base URL is refused and not repeated, because it may contain a password."""
    with pytest.raises(SettingsError, match=r"must be a (plain base )?URL") as error:
        target(url=url)
    assert "planted" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("off", None),
        ("OFF", None),
        ("0.0.0.0:80", ("0.0.0.0", 80)),  # noqa: S104  # an address that people give
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_the_address_is_host_and_port_or_off(text: str, endpoint: tuple[str, int] | None) -> None:
    """The status page listens on a host's port, or not at all."""
    loaded = load_settings(cwd=Path("/nonexistent"), environ={}, overrides={"listen": {"address": text}})
    assert loaded.listen.endpoint == endpoint


def test_files_that_must_be_there_are_found(tmp_path: Path) -> None:
    """An existing CA file is accepted."""
    (tmp_path / "ca.pem").touch()
    assert target(ca_file=str(tmp_path / "ca.pem")) == {"ca_file": tmp_path / "ca.pem"}


class TestNotify:
    """The receiver of notices, and the selected events."""

    @pytest.mark.parametrize("events", ["recovered, Batch_Finished", ["recovered", "batch_finished"]])
    def test_events_are_a_list_or_a_text(self, events: object) -> None:
        """Both ways to write several mean the same."""
        settings = load_settings(environ={}, overrides={"notify": {"events": events}})
        assert settings.notify.told == ("recovered", "batch_finished")

    @pytest.mark.parametrize("events", ["", "finished", [1], []])
    def test_another_event_is_refused(self, events: object) -> None:
        """The error says which there are."""
        with pytest.raises(SettingsError, match="one or more of batch_finished, needs_attention, recovered"):
            load_settings(environ={}, overrides={"notify": {"events": events}})

    def test_the_url_is_safe(self) -> None:
        """Plain HTTP only stays on this machine, unless somebody says otherwise."""
        url = "PROVISIONER_NOTIFY__URL"
        assert load_settings(environ={url: "http://127.0.0.1:1/x"}).notify.url
        with pytest.raises(SettingsError, match="must begin with https://") as refused:
            load_settings(environ={url: "http://ops.example/planted"})
        assert "planted" not in str(refused.value)
        assert load_settings(environ={url: "http://ops.example/x", "PROVISIONER_NOTIFY__ALLOW_HTTP": "true"}).notify.url

    def test_the_proxy_of_the_environment_is_used(self) -> None:
        """As for a target, and not for this machine."""
        environ = {"PROVISIONER_NOTIFY__URL": "https://ops.example/x", "HTTPS_PROXY": "http://proxy:3128"}
        proxy = load_settings(environ=environ).notify.proxy
        assert proxy is not None
        assert proxy.reveal() == "http://proxy:3128"
        assert load_settings(environ={**environ, "NO_PROXY": "ops.example"}).notify.proxy is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("off", None), ("1d", 86400.0), ("12 h", 43200.0), ("30min", 1800.0), ("OFF", None)]
)
def test_a_period_is_a_time(text: str, seconds: float | None) -> None:
    """How often everything is verified is written as people say it."""
    assert load_settings(environ={"PROVISIONER_VERIFY__EVERY": text}).verify.seconds == seconds


@pytest.mark.parametrize("text", ["0d", "1", "1w", "-1d", "1.5h", "99999d"])
def test_another_period_is_refused(text: str) -> None:
    """An invalid time is refused with an example."""
    with pytest.raises(SettingsError, match='must be "off", or a time such as "1d"'):
        load_settings(environ={"PROVISIONER_VERIFY__EVERY": text})
