"""The settings are documented by themselves."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import typer
from hypothesis import given, strategies as st
from typer.testing import CliRunner

from provisioner.cli.setup.settings import settings as command
from provisioner.core.secret import MASK, Secret
from provisioner.settings import RateLimit, load_settings
from provisioner.settings.shape import dotted, field_of, in_file, paths, settings_table
from provisioner.settings.values import displayed, shown

EXAMPLE = Path(__file__).parents[2] / "config/provisioner.toml"
ENVIRON = {
    "PROVISIONER_DATABASE_URL": "postgresql://me:planted@h/d",
    "INFISICAL_TOKEN": "planted",
    "PROVISIONER_TARGETS__DEFAULT__PROXY": "http://me:planted@proxy:1",
    "PROVISIONER_TARGETS__EU__URL": "https://eu.example",
    "PROVISIONER_CREDENTIALS__A__VALUE": "planted",
}


def uncommented(folder: Path) -> str:
    """Return the example with every setting in force; the files that must be there are."""
    text = "\n".join(line.removeprefix("#") for line in EXAMPLE.read_text().splitlines() if not line.startswith("# "))
    (folder / "ca.pem").touch()
    return re.sub(r'"[^"]*\.pem"', f'"{folder}/ca.pem"', text)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """Return a function that runs the command in a directory without settings."""
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    return CliRunner()


def application() -> typer.Typer:
    """Return a program with this one command."""
    app = typer.Typer()
    app.command()(command)
    return app


class TestTable:
    """The table for the README."""

    def test_has_every_setting_with_its_meaning(self) -> None:
        """Each setting is a row with its default and its description."""
        rows = [line.split(" | ") for line in settings_table().splitlines()[2:]]
        assert [row[0] for row in rows] == [f"| `{dotted(path)}`" for path in paths()]
        assert all(len(row) == 3 and len(row[2]) > 10 and "None" not in row[2] for row in rows)

    def test_tells_the_defaults(self) -> None:
        """Defaults are written as a user would write them, and secrets are marked."""
        table = settings_table()
        assert "| `retry.base` | `2.0` | seconds" in table
        assert "| `targets.<name>.allow_http` | `false` |" in table
        assert "| `sealing.key_file` | `~/.config/provisioner/sealing.keys` |" in table
        assert [line.split("`")[1] for line in table.splitlines() if line.endswith("(secret) |")] == [
            "database.url",
            "targets.<name>.client_secret",
            "targets.<name>.token",
            "targets.<name>.jwt",
            "targets.<name>.proxy",
            "credentials.<name>.value",
            "openrouter.proxy",
            "notify.url",
            "notify.signing_key",
            "notify.proxy",
        ]


class TestExample:
    """The example file."""

    def test_changes_nothing_as_it_is(self) -> None:
        """The settings file in the repository sets nothing."""
        assert set(load_settings(config=EXAMPLE, environ={}).sources().values()) == {"default"}

    def test_names_every_setting_and_its_default(self, tmp_path: Path) -> None:
        """Every setting is in it, with its default, or an example if there is none."""
        content = tomllib.loads(uncommented(tmp_path))
        for path in paths(("default",)):
            section = content[path[0]]
            places = list(section.values()) if path[0] in {"targets", "credentials"} else [section]
            given_values = [place[path[-1]] for place in places if path[-1] in place]
            assert given_values, in_file(path)
            field = field_of(path)
            assert field is not None
            if not field.is_required() and field.default is not None:
                assert given_values == [shown(field.default)], in_file(path)

    def test_works_with_all_of_it_in_force(self, tmp_path: Path) -> None:
        """The file without its comment signs loads."""
        (tmp_path / "all.toml").write_text(uncommented(tmp_path))
        settings = load_settings(config=tmp_path / "all.toml", environ={})
        assert set(settings.credentials) == {"default", "team-a", "team-b", "team-c"}
        assert settings.sources()["worker.name"].startswith("file ")


class TestCommand:
    """`provisioner settings`."""

    def test_shows_values_and_sources_but_no_secret(self, run: CliRunner) -> None:
        """Each setting in force is a line with its value and its source; secrets are masked."""
        result = run.invoke(application(), [])
        assert result.exit_code == 0
        lines = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line}
        assert "planted" not in result.output
        assert lines["database.url"] == ["database.url", MASK, "environment", "PROVISIONER_DATABASE_URL"]
        assert lines["targets.default.token"][1] == MASK
        assert lines["targets.eu.url"][1] == "https://eu.example"
        assert lines["targets.eu.proxy"][1:] == ["\N{EN DASH}", "default"]
        assert lines["retry.base"][1:] == ["2.0", "default"]

    def test_prints_json_for_programs(self, run: CliRunner, tmp_path: Path) -> None:
        """--json has the same, with values of their own types; --config names the file."""
        (tmp_path / "mine.toml").write_text("[targets.default]\nmarker = true\nwrite_limit = '200/min'")
        result = run.invoke(application(), ["--json", "--config", "mine.toml"])
        document = json.loads(result.stdout)
        assert "planted" not in result.output
        assert document["targets.default.marker"] == {"value": True, "source": "file mine.toml"}
        assert document["targets.default.write_limit"]["value"] == "200/min"
        assert document["credentials.a.value"] == {
            "value": MASK,
            "source": "environment PROVISIONER_CREDENTIALS__A__VALUE",
        }
        assert document["worker.name"] == {"value": None, "source": "default"}
        assert list(document) == list(load_settings(config=tmp_path / "mine.toml").sources())


@given(st.text(min_size=6))
def test_a_secret_is_never_displayed(text: str) -> None:
    """A secret is shown in the same way everywhere."""
    assert (shown(Secret(text)), displayed(Secret(text))) == (MASK, MASK)


def test_every_kind_of_value_can_be_displayed() -> None:
    """Values are shown in the form in which they are set."""
    values = [True, 2.5, 7, "x", None, Path("/x"), RateLimit(5, 1.0)]
    assert [displayed(value) for value in values] == ["true", "2.5", "7", "x", "\N{EN DASH}", "/x", "5/s"]
    with pytest.raises(TypeError):
        shown(object())
