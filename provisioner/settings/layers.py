"""Where settings come from: the command line, the environment, the ecosystem's own variables, a file, the defaults.

Each becomes a layer that knows how its user wrote every value; what is wrong with a layer is collected in words.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from provisioner.core.key_text import decoded
from provisioner.core.secret import Secret
from provisioner.settings.errors import SHOWN
from provisioner.settings.shape import (
    ECOSYSTEM,
    NAMED,
    OPENROUTER_KEY,
    PREFIX,
    SECTIONS,
    Setting,
    dotted,
    field_of,
    in_file,
    is_secret,
    nearest,
    paths,
    resolve,
    variable,
)
from provisioner.settings.values import normalise_name, same_base

CONFIG_VARIABLE: Final = "PROVISIONER_CONFIG"
DEEPEST: Final = 3  # names of a setting, as in targets.default.url
CONFIG_FILE: Final = Path("config/provisioner.toml")  # read if it is there
DEFAULT_URL: Final = "https://us.infisical.com"
CONFIG_SIZE: Final = 1 << 20  # bytes; a longer file is not a file of settings but a mistake
DEEPEST_KEY: Final = 20  # names joined by dots; the time that tomllib takes grows with their square
SECRET_SIZE: Final = 65536  # bytes; a longer file is not a secret but a mistake

_ALIASES: Final[dict[str, Setting]] = {
    "PROVISIONER_DATABASE_URL": ("database", "url"),
    "PROVISIONER_DATABASE_URL_FILE": ("database", "url_file"),
}
# What TOML is made of, as far as dots go: comments and texts, in which they mean nothing, and keys. What is not closed
# ends with its line or the file, so that each letter is looked at once.
_NAME: Final = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?)"""
_DOT: Final = r"[ \t]*+\.[ \t]*+"
_TOML: Final = re.compile(
    r'#[^\n]*+|"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?|\'\'\'(?:[^\']|\'(?!\'\'))*+(?:\'\'\')?|'
    rf"{_NAME}(?:{_DOT}{_NAME}){{0,{DEEPEST_KEY - 1}}}+(?P<deeper>{_DOT}{_NAME})?",
    re.DOTALL,
)
# Kubernetes tells every pod about a service called "provisioner" in variables with these names.
_KUBERNETES: Final = re.compile(
    r"PROVISIONER_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


@dataclass(frozen=True, slots=True)
class Given:
    """One value, how its user named it, and where it came from; `file` is what a secret was read from."""

    value: object
    name: str
    source: str
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """The values of one source, and what is wrong with it."""

    given: dict[Setting, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, setting: Setting, given: Given, *, base: Path, known: Iterator[str]) -> None:
        """Take a value in, or note why that cannot be; `known` are the names that its user may have meant."""
        found = resolve(setting)
        if found is None:
            # Looking for what was meant takes its time, and only the first problems are told.
            close = nearest(given.name.partition(" in ")[0], known) if len(self.problems) < SHOWN else "another"
            self.problems.append(f"{given.name} is not a setting; did you mean {close}?")
            return
        setting, in_a_file = found
        if setting[0] in NAMED and not NAMED[setting[0]].fullmatch(setting[1]):
            self.problems.append(
                f"{given.name} names none of the {setting[0]}: letters, digits and hyphens make a name"
            )
        elif setting in self.given:
            self.problems.append(f"{given.name} sets what {self.given[setting].name} sets; keep one of them")
        elif in_a_file:
            self._add_file(setting, given, base)
        else:
            self.given[setting] = _sealed(setting, given)

    def _add_file(self, setting: Setting, given: Given, base: Path) -> None:
        # What stands where a path is expected may be the secret itself, so no message repeats it.
        path = base / os.path.expanduser(str(given.value))  # noqa: PTH111  # Path's raises without a home
        try:
            text = _read_secret(path)
        except OSError as error:
            self.problems.append(f"{given.name} names a file that cannot be read: {error.strerror or 'it is no file'}")
        except ValueError as error:
            self.problems.append(f"{given.name} names a file that {error}")
        else:
            # A pipe gives what it holds once.
            again = path.absolute() if path.is_file() else None
            self.given[setting] = Given(Secret(text), given.name, given.source, again)


def command_line(overrides: Mapping[str, object], base: Path) -> Layer:
    """Take what was said on the command line; what is None was not said."""
    layer = Layer()
    for setting, value in _leaves(overrides):
        if value is not None:
            given = Given(value, f"{dotted(setting)} on the command line", "command line")
            layer.add(_normalised(setting), given, base=base, known=map(dotted, paths(_names(setting))))
    return layer


def environment(environ: Mapping[str, str], base: Path) -> Layer:
    """Take the variables that begin with `PROVISIONER_`; an empty one counts as not set."""
    layer = Layer()
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE or _KUBERNETES.fullmatch(name):
            continue
        setting = _ALIASES.get(name) or _normalised(tuple(name.removeprefix(PREFIX).lower().split("__")))
        if value or resolve(setting) is None:
            given = Given(value, name, f"environment {name}")
            layer.add(setting, given, base=base, known=_variables(setting))
    return layer


def ecosystem(environ: Mapping[str, str], base: Path) -> Layer:
    """Take the variables that Infisical's and OpenRouter's users already have."""
    layer = Layer()
    known = {
        **ECOSYSTEM,
        **{f"{name}_FILE": _file(path) for name, path in ECOSYSTEM.items() if is_secret(field_of(path))},
    }
    for name, setting in known.items():
        if (value := environ.get(name)) and not _repeats(layer, setting, value):
            layer.add(setting, Given(value, name, f"environment {name}"), base=base, known=iter(known))
    key, key_file = environ.get(OPENROUTER_KEY), environ.get(f"{OPENROUTER_KEY}_FILE")
    if key and key_file:
        layer.problems.append(f"{OPENROUTER_KEY}_FILE sets what {OPENROUTER_KEY} sets; keep one of them")
    for where, name, value in (
        ("env", OPENROUTER_KEY, key and OPENROUTER_KEY),
        ("file", f"{OPENROUTER_KEY}_FILE", key_file),
    ):
        if value:
            layer.given["credentials", "default", where] = Given(value, name, f"environment {name}")
    return layer


def file(config: Path | None, environ: Mapping[str, str], base: Path) -> Layer:
    """Take the file that was asked for, or else the usual one if it is there."""
    layer = Layer()
    asked = environ.get(CONFIG_VARIABLE) if config is None else str(config)
    shown = asked or str(CONFIG_FILE)
    named = f"{CONFIG_VARIABLE} ({shown})" if asked and config is None else shown
    try:
        content = tomllib.loads(_read_toml(base / shown))
    except _Unreadable as error:
        layer.problems.append(f"{named} cannot be read: {error}")
    except OSError as error:
        if asked or not isinstance(error, FileNotFoundError | NotADirectoryError):
            layer.problems.append(f"{named} cannot be read: {error.strerror}")
    except tomllib.TOMLDecodeError as error:
        layer.problems.append(f"{named} is not TOML: {error}")
    except RecursionError:
        layer.problems.append(f"{named} cannot be read: its values are nested too deeply")
    except ValueError:
        layer.problems.append(f"{named} cannot be read: it contains a number that is too long")
    else:
        for setting, value in _leaves(content):
            _add_from_file(layer, setting, value, shown, base)
    return layer


class _Unreadable(Exception):  # its text is the end of a sentence
    """The file is no text that settings could be in."""


def _read_toml(path: Path) -> str:
    """Read a file of settings. Raises `OSError`, and `_Unreadable` saying what it is instead."""
    if "\0" in str(path):
        raise _Unreadable("its path contains a zero byte")
    with path.open("rb") as stream:
        content = stream.read(CONFIG_SIZE + 1)
    if len(content) > CONFIG_SIZE:
        raise _Unreadable(f"it is longer than {CONFIG_SIZE >> 20} MiB")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Unreadable("it is UTF-16 text; save it as UTF-8")
    try:
        # What Windows writes before UTF-8 is no part of the text.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Unreadable(f"it is not UTF-8 text (line {line}); save it as UTF-8") from None
    if text.count(".") >= DEEPEST_KEY:
        for found in _TOML.finditer(text):
            if found["deeper"]:
                line = text.count("\n", 0, found.start()) + 1
                raise _Unreadable(f"a key is nested more than {DEEPEST_KEY} names deep (line {line})")
    return text


def defaults() -> Layer:
    """Return what is there without being said: the target and the credential of the name `default`."""
    return Layer(
        {
            ("targets", "default", "url"): Given(DEFAULT_URL, "targets.default.url", "default"),
            ("credentials", "default", "env"): Given(OPENROUTER_KEY, "credentials.default.env", "default"),
        }
    )


def _add_from_file(layer: Layer, setting: Setting, value: object, shown: str, base: Path) -> None:
    normal = _normalised(setting)
    if value == {} and len(normal) <= 1 + (normal[0] in NAMED) and normal[0] in SECTIONS:
        if len(normal) > 1 and normal[1] != "default":
            layer.problems.append(f"[{dotted(setting)}] in {shown} is empty; give it a setting or remove it")
        return
    if len(setting) == 1 and setting[0] in SECTIONS:
        example = f"[{setting[0]}.default]" if setting[0] in NAMED else f"[{setting[0]}]"
        layer.problems.append(f"{setting[0]} in {shown} must be a table: write {example} with its settings below it")
        return
    given = Given(value, f"{in_file(setting)} in {shown}", f"file {shown}")
    layer.add(normal, given, base=base, known=map(in_file, paths(_names(normal))))


def _leaves(table: Mapping[str, object], prefix: Setting = ()) -> Iterator[tuple[Setting, object]]:
    for key, value in table.items():
        # Deeper than any setting only its name matters, for it is wrong.
        if isinstance(value, Mapping) and value and len(prefix) < DEEPEST:
            yield from _leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def _normalised(setting: Setting) -> Setting:
    if setting[0] in NAMED and len(setting) > 1:
        return (setting[0], normalise_name(setting[1]), *setting[2:])
    return setting


def _names(setting: Setting) -> tuple[str, ...]:
    """Return the name of the target or credential that the user meant, for naming its settings."""
    return (setting[1] if len(setting) > 2 else "default",)


def _variables(setting: Setting) -> Iterator[str]:
    yield from (CONFIG_VARIABLE, *_ALIASES)
    for path in paths(_names(setting)):
        yield variable(*path)
        if is_secret(field_of(path)):
            yield variable(*_file(path))


def _file(setting: Setting) -> Setting:
    return (*setting[:-1], f"{setting[-1]}_file")


def _sealed(setting: Setting, given: Given) -> Given:
    """Close a secret's text at once, so that nothing on the way to the model can show it."""
    if isinstance(given.value, str) and is_secret(field_of(setting)):
        return Given(Secret(given.value), given.name, given.source)
    return given


def _repeats(layer: Layer, setting: Setting, value: str) -> bool:
    """Whether two variables say the same of where Infisical is, perhaps one of them with `/api`."""
    given = layer.given.get(setting)
    return setting[-1] == "url" and given is not None and same_base(str(given.value), value)


def _read_secret(path: Path) -> str:
    """Read a file's one secret; raise `OSError`, or `ValueError` saying what the file is."""
    if "\0" in str(path):
        raise ValueError("cannot be there: its path contains a zero byte")
    with path.open("rb") as stream:
        content = stream.read(SECRET_SIZE + 1)
    if len(content) > SECRET_SIZE:
        raise ValueError(f"is longer than {SECRET_SIZE} bytes")
    return decoded(content).removesuffix("\n").removesuffix("\r")
