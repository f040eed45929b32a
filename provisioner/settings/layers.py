"""The sources of settings: the command line, the environment, other products' variables, a file, the defaults.

Each becomes a layer that remembers how the user named every value, and collects the problems.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provisioner.core.key_text import decoded
from provisioner.core.secret import Secret
from provisioner.settings.errors import SHOWN
from provisioner.settings.shape import (
    DEFAULT_URL,
    ECOSYSTEM,
    NAMED,
    OPENROUTER_KEY,
    PREFIX,
    SECTIONS,
    Setting,
    dotted,
    field_of,
    file_of,
    in_file,
    is_secret,
    nearest,
    paths,
    resolve,
    variable,
)
from provisioner.settings.values import normalise_name, same_base

CONFIG_VARIABLE: Final = "PROVISIONER_CONFIG"
CONFIG_FILE: Final = Path("config/provisioner.toml")  # read if it exists
DEEPEST: Final = 3  # names in a setting, as in targets.default.url
CONFIG_SIZE: Final = 1 << 20  # bytes; a longer file is a mistake
SECRET_SIZE: Final = 1 << 16  # bytes; a longer file is a mistake
DEEPEST_KEY: Final = 20  # names joined by dots; tomllib's time grows with their square

_DEEPER_KEY: Final = re.compile(  # anywhere but in a line of comment
    rf"""^(?![ \t]*\#)[^\n]*?(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){{{DEEPEST_KEY}}}""", re.MULTILINE
)
_ALIASES: Final[dict[str, Setting]] = {
    "PROVISIONER_DATABASE_URL": ("database", "url"),
    "PROVISIONER_DATABASE_URL_FILE": ("database", "url_file"),
}
# Kubernetes describes a service called "provisioner" to every pod in variables with these names.
_KUBERNETES: Final = re.compile(
    r"PROVISIONER_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


@dataclass(frozen=True, slots=True)
class Given:
    """One value, how the user named it, and where it came from; `file` is the file that a secret was read from."""

    value: object
    name: str
    source: str
    file: Path | None = None


class Layer:
    """The values of one source, and its problems."""

    def __init__(self, base: Path, written: Callable[[Setting], str] = dotted, *others: str) -> None:
        """Start empty. Files are below `base`; names are `written` like this, and `others` are known too."""
        self.given: dict[Setting, Given] = {}
        self.problems: list[str] = []
        self._base = base
        self._written = written
        self._others = others

    def add(self, setting: Setting, given: Given) -> None:
        """Add a value, or the reason why that is impossible."""
        found = resolve(setting)
        if found is None:
            # Finding the nearest name takes time, and only the first problems are shown.
            close = self._meant(setting, given.name) if len(self.problems) < SHOWN else "another"
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
            self._add_file(setting, given)
        elif isinstance(given.value, str) and is_secret(field_of(setting)):
            # Wrapped at once, so that nothing on the way to the model can show it.
            self.given[setting] = Given(Secret(given.value), given.name, given.source)
        else:
            self.given[setting] = given

    def _meant(self, setting: Setting, name: str) -> str:
        known = [path for one in paths((_name(setting),)) for path in (one, *file_of(one))]
        return nearest(name.partition(" in ")[0], [*map(self._written, known), *self._others])

    def _add_file(self, setting: Setting, given: Given) -> None:
        # The user may have put the secret itself where a path belongs, so no message repeats it.
        path = self._base / os.path.expanduser(str(given.value))  # noqa: PTH111  # Path's raises without a home
        try:
            text = decoded(_read(path, SECRET_SIZE)).removesuffix("\n").removesuffix("\r")
        except OSError as error:
            self.problems.append(f"{given.name} names a file that cannot be read: {error.strerror or 'it is no file'}")
        except ValueError as error:
            self.problems.append(f"{given.name} names a file that {error}")
        else:
            # A pipe can be read only once.
            again = path.absolute() if path.is_file() else None
            self.given[setting] = Given(Secret(text), given.name, given.source, again)


def command_line(overrides: Mapping[str, object], base: Path) -> Layer:
    """Read the command line; None means that an option was not given."""
    layer = Layer(base)
    for setting, value in _leaves(overrides):
        if value is not None:
            layer.add(_normalised(setting), Given(value, f"{dotted(setting)} on the command line", "command line"))
    return layer


def environment(environ: Mapping[str, str], base: Path) -> Layer:
    """Read the variables that begin with `PROVISIONER_`; an empty one counts as not set."""
    layer = Layer(base, lambda setting: variable(*setting), CONFIG_VARIABLE, *_ALIASES)
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE or _KUBERNETES.fullmatch(name):
            continue
        setting = _ALIASES.get(name) or _normalised(tuple(name.removeprefix(PREFIX).lower().split("__")))
        if value or resolve(setting) is None:
            layer.add(setting, Given(value, name, f"environment {name}"))
    return layer


def ecosystem(environ: Mapping[str, str], base: Path) -> Layer:
    """Read the variables that users of Infisical and OpenRouter already have."""
    layer = Layer(base)
    known = {**ECOSYSTEM, **{f"{name}_FILE": path for name, one in ECOSYSTEM.items() for path in file_of(one)}}
    for name, setting in known.items():
        if (value := environ.get(name)) and not _repeats(layer, setting, value):
            layer.add(setting, Given(value, name, f"environment {name}"))
    given = [name for name in (OPENROUTER_KEY, f"{OPENROUTER_KEY}_FILE") if environ.get(name)]
    for name in given[:1]:
        # Only the place of the key is a setting, not the key.
        where, value = ("env", name) if name == OPENROUTER_KEY else ("file", environ[name])
        layer.add(("credentials", "default", where), Given(value, name, f"environment {name}"))
    layer.problems += [f"{name} sets what {given[0]} sets; keep one of them" for name in given[1:]]
    return layer


def file(config: Path | None, environ: Mapping[str, str], base: Path) -> Layer:
    """Read the file that was named, or else the default one if it exists."""
    layer = Layer(base, in_file)
    asked = environ.get(CONFIG_VARIABLE) if config is None else str(config)
    shown = asked or str(CONFIG_FILE)
    content: Mapping[str, object] = {}
    try:
        content = _toml(base / shown)
    except (OSError, ValueError) as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        if asked or not absent:
            named = f"{CONFIG_VARIABLE} ({shown})" if asked and config is None else shown
            reason = error.strerror if isinstance(error, OSError) else f"it {error}"
            layer.problems.append(f"{named} cannot be read: {reason}")
    for setting, value in _leaves(content):
        normal = _normalised(setting)
        above = len(normal) <= 1 + (normal[0] in NAMED) and normal[0] in SECTIONS  # a section, or one of its kind
        if value == {} and above:
            if len(normal) > 1 and normal[1] != "default":
                layer.problems.append(f"[{dotted(setting)}] in {shown} is empty; give it a setting or remove it")
        elif above and len(setting) == 1:
            example = f"[{setting[0]}.default]" if setting[0] in NAMED else f"[{setting[0]}]"
            layer.problems.append(
                f"{setting[0]} in {shown} must be a table: write {example} with its settings below it"
            )
        else:
            layer.add(normal, Given(value, f"{in_file(setting)} in {shown}", f"file {shown}"))
    return layer


def defaults(above: Sequence[Layer]) -> Layer:
    """Return what exists without being set: the credential `default`, and the target, unless only others are set."""
    layer, targets = Layer(Path()), {setting[1] for one in above for setting in one.given if setting[0] == "targets"}
    existing: list[tuple[Setting, str]] = [(("credentials", "default", "env"), OPENROUTER_KEY)]
    if not targets or "default" in targets:
        existing.append((("targets", "default", "url"), DEFAULT_URL))
    for setting, value in existing:
        layer.add(setting, Given(value, dotted(setting), "default"))
    return layer


def _toml(path: Path) -> dict[str, object]:
    """Read a settings file. Raises `OSError`, and `ValueError` with the problem."""
    content = _read(path, CONFIG_SIZE)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("is UTF-16 text; save it as UTF-8")
    try:
        # The byte order mark that Windows writes is not part of the text.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 text (line {line}); save it as UTF-8") from None
    if deeper := _DEEPER_KEY.search(text):
        line = text.count("\n", 0, deeper.start()) + 1
        raise ValueError(f"has a key that is nested more than {DEEPEST_KEY} names deep (line {line})")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {error}") from None
    except RecursionError:
        raise ValueError("has values that are nested too deeply") from None
    except ValueError:
        raise ValueError("contains a number that is too long") from None


def _read(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes. Raises `OSError`, and `ValueError` with the problem."""
    if "\0" in str(path):
        raise ValueError("has a path that contains a zero byte")
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"is longer than {most >> 10} KiB")
    return content


def _leaves(table: Mapping[str, object], prefix: Setting = ()) -> Iterator[tuple[Setting, object]]:
    for key, value in table.items():
        # No setting is deeper, so only the name matters, for the error.
        if isinstance(value, Mapping) and value and len(prefix) < DEEPEST:
            yield from _leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def _normalised(setting: Setting) -> Setting:
    if setting[0] in NAMED and len(setting) > 1:
        return (setting[0], normalise_name(setting[1]), *setting[2:])
    return setting


def _name(setting: Setting) -> str:
    """Return the name of the target or credential that the user meant."""
    return setting[1] if len(setting) > 2 else "default"


def _repeats(layer: Layer, setting: Setting, value: str) -> bool:
    """Whether two variables name the same Infisical, perhaps one of them with `/api`."""
    given = layer.given.get(setting)
    return setting[-1] == "url" and given is not None and same_base(str(given.value), value)
