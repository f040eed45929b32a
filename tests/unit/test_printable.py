"""Text of others is shown as text: no terminal obeys it, no log line is forged by it, and JSON loses none of it."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout

import pytest
from hypothesis import given, settings, strategies as st
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from provisioner.cli.terminal.output import say, tell_detail, tell_error, tell_warning
from provisioner.cli.terminal.tables import PlainConsole
from provisioner.core.text import LINES, printable, printable_json
from provisioner.observe.logs import configure_logging
from provisioner.observe.page import render_main
from tests.unit.test_page import planted

# Anything, and more often than by chance what terminals obey.
NASTY = st.sampled_from(
    [
        "\x1b]0;x\x07",
        "\x1b[2J",
        "\u009b31m",
        "\u202e",
        "\u2066",
        "\u200b",
        "\u2028",
        "\x85",
        "\r",
        "\n",
        "\x7f",
        "[red]",
        "[/]",
    ]
)
FOREIGN = st.lists(st.one_of(NASTY, st.text(max_size=8)), max_size=6).map("".join)
STORABLE = FOREIGN.filter(lambda text: text.isascii() or not re.search(r"[\ud800-\udfff]", text))
OURS = re.compile(r"\x1b\[[0-9;]*m")  # colours, which a console adds itself


@given(FOREIGN)
def test_a_line_is_printable(text: str) -> None:
    """One character comes in the place of each that is not printable, and nothing else changes."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert printable(text.replace("\x00", "")).replace("?", "") == "".join(
        x for x in text if x.isprintable() and x != "?"
    )


@given(st.dictionaries(STORABLE, st.one_of(STORABLE, st.integers(), st.none())))
def test_json_keeps_its_data(document: dict[str, object]) -> None:
    """Unprintable characters are escaped, so that a program reads the original."""
    shown = printable_json(json.dumps(document, ensure_ascii=False, indent=1))
    assert json.loads(shown) == document
    assert all(letter.isprintable() or letter == "\n" for letter in shown)


@given(FOREIGN)
def test_what_commands_say(text: str) -> None:
    """Every output function removes what a terminal would obey; errors stay on one line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        say(text)
        for tell in (tell_error, tell_warning, tell_detail):
            tell(text)
    assert printable(out.getvalue(), kept=LINES) == out.getvalue()
    assert err.getvalue().count("\n") == 3
    assert printable(err.getvalue(), kept="\n") == err.getvalue()


@given(before=FOREIGN, key=st.from_regex(r"sk-[A-Za-z0-9_-]{6,80}", fullmatch=True))
def test_errors_repeat_no_key(before: str, key: str) -> None:
    """An API key that was pasted in the wrong place is not in the error about it, wherever that is cut."""
    for text in (f"{before} {key}", f"{'x ' * 720}{key} {'y ' * 300}"):
        err = io.StringIO()
        with redirect_stderr(err):
            for tell in (tell_error, tell_warning, tell_detail):
                tell(text)
        assert key not in err.getvalue()
        assert key[:9] not in err.getvalue()


@pytest.mark.parametrize("width", [20, 200])
@settings(max_examples=25)  # laying out a table takes milliseconds
@given(text=FOREIGN)
def test_tables_and_bars_on_a_terminal(width: int, text: str) -> None:
    """Whatever Rich lays out, only its own colours reach the terminal."""
    out = io.StringIO()
    console = PlainConsole(file=out, force_terminal=True, width=width, color_system="standard")
    table = Table("batch", "and")
    table.add_row(Text(text), Text("and more", style="red"))
    console.print(table)
    console.print(Text(text, style="bold"))
    bar = Progress(TextColumn("{task.description}", markup=False), console=console, auto_refresh=False)
    bar.add_task(text)
    console.print(bar.get_renderable())
    shown = OURS.sub("", out.getvalue())
    assert all(letter.isprintable() or letter == "\n" for letter in shown), ascii(shown)


@pytest.mark.parametrize("form", ["json", "console"])
@settings(max_examples=25)  # configuring logs, too
@given(text=STORABLE)
def test_log_lines(form: str, text: str) -> None:
    """An event is one line without anything that a terminal would obey, in either format."""
    import structlog

    out = io.StringIO()
    configure_logging("info", "json" if form == "json" else "console", out)
    structlog.get_logger().warning("request_failed", reason=text, names=[text], at={"place": text})
    assert out.getvalue().count("\n") == 1
    assert out.getvalue()[:-1].isprintable(), ascii(out.getvalue())


@settings(max_examples=25)  # a page takes milliseconds
@given(FOREIGN)
def test_the_page(text: str) -> None:
    """Nothing from outside turns the page's writing around, wherever it is shown."""
    assert all(letter.isprintable() or letter == "\n" for letter in render_main(planted(text)))
