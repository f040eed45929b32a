"""An error of the settings is one line that names the setting and shows no secret."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from provisioner.settings import SettingsError, load_settings
from provisioner.settings.shape import dotted, paths, variable

NOWHERE = Path("/nonexistent")


def problem(environ: Mapping[str, str] | None = None, **overrides: object) -> str:
    """Return the error message of loading."""
    with pytest.raises(SettingsError) as error:
        load_settings(cwd=NOWHERE, environ=environ or {}, overrides=overrides)
    return str(error.value)


def problem_in_file(folder: Path, content: str | bytes) -> str:
    """Return the error message of loading this settings file."""
    path = folder / "s.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as error:
        load_settings(config=path, environ={})
    return str(error.value).replace(str(path), "s.toml")


class TestUnknown:
    """Names that are not settings."""

    @pytest.mark.parametrize(
        ("given_name", "meant"),
        [
            ("PROVISIONER_RETRY__MAX_ATEMPTS", "PROVISIONER_RETRY__MAX_ATTEMPTS"),
            ("PROVISIONER_RETRY_BASE", "PROVISIONER_RETRY__BASE"),
            ("PROVISIONER_TARGETS__EU__MAX_INFLIGHT", "PROVISIONER_TARGETS__EU__MAX_IN_FLIGHT"),
            ("PROVISIONER_TARGETS__URL", "PROVISIONER_TARGETS__DEFAULT__URL"),
            ("PROVISIONER_CREDENTIALS__TEAM_A__ENVI", "PROVISIONER_CREDENTIALS__TEAM_A__ENV"),
            ("PROVISIONER_DATABASE_URLFILE", "PROVISIONER_DATABASE_URL_FILE"),
            ("PROVISIONER_CONFG", "PROVISIONER_CONFIG"),
            ("PROVISIONER_RETRY__BASE_FILE", "PROVISIONER_RETRY__BASE"),
        ],
    )
    def test_variable_is_named_with_the_nearest(self, given_name: str, meant: str) -> None:
        """A misspelt variable is named, and the one that was meant, also when it is empty."""
        for value in ("1", ""):
            assert problem({given_name: value}) == f"{given_name} is not a setting; did you mean {meant}?"

    @pytest.mark.parametrize(
        ("toml", "named", "meant"),
        [
            ("[retry]\nmax_atempts = 1", "[retry] max_atempts", "[retry] max_attempts"),
            ("[retri]\nbase = 1", "[retri] base", "[retry] base"),
            ('[targets.eu]\nurll = "x"', "[targets.eu] urll", "[targets.eu] url"),
            ("max_attempts = 1", "max_attempts", "[retry] max_attempts"),
            ("[targets.default.timeout]\nread = 1", "[targets.default.timeout] read", "[targets.default] timeout"),
        ],
    )
    def test_key_of_the_file_is_named_with_the_nearest(self, tmp_path: Path, toml: str, named: str, meant: str) -> None:
        """A misspelt key is named as the file has it, and the one that was meant."""
        assert problem_in_file(tmp_path, toml) == f"{named} in s.toml is not a setting; did you mean {meant}?"

    def test_option_is_named(self) -> None:
        """Settings on the command line are checked in the same way."""
        assert problem(listen={"adress": "off"}).startswith("listen.adress on the command line is not a setting")

    def test_variables_that_kubernetes_sets_are_no_settings(self) -> None:
        """A Kubernetes service called `provisioner` does no harm."""
        tcp = "PROVISIONER_PORT_9464_TCP"
        names = ["PROVISIONER_SERVICE_HOST", "PROVISIONER_SERVICE_PORT_METRICS", "PROVISIONER_PORT", tcp, f"{tcp}_ADDR"]
        assert set(load_settings(cwd=NOWHERE, environ=dict.fromkeys(names, "x")).sources().values()) == {"default"}

    def test_empty_section_of_no_use_is_named(self, tmp_path: Path) -> None:
        """A target without any setting is a mistake; an empty section is none."""
        assert problem_in_file(tmp_path, "[retry]\n[targets.default]\n[targets.eu]") == (
            "[targets.eu] in s.toml is empty; give it a setting or remove it"
        )


class TestUnreadable:
    """Files that cannot be read."""

    def test_file_that_was_asked_for_is_named(self) -> None:
        """A settings file that is not there is an error when somebody named it."""
        assert problem({"PROVISIONER_CONFIG": "/no/such"}).startswith(
            "PROVISIONER_CONFIG (/no/such) cannot be read: No such"
        )
        with pytest.raises(SettingsError, match=r"^/no/such cannot be read: No such file"):
            load_settings(config=Path("/no/such"), environ={})

    @pytest.mark.parametrize("content", ["[retry", "a = 1\na = 2", b"\xff", "a = " + "[" * 5000, "a = " + "1" * 5000])
    def test_file_that_is_not_toml_is_named(self, tmp_path: Path, content: str | bytes) -> None:
        """Bad TOML is one line with the file's name, however bad it is."""
        text = problem_in_file(tmp_path, content)
        assert text.startswith("s.toml ")
        assert "\n" not in text

    @pytest.mark.parametrize("path", ["/no/such", "/", "planted-4711", "planted\0" * 3, "planted" * 1000])
    def test_secrets_file_is_named_by_its_variable_only(self, path: str) -> None:
        """The message names the variable and not its value, which may be the secret itself."""
        text = problem({"INFISICAL_TOKEN_FILE": path})
        assert text.startswith("INFISICAL_TOKEN_FILE names a file that ")
        assert "planted" not in text

    @pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 100_000, b"two\nlines", b"be\all"])
    def test_secrets_file_of_another_kind_is_refused(self, tmp_path: Path, content: bytes) -> None:
        """Empty files, binaries, whole documents are no secrets."""
        (tmp_path / "secret").write_bytes(content)
        assert problem({"INFISICAL_TOKEN_FILE": str(tmp_path / "secret")}).startswith("INFISICAL_TOKEN_FILE ")


