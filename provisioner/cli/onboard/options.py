"""The options of `onboard`, and what they ask for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from provisioner.cli.bulk.submit import is_batch_option
from provisioner.core.projects import ProjectFilter, ProjectType
from provisioner.intake.reading import Format

File = Annotated[
    str | None,
    typer.Argument(
        metavar="[FILE]", help="CSV with a header, or JSON Lines; - for standard input.", show_default=False
    ),
]
FromInfisical = Annotated[
    bool, typer.Option("--from-infisical", help="Take the projects that the machine identity is in, instead of a file.")
]
Target = Annotated[str, typer.Option(help="With --from-infisical: the target to ask.")]
Kinds = Annotated[
    list[ProjectType] | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        help=f"With --from-infisical: type of project, {', '.join(ProjectType)}. Default: secret-manager.",
        show_default=False,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar="GLOB", help="With --from-infisical: projects whose name or slug matches.", show_default=False
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", metavar="GLOB", help="With --from-infisical: leave out projects that match.", show_default=False
    ),
]
Without = Annotated[
    bool, typer.Option("--without-connection", help="With --from-infisical: projects without an OpenRouter connection.")
]
Batch = Annotated[
    str | None, typer.Option(callback=is_batch_option, help="Batch for requests that name none.", show_default=False)
]
Form = Annotated[
    Format | None,
    typer.Option("--format", help="File format. Default: by its suffix or first characters.", show_default=False),
]
Skip = Annotated[bool, typer.Option("--skip-invalid", help="Skip invalid lines and onboard the rest.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before anything is created.")]
Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a report: .html, .csv or .jsonl, by the suffix.", show_default=False),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asks for; `file` is None when Infisical is asked for the projects."""

    file: str | None
    target: str
    wanted: ProjectFilter
    without_connection: bool
    batch: str | None
    form: Format | None
    skip_invalid: bool
    yes: bool
    report: Path | None
    rotation: dict[str, object] | None = None
