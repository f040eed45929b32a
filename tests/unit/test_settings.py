"""Where settings come from, and which source wins."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.core.secret import SecretLocation
from provisioner.settings import (
    RateLimit,
    Secret,
    Settings,
    SettingsError,
    load_settings,
)

PROOFS = ("client_id", "client_secret", "token", "identity_id", "jwt", "jwt_file")
SOMEBODY = "0e1ad8a2-6c5b-4c3f-9d0c-0a3d0f1a7f11"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a directory without settings."""
    return tmp_path


def load(cwd: Path, toml: str = "", environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Load with this file in its usual place, these variables and this command line."""
    if toml:
        (cwd / "config").mkdir(exist_ok=True)
        (cwd / "config/provisioner.toml").write_text(toml)
    return load_settings(cwd=cwd, environ=environ or {}, overrides=overrides)


class TestDefaults:
    """The defaults."""

    def test_are_those_of_the_documentation(self, here: Path) -> None:
        """The defaults are the documented ones, and each says that it is one."""
        settings = load(here)
        assert settings.database.url is None
        assert (settings.retry.max_attempts, settings.retry.base, settings.retry.cap) == (8, 2.0, 300.0)
        assert (settings.worker.lease, settings.worker.grace, settings.worker.poll) == (30.0, 45.0, 1.0)
        assert (settings.worker.name, settings.worker.keep_attempts) == (None, 30)
        assert settings.listen.endpoint == ("127.0.0.1", 9464)
        assert settings.sealing.key_file == Path.home() / ".config/provisioner/sealing.keys"
        assert (settings.log.level, settings.log.format) == ("info", "auto")
        assert set(settings.sources().values()) == {"default"}

    def test_have_one_target_and_one_credential(self, here: Path) -> None:
        """The target and the credential named `default` exist without being configured."""
        settings = load(here)
        target = settings.targets["default"]
        assert (target.url, target.auth, target.max_in_flight) == ("https://us.infisical.com", "universal", "auto")
        assert (target.write_limit, target.timeout, target.allow_http) == ("auto", 105.0, False)
        assert settings.credentials["default"].env == "OPENROUTER_PROVISIONING_KEY"

    def test_have_no_default_target_if_only_others_are_set(self, here: Path) -> None:
        """Whoever names all targets need not log in to one more; any value for `default` brings it back."""
        others = '[targets.eu]\nurl = "https://eu.infisical.com"\n'
        assert set(load(here, others).targets) == {"eu"}
        assert set(load(here, others, {"INFISICAL_TOKEN": "t"}).targets) == {"eu", "default"}
        assert set(load(here, others + "[targets.default]\nmax_in_flight = 4").targets) == {"eu", "default"}


class TestPrecedence:
    """Command line over environment over the ecosystem's variables over file over defaults."""

    def test_each_source_beats_the_next(self, here: Path) -> None:
        """Taking the highest source away each time uncovers the next one, and each value names its source."""
        toml = '[targets.default]\nurl = "https://file.example"'
        environ = {"INFISICAL_HOST": "https://eco.example"}
        own = environ | {"PROVISIONER_TARGETS__DEFAULT__URL": "https://own.example"}
        override = {"default": {"url": "https://line.example"}}
        for settings, url, source in (
            (load(here, toml, own, targets=override), "https://line.example", "command line"),
            (load(here, toml, own), "https://own.example", "environment PROVISIONER_TARGETS__DEFAULT__URL"),
            (load(here, toml, environ), "https://eco.example", "environment INFISICAL_HOST"),
            (load(here, toml), "https://file.example", "file config/provisioner.toml"),
        ):
            assert settings.targets["default"].url == url
            assert settings.sources()["targets.default.url"] == source

    def test_sources_are_merged_value_by_value(self, here: Path) -> None:
        """A source that sets one value leaves the others to lower sources."""
        settings = load(here, "[retry]\nbase = 3\ncap = 9", {"PROVISIONER_RETRY__BASE": "4"}, retry={"max_attempts": 2})
        assert (settings.retry.max_attempts, settings.retry.base, settings.retry.cap) == (2, 4.0, 9.0)

    def test_what_the_command_line_leaves_open_is_not_set(self, here: Path) -> None:
        """An option that was not given is None, and sets nothing."""
        assert load(here, listen={"address": None}).sources()["listen.address"] == "default"

    def test_an_empty_variable_is_not_set(self, here: Path) -> None:
        """`X=` in a compose file means nothing."""
        settings = load(here, "[log]\nlevel = 'error'", {"PROVISIONER_LOG__LEVEL": "", "INFISICAL_HOST": ""})
        assert settings.log.level == "error"
        assert settings.targets["default"].url == "https://us.infisical.com"

    def test_a_credential_is_replaced_whole(self, here: Path) -> None:
        """Placing a credential elsewhere in a higher source forgets the place that a lower one names."""
        toml = '[credentials.default]\nfile = "/run/key"\n[credentials.team-a]\nenv = "A"'
        settings = load(here, toml, {"OPENROUTER_PROVISIONING_KEY": "k", "PROVISIONER_CREDENTIALS__TEAM_A__FILE": "/a"})
        assert settings.credentials["default"].env == "OPENROUTER_PROVISIONING_KEY"
        assert settings.credentials["default"].file is None
        assert (settings.credentials["team-a"].env, settings.credentials["team-a"].file) == (None, Path("/a"))

    def test_the_database_url_has_three_names(self, here: Path) -> None:
        """PROVISIONER_DATABASE_URL, its long form, and below them DATABASE_URL."""
        for name in ("PROVISIONER_DATABASE_URL", "PROVISIONER_DATABASE__URL", "DATABASE_URL"):
            settings = load(here, environ={"DATABASE_URL": "postgres://low/x", name: "postgresql://high/x"})
            assert settings.database_url() == Secret("postgresql://high/x")
            assert settings.sources()["database.url"] == f"environment {name}"


class TestFile:
    """Which file is read."""

    def test_the_command_line_names_it_before_the_environment(self, here: Path) -> None:
        """--config beats PROVISIONER_CONFIG beats the usual place; paths are relative to the working directory."""
        load(here, "[retry]\nmax_attempts = 1")
        (here / "two.toml").write_text("[retry]\nmax_attempts = 2")
        (here / "three.toml").write_text("[retry]\nmax_attempts = 3")
        environ = {"PROVISIONER_CONFIG": "two.toml"}
        assert load_settings(cwd=here, environ={}).retry.max_attempts == 1
        assert load_settings(cwd=here, environ=environ).retry.max_attempts == 2
        settings = load_settings(cwd=here, environ=environ, config=here / "three.toml")
        assert settings.retry.max_attempts == 3
        assert settings.sources()["retry.max_attempts"] == f"file {here / 'three.toml'}"


class TestNames:
    """Names of targets and credentials."""

    def test_are_compared_without_case_and_underscores(self, here: Path) -> None:
        """One target, however its name is written."""
        settings = load(
            here, '[targets.EU_West]\nurl = "https://a"', {"PROVISIONER_TARGETS__EU_WEST__MAX_IN_FLIGHT": "7"}
        )
        assert set(settings.targets) == {"eu-west"}
        assert (settings.targets["eu-west"].url, settings.targets["eu-west"].max_in_flight) == ("https://a", 7)

    def test_credentials_can_be_infisical_secrets(self, here: Path) -> None:
        """An Infisical secret is written flat or as a table; its folder is the root unless said."""
        flat = '[credentials.a]\nproject = "p"\nenvironment = "prod"\nsecret = "KEY"\n'
        table = '[credentials.b.infisical]\nproject = "p"\nenvironment = "prod"\npath = "/x"\nsecret = "KEY"'
        settings = load(here, flat + table, {"PROVISIONER_CREDENTIALS__B__INFISICAL__SECRET": "OTHER"})
        expected = SecretLocation(project="p", environment="prod", path="/", name="KEY")
        assert (settings.credentials["a"].place, settings.credentials["a"].kept) == (expected, 300.0)
        assert settings.credentials["b"].place == replace(expected, path="/x", name="OTHER")
        assert settings.credentials["default"].place is None

    def test_a_credential_may_come_from_another_target(self, here: Path) -> None:
        """Which target and for how long is said in the settings; a target that is not configured is named."""
        secret = (
            '[credentials.a]\nproject = "p"\nenvironment = "prod"\nsecret = "KEY"\ntarget = "EU_West"\ncache = 60\n'
        )
        found = load(here, secret + '[targets.eu-west]\nurl = "https://a"', {}).credentials["a"]
        assert (found.target, found.kept) == ("eu-west", 60.0)
        with pytest.raises(SettingsError, match=r"\[credentials.a\] target in .* has to be one of: default$"):
            load(here, secret, {})

    def test_discovery_asks_a_target_that_is_configured(self, here: Path) -> None:
        """A target that nobody configured would be asked by no worker, without a word."""
        toml = '[targets.eu]\nurl = "https://eu.infisical.com"\n[discover]\nevery = "1h"\n'
        with pytest.raises(SettingsError, match=r"discover.target has to be one of: eu$"):
            load(here, toml)
        assert load(here, toml + 'target = "eu"').discover.target == "eu"


class TestSecretFiles:
    """Every secret can be in a file."""

    @pytest.mark.parametrize(
        "name", ["PROVISIONER_TARGETS__DEFAULT__CLIENT_SECRET", "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET"]
    )
    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_are_read_without_what_stands_around_them(self, here: Path, name: str, end: str) -> None:
        """The value is the file's text, without the line break and the mark that editors leave."""
        (here / "secret").write_bytes(f"\ufeff hush {end}".encode())
        settings = load(here, environ={f"{name}_FILE": "secret"})
        assert settings.targets["default"].client_secret == Secret("hush")
        assert settings.sources()["targets.default.client_secret"] == f"environment {name}_FILE"

    @pytest.mark.parametrize("name", ["PROVISIONER_DATABASE_URL", "PROVISIONER_DATABASE__URL", "DATABASE_URL"])
    def test_hold_the_database_url(self, here: Path, name: str) -> None:
        """The database's URL too, by each of its names."""
        (here / "url").write_text("postgresql://u:p@h/d\n")
        assert load(here, environ={f"{name}_FILE": str(here / "url")}).database_url().reveal() == "postgresql://u:p@h/d"

    def test_can_be_named_in_the_settings_file(self, here: Path) -> None:
        """The settings file has the same names."""
        (here / "token").write_text("hush\n")
        assert load(here, '[targets.default]\ntoken_file = "token"').targets["default"].token == Secret("hush")

    def test_of_a_credential_are_read_when_needed(self, here: Path) -> None:
        """OPENROUTER_PROVISIONING_KEY_FILE names the place of the default credential, which need not be there yet."""
        settings = load(here, environ={"OPENROUTER_PROVISIONING_KEY_FILE": "/not/yet"})
        assert settings.credentials["default"].file == Path("/not/yet")
        assert settings.credentials["default"].env is None


class TestIdentity:
    """How a worker logs in."""

    @pytest.mark.parametrize(
        ("environ", "auth", "values"),
        [
            (
                {"INFISICAL_TOKEN": "t", "INFISICAL_MACHINE_IDENTITY_ID": SOMEBODY},
                "token",
                {"token": Secret("t"), "identity_id": SOMEBODY},
            ),
            (
                {"INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": "c", "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": "s"},
                "universal",
                {"client_id": "c", "client_secret": Secret("s")},
            ),
            (
                {"INFISICAL_KUBERNETES_SERVICE_ACCOUNT_TOKEN_PATH": "/t", "INFISICAL_MACHINE_IDENTITY_ID": SOMEBODY},
                "kubernetes",
                {"identity_id": SOMEBODY, "jwt_file": Path("/t")},
            ),
            (
                {"INFISICAL_AUTH_JWT": "j", "INFISICAL_MACHINE_IDENTITY_ID": SOMEBODY},
                "oidc",
                {"identity_id": SOMEBODY, "jwt": Secret("j")},
            ),
            (
                {"PROVISIONER_TARGETS__DEFAULT__AUTH": "kubernetes", "INFISICAL_MACHINE_IDENTITY_ID": SOMEBODY},
                "kubernetes",
                {
                    "identity_id": SOMEBODY,
                    "jwt_file": Path("/var/run/secrets/kubernetes.io/serviceaccount/token"),
                },
            ),
        ],
    )
    def test_is_what_the_given_values_are_for(
        self, here: Path, environ: dict[str, str], auth: str, values: dict[str, object]
    ) -> None:
        """Infisical's own variables are enough; how to log in follows from them."""
        login = load(here, environ=environ).login()
        assert login.auth == auth
        assert {name: one for name in PROOFS if (one := getattr(login, name)) is not None} == values

    def test_of_a_higher_source_wins(self, here: Path) -> None:
        """A token in the environment beats the file's word that login is universal."""
        settings = load(here, '[targets.default]\nauth = "universal"\nclient_id = "c"', {"INFISICAL_TOKEN": "t"})
        assert (settings.login("DEFAULT").auth, settings.login("DEFAULT").token) == ("token", Secret("t"))
        assert settings.sources()["targets.default.auth"] == "environment INFISICAL_TOKEN"

    def test_obeys_a_word_that_fits(self, here: Path) -> None:
        """A token file serves for two ways; the file's word decides between them."""
        toml = f'[targets.eu]\nurl = "https://a"\nauth = "oidc"\nidentity_id = "{SOMEBODY}"'
        settings = load(here, toml, {"PROVISIONER_TARGETS__EU__JWT_FILE": "/t"})
        login = settings.login("eu")
        assert (login.auth, login.identity_id, login.jwt_file) == ("oidc", SOMEBODY, Path("/t"))

    @pytest.mark.parametrize(
        ("auth", "named"),
        [
            ("universal", ["INFISICAL_UNIVERSAL_AUTH_CLIENT_ID", "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET"]),
            ("token", ["INFISICAL_TOKEN", "PROVISIONER_TARGETS__DEFAULT__TOKEN"]),
            ("kubernetes", ["INFISICAL_MACHINE_IDENTITY_ID"]),
            ("oidc", ["INFISICAL_MACHINE_IDENTITY_ID", "INFISICAL_AUTH_JWT"]),
        ],
    )
    def test_names_what_is_missing(self, here: Path, auth: str, named: list[str]) -> None:
        """Loading works without an identity; asking for one says which variables to set."""
        settings = load(here, environ={"PROVISIONER_TARGETS__DEFAULT__AUTH": auth})
        with pytest.raises(SettingsError) as error:
            settings.login()
        assert all(name in str(error.value) for name in named)

    def test_of_an_unknown_target_is_an_error(self, here: Path) -> None:
        """Asking for a target that is not configured says how to configure it."""
        with pytest.raises(SettingsError, match="no target eu-west: set PROVISIONER_TARGETS__EU_WEST__URL"):
            load(here).login("eu_west")


def test_a_missing_database_url_is_named(here: Path) -> None:
    """Loading works without a database; asking for it names every way to set it."""
    with pytest.raises(SettingsError, match=r"PROVISIONER_DATABASE_URL or DATABASE_URL, or \[database\] url"):
        load(here).database_url()


def test_settings_do_not_change(here: Path) -> None:
    """Settings are values: frozen, and equal to their copy."""
    settings = load(here, environ={"INFISICAL_TOKEN": "t", "PROVISIONER_TARGETS__DEFAULT__WRITE_LIMIT": "200/min"})
    with pytest.raises(ValueError, match="frozen"):
        settings.retry.base = 1.0
    assert copy.deepcopy(settings) == settings
    assert copy.deepcopy(settings).sources() == settings.sources()
    assert settings.targets["default"].write_limit == RateLimit(200, 60.0)
