"""Whatever a user can do to the command line ends in an exit status that is documented and in a line or two.

Settings, environments, files, terminals, machines: a sample of them here, all of them in `make fuzz` and `make soak`.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import stat
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from tests.support.cli import SCRIPT, environment, forked
from tests.support.machines import few_files, gone, strict, without_account
from tests.support.operators import one_of_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.postgres import Database

NOBODY = "postgresql://me:planted-4711@127.0.0.1:1/nowhere"
STATUSES = {0, 1, 2, 3}
LINES = 3  # an error, and what belongs to it
SAMPLE = 3  # cases of each kind that are tried each time
EXAMPLES = settings.default.max_examples // 5 if settings.default else 20  # each is a process of its own


def assert_told(done: subprocess.CompletedProcess[str], case: object) -> None:
    """Check an ended command against the promises for all commands."""
    assert done.returncode in STATUSES, (case, done)
    assert "Traceback" not in done.stdout + done.stderr, (case, done)
    assert "unexpected error" not in done.stdout + done.stderr, (case, done)
    assert "4711" not in done.stdout + done.stderr, (case, done)
    assert done.stderr.count("\n") <= LINES, (case, done)
    assert len(done.stderr) <= 2000, (case, done)
    if done.returncode == 2:
        assert done.stderr, (case, done)


def sampled(cases: Sequence[object], request: pytest.FixtureRequest) -> Iterator[object]:
    """Give a few of the cases, others each day; all of them when asked for."""
    if request.config.getoption("-m") == "soak" or len(cases) <= SAMPLE:
        yield from cases
    else:
        yield from random.sample(cases, SAMPLE)


CONTENTS = {
    "empty": b"",
    "bom": b"\xef\xbb\xbf[retry]\nbase = 2.0\n",
    "crlf": b"[retry]\r\nbase = 2.0\r\n",
    "cr": b"[retry]\rbase = 2.0\r",
    "utf-16": "[retry]\nbase = 2.0\n".encode("utf-16"),
    "utf-16 without a mark": "[retry]\nbase = 2.0\n".encode("utf-16-le"),
    "latin": "# caf\u00e9".encode("latin-1"),
    "binary": bytes(range(256)),
    "zero": b"\0" * 100,
    "deep": b"a = " + b"[" * 100_000,
    "dotted": b"a." * 50_000 + b"a = 1",
    "dotted table": b"[" + b"a . " * 50_000 + b"a]\n",
    "dotted inside": b"x = {" + b"\"a\".'b'." * 50_000 + b"a = 1}",
    "dotted, many": b"\n".join(b"a." * 1000 + b"a%d = 1" % number for number in range(400)),
    "long": b"# a comment\n" * 100_000,
    "comment with dots": b"  # " + b"a." * 30 + b"a\n[retry]\nbase = 2.0\n",
    "not closed": b'x = "' + b'\\".' * 300_000,
    "long number": b"[retry]\nbase = " + b"9" * 5000,
    "wrong types": b'database = 5\ntargets = []\ncredentials = "x"\nretry = true\nlog = 1979-05-27\n',
    "wrong values": b"[retry]\nbase = []\n[worker]\nlease = {}\n[log]\nlevel = 1\n[targets.default]\nurl = true\n",
    "unknown": b'[retry]\nbse = 1\n["a\\nb"]\nx = 1\n',
    "control": b'["\\u001b]0;x\\u0007"]\nx = 1\n',
    "many": b"\n".join(b"x%d = 1" % number for number in range(3000)),
    "array of tables": b"[[targets]]\nurl = 1\n[[retry]]\nbase = 1\n",
    "json": b'{"retry": {"base": 2}}',
    "yaml": b"retry:\n  base: 2\n",
}
REFUSED = set(CONTENTS) - {"empty", "bom", "crlf", "comment with dots"}


@pytest.mark.parametrize("name", CONTENTS)
def test_any_settings_file_is_read_or_named(tmp_path: Path, name: str) -> None:
    """A file of settings counts, or the line that refuses it names the file."""
    file = tmp_path / "mine.toml"
    file.write_bytes(CONTENTS[name])
    done = forked(["settings", "--config", str(file)], environment())
    assert_told(done, name)
    assert done.returncode == (2 if name in REFUSED else 0)
    if name in REFUSED:
        assert str(file) in done.stderr
        # Refused by its dots, before the time is spent that grows with their square.
        assert ("nested more than 20 names deep" in done.stderr) is name.startswith("dotted")
    elif name != "empty":
        assert ["retry.base", "2.0"] in [line.split()[:2] for line in done.stdout.splitlines()]


PATHS = [
    "/",
    ".",
    "",
    " ",
    "x" * 5000,
    "/x" * 3000,
    "/dev/null",
    "/dev/full",
    "/dev/zero",
    "/proc/self/mem",
    "/proc/1/mem",
]
PATHS += [
    "~",
    "~nobody-of-that-name/x",
    "/etc/passwd/x",
    "a\nb",
    "a\x1b[0mb",
    "\udcff",
    "/root/../nowhere",
    "\u202e.toml",
]


@pytest.mark.parametrize("where", ["--config", "PROVISIONER_CONFIG"])
def test_any_path_of_a_settings_file(where: str) -> None:
    """Whatever is in the place of the settings file, it is read or named."""
    for path in PATHS:
        arguments = ["settings", "--config", path] if where == "--config" else ["settings"]
        assert_told(forked(arguments, environment() | ({where: path} if where.isupper() else {})), path)


SETTABLE = ["PROVISIONER_DATABASE_URL_FILE", "PROVISIONER_SEALING__KEY_FILE", "PROVISIONER_DATABASE__SSL_ROOT_CERT"]
SETTABLE += ["PROVISIONER_CREDENTIALS__TEAM__FILE", "INFISICAL_TOKEN_FILE", "OPENROUTER_PROVISIONING_KEY_FILE"]


@pytest.mark.parametrize("name", SETTABLE)
def test_any_path_in_a_setting(name: str, request: pytest.FixtureRequest) -> None:
    """An impossible path, a directory, an endless device: the setting is named."""
    for path in map(str, sampled([*PATHS], request)):
        done = forked(["settings"], environment() | {name: path})
        assert_told(done, (name, path))
        if done.returncode:
            assert name in done.stderr, (path, done)


WORDS = [
    "",
    " ",
    "x",
    "0",
    "-1",
    "1e5",
    "\u0663",
    "9" * 30,
    "true",
    "\udcff",
    "\x1b[0m",
    "\u202e",
    "a\nb",
    "*",
    "%s",
    "{}",
]
WORDS += ["x" * 100_000, "'; DROP TABLE x; --", "sk-or-v1-planted-4711", "default", "NULL", "\\", "--", "--json"]
ASKING = [
    *(["list", option] for option in ("--state", "--batch", "--project", "--error", "--target", "--limit", "--before")),
    *([command] for command in ("list", "show", "export", "retry", "cancel", "pause", "resume", "submit", "plan")),
    *(["export", option] for option in ("--format", "--batch")),
    *(["grant", option] for option in ("--worker", "--requester", "--reader")),
    *(["submit", "-", option] for option in ("--batch", "--format")),
    *([command] for command in ("status", "settings", "doctor", "migrate", "verify", "seal", "keys", "healthcheck")),
    ["status", "--batch"],
    ["seal", "--project"],
    ["simulate", "--port"],
    ["simulate", "--faults"],
    ["demo", "--requests"],
    ["run", "--listen"],
    [],
]
REALLY: set[tuple[str, ...]] = {("simulate", "--port", "0"), ("run", "--listen", "")}  # these would begin to serve
REALLY |= {("simulate", "--faults", ""), ("simulate", "--faults", " ")}
REALLY |= {("--",)}  # shows the help, which has more lines


def test_any_word_on_the_command_line(database: Database, request: pytest.FixtureRequest) -> None:
    """Whatever a user writes in the place of a word, one line says what is wrong."""
    one_of_each(database)
    cases: list[object] = [[*asked, word] for asked in ASKING for word in WORDS if (*asked, word) not in REALLY]
    for case in sampled(cases, request):
        assert isinstance(case, list)
        assert_told(forked(case, environment(database), given=b"project_id\nx\n"), case)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_word_on_the_command_line(database: Database, request: pytest.FixtureRequest) -> None:
    """The same with all of the words."""
    test_any_word_on_the_command_line(database, request)


TERMINALS: list[dict[str, str]] = [
    *({"COLUMNS": width} for width in ("1", "0", "-5", "x", "", "9" * 20, "1000000")),
    *({"LINES": height, "COLUMNS": "5"} for height in ("0", "x", "-1")),
    *({"TERM": term} for term in ("dumb", "", "\x1b", "unknown", "xterm-256color")),
    *({name: "1"} for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")),
    {"FORCE_COLOR": "1", "COLUMNS": "1"},
    {"TTY_COMPATIBLE": "1", "COLUMNS": "2", "LINES": "1"},
    *({"TZ": zone} for zone in ("Nonsense/X", "", ":/etc/passwd", "UTC+99", "\x01", "A" * 5000)),
    *({"TMPDIR": "/nowhere", "HOME": home} for home in ("", "/nowhere", "/dev/null", "x", "/proc")),
    *({"PROVISIONER_LOG__LEVEL": level} for level in ("debug", "DEBUG", "x", "", "7")),
    {"SSL_CERT_FILE": "/nowhere"},
    {"_TYPER_STANDARD_TRACEBACK": "1"},
    {"LANGUAGE": "xx", "LC_TIME": "xx_YY"},
]
SHOWING = [
    ["settings"],
    ["--help"],
    ["submit", "--help"],
    ["status"],
    ["list"],
    ["show", "1"],
    ["doctor"],
    ["keys", "list"],
]


def test_any_terminal(database: Database, request: pytest.FixtureRequest) -> None:
    """Width, height, type, colour and time zone only change the appearance."""
    one_of_each(database)
    usual = {tuple(arguments): forked(arguments, environment(database)).returncode for arguments in SHOWING}
    cases: list[object] = list(itertools.product(TERMINALS, SHOWING))
    for case in sampled(cases, request):
        assert isinstance(case, tuple)
        terminal, arguments = case
        done = forked(arguments, environment(database) | terminal)
        assert_told(done, case)
        assert done.returncode in {usual[tuple(arguments)], 2}, case


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_terminal(database: Database, request: pytest.FixtureRequest) -> None:
    """The same with all of them."""
    test_any_terminal(database, request)


MACHINES: dict[str, Callable[[], object]] = {
    "no account": without_account,
    "no directory": gone,
    "umask": strict,
    "few files": few_files,
}
DOING = [["settings"], ["status"], ["doctor"], ["submit", "x.csv"], ["export", "-o", "x.csv"], ["keys", "generate"]]
DOING += [["healthcheck"], ["keys", "list"], ["list"], ["submit", "-"], ["plan", "-"], ["migrate", "--check"]]


@pytest.mark.parametrize("machine", MACHINES)
def test_any_machine(database: Database, tmp_path: Path, machine: str, request: pytest.FixtureRequest) -> None:
    """Without an account, a home, a directory or files to spare, what needs none works, and the rest says so."""
    variables = environment(database, PROVISIONER_SEALING__KEY_FILE=str(tmp_path / "keys" / "sealing.keys"))
    homes: list[dict[str, str] | None] = [{}, {"HOME": "/nowhere"}, None]
    for case in sampled(list(itertools.product(homes, DOING)), request):
        assert isinstance(case, tuple)
        home, arguments = case
        told = {name: value for name, value in variables.items() if name != "HOME" or home is not None} | (home or {})
        done = forked(arguments, told, cwd=tmp_path, prepare=MACHINES[machine], given=b"project_id\nx\n")
        if done.returncode == 77:
            pytest.skip("user namespaces are forbidden here")
        assert_told(done, (machine, *case))


@pytest.mark.soak
@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine(database: Database, tmp_path: Path, machine: str, request: pytest.FixtureRequest) -> None:
    """The same with every command and home."""
    test_any_machine(database, tmp_path, machine, request)


@pytest.mark.parametrize("room", [*range(0, 24, 3)])
def test_any_room_for_files(database: Database, room: int) -> None:
    """However low the limit of open files, a command works or says so: no library aborts the process."""
    done = forked(["status"], environment(database), prepare=partial(few_files, room))
    assert_told(done, room)
    assert done.returncode == 0 or re.search("no more files can be opened|Too many open files", done.stderr), done


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_room_for_files(database: Database, tmp_path: Path) -> None:
    """The same with every number and command."""
    for room, arguments in itertools.product(range(40), DOING):
        done = forked(
            arguments, environment(database), cwd=tmp_path, prepare=partial(few_files, room), given=b"project_id\nx\n"
        )
        assert_told(done, (room, arguments))


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "writable"])
def test_any_log_of_tls_keys(tmp_path: Path, kind: str) -> None:
    """A log of TLS keys that cannot be written is reported in a line, and nothing else changes."""
    path = tmp_path / ("nowhere/keys" if kind == "missing" else kind)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    told = environment(PROVISIONER_DATABASE_URL=NOBODY) | {"SSLKEYLOGFILE": str(path)}
    # Started anew: what imports TLS contexts has imported them in this process already.
    done = subprocess.run([SCRIPT, "doctor"], capture_output=True, check=False, text=True, env=told)  # noqa: S603
    assert done.returncode == 1
    assert "identity" in done.stdout
    assert "unforeseen" not in done.stderr
    assert ("SSLKEYLOGFILE names a file that cannot be written" in done.stderr) is (kind != "writable")


def test_a_database_without_an_account() -> None:
    """A user whom no file knows needs neither a home nor a name for a database that is named in full."""
    told = {"PATH": os.environ["PATH"], "PROVISIONER_DATABASE_URL": "postgresql://u@127.0.0.1:1/x"}
    for arguments in (["status"], ["doctor"], ["keys", "generate"]):
        done = forked(arguments, told, prepare=without_account)
        if done.returncode == 77:
            pytest.skip("user namespaces are forbidden here")
        assert_told(done, arguments)


@pytest.mark.parametrize(
    "more",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LANG": "xx_YY.nonsense"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "utf-16"},
        {"PYTHONUNBUFFERED": "1"},
        {"PYTHONWARNINGS": "error"},
    ],
    ids=str,
)
def test_any_locale(tmp_path: Path, more: dict[str, str]) -> None:
    """Characters that the locale cannot show become question marks, and nothing fails because of it."""
    file = tmp_path / "z\u00fcrich.csv"
    file.write_text("project_id\nz\u00fcrich\n", encoding="utf-8")
    arguments = ["submit", str(file), "--batch", "\u00fc"]
    told = environment(PROVISIONER_DATABASE_URL=NOBODY) | more
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, check=False, env=told)  # noqa: S603  # ours
    encoding = "utf-16" if more.get("PYTHONIOENCODING") == "utf-16" else "utf-8"
    out, err = (text.decode(encoding, "replace") for text in (done.stdout, done.stderr))
    assert_told(subprocess.CompletedProcess(done.args, done.returncode, out, err), more)


@settings(max_examples=EXAMPLES)
@given(
    arguments=st.lists(
        st.sampled_from([*WORDS, "list", "settings", "keys", "--config", "-", "--batch", "--help"]), max_size=5
    ),
    variables=st.dictionaries(
        st.sampled_from(["COLUMNS", "TERM", "TZ", "HOME", "PROVISIONER_CONFIG", "PROVISIONER_X", "LOGNAME", "PGUSER"]),
        st.text(st.characters(exclude_characters="\0"), max_size=20),
        max_size=3,
    ),
    stream=st.sampled_from([None, "closed"]),
)
def test_any_call(arguments: list[str], variables: dict[str, str], stream: str | None) -> None:
    """Any words, in any environment, with or without a standard input."""
    if arguments[:1] in (["demo"], ["run"], ["simulate"]):
        return
    told = {
        name: value.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
        for name, value in variables.items()
    }
    streams = {"stdin": stream} if stream else {}
    done = forked(arguments, environment(PROVISIONER_DATABASE_URL=NOBODY) | told, instead=streams)
    # The help has more lines; it is shown as well when nothing at all is said.
    if "--help" not in arguments and any(word != "--" for word in arguments):
        assert_told(done, (arguments, variables))
    assert "Traceback" not in done.stdout + done.stderr


def test_a_key_file_that_nobody_may_read_is_told(database: Database, tmp_path: Path) -> None:
    """A path of sealing keys that is a directory, a link in a circle or closed is named in one line."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for place in (tmp_path, loop, tmp_path / ("x" * 300), Path("/proc/nowhere/keys"), Path("/dev/null/keys")):
        told = environment(database, PROVISIONER_SEALING__KEY_FILE=str(place))
        done = forked(["keys", "generate"], told)
        assert_told(done, place)
        assert done.returncode == 1
        assert str(place)[:100] in done.stderr
        assert_told(forked(["doctor"], told), place)
    assert stat.S_ISLNK(loop.lstat().st_mode)
