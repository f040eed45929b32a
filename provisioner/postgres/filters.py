"""Select requests by what people say about them, on the command line and on the page."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from provisioner.core.requests import State
from provisioner.postgres.kinds import KINDS, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A selection of requests: each field lists the accepted values, and an empty field accepts any."""

    ids: Collection[int] = ()
    states: Collection[State] = ()
    batches: Collection[str] = ()
    projects: Collection[str] = ()
    errors: Collection[str] = ()
    targets: Collection[str] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it matches everything."""
        return not any(self._kinds())

    def arguments(self) -> tuple[list[object] | None, ...]:
        """The arguments of the statements, in order."""
        return tuple(list(kind) or None for kind in self._kinds())

    def of(self, kind: Kind) -> "Filter | None":
        """Return the filter for one kind of request; None if none can match. A target may name the kind's line."""
        places = [target.partition("/") for target in self.targets]
        targets = tuple(target for target, slash, of in places if slash + of in {"", kind.words.line})
        return replace(self, targets=targets) if targets or not places else None

    def _kinds(self) -> tuple[Collection[object], ...]:
        return (self.ids, self.states, self.batches, self.projects, self.errors, self.targets)


def parts(wanted: Filter, kinds: Sequence[Kind] = KINDS) -> Sequence[tuple[Kind, Filter]]:
    """Return the filter for each of these kinds that can match, in the order of their ids."""
    return [(kind, its) for kind in kinds if (its := wanted.of(kind)) is not None]