class TestUnusable:
    """Values that cannot be used."""

    @pytest.mark.parametrize(
        ("name", "value", "rule"),
        [
            ("TARGETS__DEFAULT__MAX_IN_FLIGHT", "many", "must be a whole number"),
            ("TARGETS__DEFAULT__MAX_IN_FLIGHT", "0", "must be at least 1"),
            ("TARGETS__DEFAULT__MAX_IN_FLIGHT", "4097", "must be at most 4096"),
            (
                "TARGETS__DEFAULT__TIMEOUT",
                "30",
                "must be more than 30 and at most 120 seconds: Infisical answers within 100 s or not",
            ),
            (
                "TARGETS__DEFAULT__TIMEOUT",
                "121",
                "must be more than 30 and at most 120 seconds: Infisical answers within 100 s or not",
            ),
            ("TARGETS__DEFAULT__TIMEOUT", "nan", "must be a finite number"),
            ("TARGETS__DEFAULT__MARKER", "perhaps", "must be true or false"),
            ("TARGETS__DEFAULT__AUTH", "magic", "must be 'universal', 'token', 'kubernetes' or 'oidc'"),
            ("TARGETS__DEFAULT__WRITE_LIMIT", "lots", 'must be "auto", "none" or a number per time'),
            ("TARGETS__DEFAULT__CA_FILE", "/no/such", "must be the path of an existing file"),
            ("TARGETS__DEFAULT__CA_FILE", "/", "must be the path of an existing file"),
            ("TARGETS__DEFAULT__PROXY", "socks5://x", "must be a URL that begins with https:// or http://"),
            ("DATABASE__URL", "mysql://x", "must begin with postgresql://"),
            ("DATABASE__MAX_CONNECTIONS", "0", "must be at least 1"),
            ("WORKER__LEASE", "4", "must be at least 5"),
            ("WORKER__GRACE", "0.5", "must be at least 1"),
            ("WORKER__NAME", "n" * 201, "must be at most 200 characters"),
            ("WORKER__NAME", "two\nlines", "must be one line of printable text and not empty"),
            ("RETRY__BASE", "0", "must be more than 0"),
            ("LISTEN__ADDRESS", "9464", "must be host:port"),
            ("LISTEN__ADDRESS", "h:65536", "must be host:port"),
            ("CREDENTIALS__A__ENV", "not a name", "must be letters, digits and underscores"),
            ("CREDENTIALS__A__FILE", "a\nb", "must be the path of a file"),
            ("LOG__LEVEL", "loud", "must be 'debug'"),
        ],
    )
    def test_value_is_told_what_it_must_be(self, name: str, value: str, rule: str) -> None:
        """The variable and the rule are named, in one line."""
        text = problem({f"PROVISIONER_{name}": value})
        assert text.startswith(f"PROVISIONER_{name} {rule}")
        assert "\n" not in text

    @pytest.mark.parametrize(
        ("toml", "text"),
        [
            (
                '[targets.Eu]\nmax_in_flight = "x"\nurl = "https://a"',
                "[targets.Eu] max_in_flight in s.toml must be a whole",
            ),
            ("[targets.default]\ntoken = 5", "[targets.default] token in s.toml must be text"),
            ("[targets.default]\nurl = ['a']", "[targets.default] url in s.toml must be text"),
            ("[retry]\nbase = 1" + "0" * 400, "[retry] base in s.toml must be"),
            (
                "[targets.eu]\nmarker = true",
                "targets.eu has no url: set PROVISIONER_TARGETS__EU__URL or [targets.eu] url",
            ),
            ("[targets.'a b']\nmarker = true", "[targets.a b] marker in s.toml names none of the targets"),
            ('[targets."a\\nb"]\nmarker = true', "[targets.a?b] marker in s.toml names none of the targets"),
        ],
    )
    def test_value_of_the_file_is_named_as_it_stands_there(self, tmp_path: Path, toml: str, text: str) -> None:
        """Section, key and file are named the way the user wrote them."""
        assert problem_in_file(tmp_path, toml).startswith(text)

    def test_several_problems_are_all_told(self) -> None:
        """All problems are reported at once."""
        text = problem({"PROVISIONER_LOG__LEVEL": "loud", "PROVISIONER_RETRY__CAP": "x", "INFISICAL_HOST": "h"})
        assert [part.split()[0] for part in text.split("; ")] == [
            "INFISICAL_HOST",
            "PROVISIONER_RETRY__CAP",
            "PROVISIONER_LOG__LEVEL",
        ]

    @pytest.mark.parametrize(
        "names",
        [
            ("PROVISIONER_DATABASE_URL", "PROVISIONER_DATABASE__URL"),
            ("INFISICAL_TOKEN", "INFISICAL_TOKEN_FILE"),
            ("PROVISIONER_TARGETS__A_B__URL", "PROVISIONER_TARGETS__a-b__URL"),
            ("OPENROUTER_PROVISIONING_KEY", "OPENROUTER_PROVISIONING_KEY_FILE"),
        ],
    )
    def test_a_value_is_set_once(self, names: tuple[str, str]) -> None:
        """Two variables of one rank for one value: neither is chosen silently."""
        text = problem(dict.fromkeys(names, "postgresql://planted"))
        assert text == f"{names[1]} sets what {names[0]} sets; keep one of them"


