"""The results of `verify`, and how they are printed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from provisioner.cli.asking.infisical import SHOWN, Unqueried, tell_more, tell_unasked
from provisioner.cli.terminal.output import called, print_json, say
from provisioner.core.comparison import AnyRecorded, Difference, Recorded
from provisioner.core.text import several

_LEFT_ALONE: Final = {
    "adopted": "they were adopted, and belong to somebody else",
    "wiped": "their sealed key was wiped: set credential to a new one",
    "failing": "Infisical could not replace their keys, and tries again automatically: fix what the message says",
    "not now": "they have changed in the meantime",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One request whose connection or rotation differs from what was recorded."""

    recorded: AnyRecorded
    differences: Mapping[Difference, str]

    def document(self) -> dict[str, Any]:
        """The finding, for programs."""
        one = self.recorded
        return {
            "id": one.id,
            "target": one.target,
            "project_id": one.project_id,
            "project_name": one.project_name,
            "name": one.name,
            f"{one.thing}_id": one.made,
            "differences": {what.value: said for what, said in self.differences.items()},
        }


@dataclass(slots=True, kw_only=True)
class Verified:
    """The result of a comparison, and with `repaired` what happens to each request that differs.

    `fingerprints` are those of the keys that this host has; `unknown_keys` counts, by credential, the connections whose
    key could not be compared.
    """

    fingerprints: Mapping[str, str] = field(default_factory=dict)
    compared: int = 0
    rotations: int = 0
    projects: set[tuple[str, str]] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    unasked: list[Unqueried] = field(default_factory=list)
    unknown_keys: Counter[str] = field(default_factory=Counter)
    repaired: Mapping[int, str] | None = None

    @property
    def is_fine(self) -> bool:
        """Whether everything was compared and nothing differs."""
        return not (self.findings or self.unasked)

    @property
    def left_alone(self) -> Mapping[str, Sequence[Finding]]:
        """The findings that were not repaired, by reason."""
        left: dict[str, list[Finding]] = {}
        for finding in self.findings:
            outcome = (self.repaired or {}).get(finding.recorded.id, "not now")
            if outcome != "repairing":
                left.setdefault(outcome, []).append(finding)
        return left

    def note_key(self, recorded: Recorded) -> None:
        """Count a connection whose key cannot be compared. A sealed key is never outdated."""
        if recorded.key_fingerprint and not recorded.credential.startswith("sealed:"):
            self.unknown_keys.update([recorded.credential] if recorded.credential not in self.fingerprints else [])


def tell_verified(verified: Verified, *, as_json: bool) -> None:
    """Print the result of a comparison."""
    if as_json:
        findings = [finding.document() for finding in verified.findings]
        repaired = None
        if verified.repaired is not None:
            repaired = {str(request): outcome for request, outcome in verified.repaired.items()}
        print_json(
            {
                "compared": verified.compared,
                "rotations": verified.rotations,
                "projects": len(verified.projects),
                "differences": findings,
                "not_compared": verified.unasked,
                "keys_not_compared": verified.unknown_keys,
                "repaired": repaired,
            }
        )
        return
    many = "was" if verified.compared == 1 else "were"
    compared = several(verified.compared - verified.rotations, "recorded connection")
    if verified.rotations:
        compared += f" and {several(verified.rotations, 'rotation')}"
    compared += f" in {several(len(verified.projects), 'project')}"
    say(f"{compared} {many} compared")
    kinds = Counter(what for finding in verified.findings for what in finding.differences)
    for what, number in kinds.items():
        say(f"{number:>9,} {what.value}")
        alike = [finding for finding in verified.findings if what in finding.differences]
        for finding in alike[:SHOWN]:
            one = finding.recorded
            project = called(one.project_name, one.project_id)
            say(f"{'':10}request {one.id}, {one.name} in project {project}: {finding.differences[what]}")
        tell_more(len(alike))
    tell_unasked(verified.unasked)
    for credential, number in sorted(verified.unknown_keys.items()):
        say(f"{number:>9,} not compared: this host does not have the key of credential {credential!r}")
    if verified.is_fine and verified.compared:
        say("everything is as recorded")
    elif verified.repaired is not None:
        _tell_repaired(verified)


def _tell_repaired(verified: Verified) -> None:
    repairing = sum(outcome == "repairing" for outcome in (verified.repaired or {}).values())
    say(f"{repairing:>9,} will be repaired by the workers")
    for outcome, findings in verified.left_alone.items():
        say(f"{len(findings):>9,} left alone: {_LEFT_ALONE[outcome]}")
        for finding in findings[:SHOWN]:
            one = finding.recorded
            say(f"{'':10}request {one.id}, {one.name} in project {one.project_id}")
        tell_more(len(findings))
