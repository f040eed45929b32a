"""The filter options that all commands share which show or change many requests."""

from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from provisioner.cli.terminal.output import tell_error
from provisioner.core.model import ErrorCode
from provisioner.core.requests import UNFINISHED, State
from provisioner.postgres.browse import unknown_batches, unknown_ids
from provisioner.postgres.filters import Filter

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database

PENDING: Final = "pending"
STATES: Final = (PENDING, *map(str, State))
LARGEST_ID: Final = 2**63 - 1
NAMED: Final = 20  # unknown ids that are listed


def parse_id(text: str | int) -> int:
    """Parse an id; the library's own check would print the type's range beside every id in the help."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= LARGEST_ID:
        raise typer.BadParameter("must be the id of a request, a whole number")
    return number


def parse_state(text: str) -> str:
    """The state that a text names, or `pending` for all that are not finished."""
    if text not in STATES:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, STATES))}")
    return text


def _states_like(incomplete: str) -> list[str]:
    return [state for state in STATES if state.startswith(incomplete)]


Id = Annotated[int, typer.Argument(metavar="ID", parser=parse_id, help="Id of the request.")]
Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="ID", parser=parse_id, help="Ids of requests.", show_default=False),
]
States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        parser=parse_state,
        autocompletion=_states_like,
        help=f"Requests in this state: {', '.join(STATES)}. Pending means not finished.",
        show_default=False,
    ),
]
Batches = Annotated[
    list[str] | None, typer.Option("--batch", metavar="BATCH", help="Requests of this batch.", show_default=False)
]
Projects = Annotated[
    list[UUID] | None, typer.Option("--project", metavar="UUID", help="Requests for this project.", show_default=False)
]
Errors = Annotated[
    list[ErrorCode] | None,
    typer.Option(
        "--error",
        metavar="CODE",
        help=f"Requests whose last error has this code: {', '.join(ErrorCode)}.",
        show_default=False,
    ),
]
Targets = Annotated[
    list[str] | None, typer.Option("--target", metavar="TARGET", help="Requests for this target.", show_default=False)
]

_FILTERS: Final = {
    "ids": Ids,
    "states": States,
    "batches": Batches,
    "projects": Projects,
    "errors": Errors,
    "targets": Targets,
}

Command = Callable[..., Coroutine[Any, Any, int]]


def filtering(*names: str) -> Callable[[Command], Command]:
    """Give a command these filter options, or all of them, in place of its parameter `wanted`, which gets the filter.

    The ids come first, because they are arguments.
    """

    def decorated(command: Command) -> Command:
        made = {name: _parameter(name) for name in names or _FILTERS}
        ids, *options = made.values()

        @wraps(command)
        async def run(**given: Any) -> int:
            return await command(wanted=_meant(**{name: given.pop(name) for name in made}), **given)

        own = signature(command)
        others = [one for each in own.parameters.values() for one in (options if each.name == "wanted" else [each])]
        shown = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in (ids, *others)]
        # Typer reads both.
        run.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in shown}
        return run

    return decorated


def _parameter(name: str) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=_FILTERS[name])


def _meant(
    *,
    ids: Sequence[int] | None = None,
    states: Sequence[str] | None = None,
    batches: Sequence[str] | None = None,
    projects: Sequence[UUID] | None = None,
    errors: Sequence[ErrorCode] | None = None,
    targets: Sequence[str] | None = None,
) -> Filter:
    """Combine the command line's filters into one."""
    chosen: set[State] = set()
    for state in states or ():
        chosen.update(UNFINISHED if state == PENDING else (State(state),))
    return Filter(
        ids=tuple(dict.fromkeys(ids or ())),
        states=tuple(state for state in State if state in chosen),
        batches=tuple(batches or ()),
        projects=tuple(str(project) for project in projects or ()),
        errors=tuple(error.value for error in errors or ()),
        targets=tuple(targets or ()),
    )


async def tell_unknown_of(database: "Database", wanted: Filter) -> bool:
    """Report a filter's unknown ids and batches on standard error; whether there are any."""
    if unknown := await unknown_ids(database, wanted.ids):
        tell_unknown(unknown)
    if batches := await unknown_batches(database, wanted.batches):
        tell_unknown_batch(batches)
    return bool(unknown or batches)


def tell_unknown_batch(batches: Sequence[str]) -> None:
    """Report on standard error which batches contain no request."""
    named = ", ".join(repr(batch) for batch in batches)
    tell_error(f"no request belongs to the batch {named}; `provisioner status` lists the batches")


def tell_unknown(ids: Sequence[int], kind: str = "request") -> None:
    """Report on standard error which ids no request has, or none of this kind."""
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    tell_error(f"there is no {kind} {', '.join(map(str, ids[:NAMED]))}{more}")
