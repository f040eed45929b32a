"""The options that ask for a rotation with every line of a file, or for every project of Infisical's."""

from collections.abc import Sequence
from typing import Annotated, Final

import typer
from pydantic import ValidationError

from provisioner.intake.rotation import PREFIX, ROTATION_COLUMNS, RULES, RotationColumns

WithRotation = Annotated[
    bool,
    typer.Option(
        "--with-rotation",
        help="Also request a secret rotation for every project: an API key of its own, in a secret.",
    ),
]
Rotations = Annotated[
    bool, typer.Option("--rotations", help="Load rotations alone: the columns are those of rotation_requests.")
]
Rotation = Annotated[
    list[str] | None,
    typer.Option(
        "--rotation",
        metavar="COLUMN=VALUE",
        help="Default for a column of every rotation, where its line leaves it empty: "
        f"{', '.join(column.removeprefix(PREFIX) for column in ROTATION_COLUMNS)}. Example: --rotation spend_limit=10.",
        show_default=False,
    ),
]
DEFAULT: Final = {"rotation_name": "openrouter"}


def asked_rotation(*, with_rotation: bool, columns: Sequence[str] | None) -> dict[str, object] | None:
    """What every line's rotation is like unless the line says otherwise; None if no rotation is asked for."""
    if not with_rotation and not columns:
        return None
    given: dict[str, object] = {}
    for each in columns or ():
        name, equals, text = each.partition("=")
        column = PREFIX + name.strip().replace("-", "_")
        if not equals or column not in ROTATION_COLUMNS:
            known = ", ".join(known.removeprefix(PREFIX) for known in ROTATION_COLUMNS)
            raise typer.BadParameter(f"--rotation {each}: give COLUMN=VALUE with one of {known}")
        given[column] = text.strip()
    try:
        RotationColumns.model_validate(given)
    except ValidationError as error:
        column = str(error.errors(include_url=False)[0]["loc"][0])
        raise typer.BadParameter(f"--rotation {column.removeprefix(PREFIX)} {RULES[column]}") from None
    return DEFAULT | given