class TestTogether:
    """Settings that contradict each other."""

    @pytest.mark.parametrize(
        ("environ", "text"),
        [
            ({"PROVISIONER_RETRY__CAP": "1"}, "PROVISIONER_RETRY__CAP cannot work: retry.base must not be more"),
            ({"PROVISIONER_RETRY__BASE": "301"}, "PROVISIONER_RETRY__BASE cannot work: retry.base must not be more"),
            ({"PROVISIONER_WORKER__POLL": "15"}, "PROVISIONER_WORKER__POLL cannot work: worker.poll must be less"),
            (
                {"PROVISIONER_CREDENTIALS__A__ENV": "X", "PROVISIONER_CREDENTIALS__A__FILE": "x"},
                "PROVISIONER_CREDENTIALS__A__FILE is not alone",
            ),
            (
                {"PROVISIONER_CREDENTIALS__A__PROJECT": "p"},
                "PROVISIONER_CREDENTIALS__A__PROJECT needs the Infisical secret's environment and secret",
            ),
            (
                {"PROVISIONER_CREDENTIALS__A__PATH": "/"},
                "PROVISIONER_CREDENTIALS__A__PATH needs the Infisical secret's environment and project",
            ),
            ({"INFISICAL_HOST": "http://infisical.example"}, "INFISICAL_HOST must begin with https://"),
        ],
    )
    def test_are_refused(self, environ: dict[str, str], text: str) -> None:
        """The setting that its user can fix is named."""
        assert problem(environ).startswith(text)


def test_a_mistaken_secret_is_not_shown_either() -> None:
    """A key in a variable that holds none is not repeated: no message repeats a value."""
    environ = {variable(*path): "sk-or-planted" for path in paths(("default",)) if path[0] != "credentials"}
    text = problem(environ)
    assert dotted(("targets", "default", "url")) not in text
    assert "planted" not in text


def test_a_usual_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Even the default file is an error if it exists and cannot be read."""
    (tmp_path / "config/provisioner.toml").mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"config/provisioner.toml cannot be read: Is a directory"):
        load_settings(cwd=tmp_path, environ={})
