"""`provisioner settings`: what is in force, and where it came from."""

import json
import sys

from provisioner.cli.terminal.frame import Config, Json


def settings(config: Config = None, as_json: Json = False) -> None:
    """Show the effective settings and the source of each value. Secrets are masked.

    Example: provisioner settings --config /etc/provisioner.toml
    """
    from provisioner.settings import load_settings
    from provisioner.settings.reference import displayed, shown
    from provisioner.settings.shape import dotted

    loaded = load_settings(config=config)
    sources = loaded.sources()
    effective = [(dotted(path), value) for path, value in loaded.effective()]
    if as_json:
        document = {name: {"value": shown(value), "source": sources[name]} for name, value in effective}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    _print_table([(name, displayed(value), sources[name]) for name, value in effective])


def _print_table(rows: list[tuple[str, str, str]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from provisioner.cli.terminal.tables import PlainConsole

    console = PlainConsole()
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for heading in ("setting", "value", "source"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        # Text, not markup: a value may hold brackets.
        style = "dim" if row[2] == "default" else ""
        table.add_row(*(Text(cell) for cell in row), style=style)
    if not console.is_terminal:
        console.width = max(console.width, 400)  # whole lines for grep
    console.print(table)
