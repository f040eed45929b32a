"""`provisioner settings`: the effective settings and their sources."""

from provisioner.cli.terminal.frame import Config, Json, load
from provisioner.cli.terminal.output import console, print_json, show


def settings(config: Config = None, as_json: Json = False) -> None:
    """Show the effective settings and the source of each value. Secrets are masked.

    Example: provisioner settings --config /etc/provisioner.toml
    """
    from rich.text import Text

    from provisioner.cli.terminal.tables import plain_table
    from provisioner.settings.shape import dotted
    from provisioner.settings.values import displayed, shown

    loaded = load(config)
    sources = loaded.sources()
    effective = [(dotted(path), value) for path, value in loaded.effective()]
    if as_json:
        print_json({name: {"value": shown(value), "source": sources[name]} for name, value in effective})
        return
    screen = console()
    table = plain_table(screen, "setting", "value", "source", wrap=True)
    for name, value in effective:
        # Text instead of markup, because a value may contain brackets.
        cells = map(Text, (name, displayed(value), sources[name]))
        table.add_row(*cells, style="dim" if sources[name] == "default" else "")
    show(table, screen)
