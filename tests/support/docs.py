"""The parts of the documentation that are made from the code; `python -m tests.support.docs` renews them."""

import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from typer import main as typer_main

from provisioner.cli import app, load_command
from provisioner.cli.commands import COMMANDS
from provisioner.observe.catalogue import METRICS
from provisioner.settings.shape import settings_table

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = ROOT / "README.md"
DOCS: Final = ROOT / "docs"
WIDTH: Final = 140  # columns of a paragraph
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The commands that readers of a page type, in order: what follows `$ ` in console blocks."""
    return [
        command.strip()
        for block in _BLOCK.findall(text)
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)
        if command.strip()
    ]


def renewed(page: Path) -> str:
    """A page with its parts as the code has them: what stands between `<!-- generated: NAME … -->` and the end mark."""
    text = page.read_text(encoding="utf-8")
    for name, make in PARTS.items():
        part = re.compile(rf"(<!-- generated: {name} [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        text = part.sub(lambda found, make=make: f"{found[1]}\n{make().strip()}\n\n{found[2]}", text)  # type: ignore[misc]
    return text


def pages() -> list[Path]:
    """The pages that have such parts."""
    return [page for page in (README, *sorted(DOCS.glob("*.md"))) if "<!-- generated: " in page.read_text("utf-8")]


def commands_table() -> str:
    """Every command in one line."""
    rows = [f"| [`{name}`](#provisioner-{name}) | {command.summary} |" for name, command in COMMANDS.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def commands_reference() -> str:
    """Every command's own help."""
    sections = [part for name in COMMANDS for part in _command(load_command(name), f"provisioner {name}", "##")]
    return "\n\n".join(sections)


def metrics_table() -> str:
    """All metrics, and what they mean."""
    rows = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
        kind = f"{metric.kind}, shared" if metric.shared else str(metric.kind)
        rows.append(f"| `{metric.full_name}` | {kind} | {metric.unit} | {labels} | {metric.help} |")
    return "\n".join(rows)


def exit_statuses() -> str:
    """The meaning of the exit statuses, as in the help."""
    return str(typer_main.get_command(app).epilog)


def _command(command: Any, name: str, level: str) -> Iterator[str]:
    yield f"{level} {name}"
    summary, *rest = re.split(r"\n\s*\n", (command.help or "").strip())
    yield from (_paragraph(part) for part in (summary, *rest))
    if rows := [row for parameter in command.params if (row := _parameter(parameter))]:
        yield "\n".join(["| option | meaning |", "|---|---|", *rows])
    for sub in getattr(command, "commands", {}).values():
        yield from _command(sub, f"{name} {sub.name}", f"{level}#")


def _paragraph(text: str) -> str:
    line = " ".join(text.split())
    if line.startswith("Example: "):
        return f"```sh\n{line.removeprefix('Example: ')}\n```"
    return textwrap.fill(line.replace("<", "&lt;"), WIDTH, break_long_words=False, break_on_hyphens=False)


def _parameter(parameter: Any) -> str | None:
    if parameter.name in {"help", "config"}:  # said once for all commands
        return None
    argument = parameter.param_type_name == "argument"
    metavar = parameter.metavar or parameter.name.upper().replace("_", "-")
    names = metavar if argument else ", ".join(parameter.opts) + ("" if parameter.is_flag else f" {metavar}")
    default = parameter.default
    shown = "" if argument or parameter.is_flag or default in {None, ""} else f" Default: `{default}`."
    help_text = " ".join((parameter.help or "").split()).replace("<", "&lt;").replace("|", "\\|")
    return f"| `{names}` | {help_text}{shown} |"


PARTS: Final[dict[str, Callable[[], str]]] = {
    "settings": settings_table,
    "metrics": metrics_table,
    "commands": commands_table,
    "exit statuses": exit_statuses,
    "command reference": commands_reference,
}


if __name__ == "__main__":
    for each in pages():
        each.write_text(renewed(each), encoding="utf-8")
