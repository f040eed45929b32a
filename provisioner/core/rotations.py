"""Secret rotations: what is asked for, what Infisical has, and which of them is our own making. Pure.

Every create of ours names its key at OpenRouter for itself: the name that was asked for, and a mark that no other
create has. So the rotation that is found tells which create made it, without any clock, and the keys that others of our
creates may have left behind are known by name.
"""

from collections.abc import Sequence
from typing import Final

from provisioner.core.description import is_description_of
from provisioner.core.model import Connection, OnConflict, Request, SentCreate, value

# What Infisical takes for the name of a key.
LONGEST_KEY_NAME: Final = 100
# Columns whose new value only the next key has; they are sent together.
SPENDING: Final = frozenset({"spend_limit", "limit_reset", "include_byok"})
# No column: that the key is replaced by itself, which somebody may have switched off in Infisical.
AUTOMATIC: Final = "automatic"


@value
class RotationRequest(Request):
    """One row of `rotation_requests`, as far as making the rotation needs it.

    `connection_id` is empty where its connection is not recorded. `spend_limit` is in OpenRouter's credits.
    `key_issued` is the name of the recorded rotation's key.
    """

    connection_id: str
    environment: str
    secret_path: str
    secret_name: str
    interval_days: int
    rotate_at: tuple[int, int]
    key_name: str
    spend_limit: float | None = None
    limit_reset: str | None = None
    include_byok: bool | None = None
    with_secrets: bool = False
    revoke_keys: bool = False
    key_issued: str | None = None

    @property
    def thing(self) -> str:
        """What it asks for, in a word."""
        return "rotation"

    @property
    def taking_over(self) -> str:
        """Nothing of somebody else's rotation is replaced: its key is in use."""
        return str(OnConflict.ADOPT)

    @property
    def reads_back(self) -> bool:
        """All that can be edited can be read."""
        return True

    def has_edits(self, found: Connection) -> bool:
        """Whether what was edited is there already."""
        return isinstance(found, Rotation) and not self.edited.intersection(differing(self, found))

    @property
    def edited(self) -> frozenset[str]:
        """The columns that were edited."""
        named = {"name": self.edits.name, "description": self.edits.description}
        return self.edits.others.union(column for column, edited in named.items() if edited)

    @property
    def looks_up_first(self) -> bool:
        """A create that is repeated makes a second key, which can spend money and is known to nobody."""
        return True

    @property
    def marked_key_name(self) -> str:
        """The name under which OpenRouter lists the key that this claim's create makes."""
        return marked(self.key_name, self.mark)

    def recognises(self, found: Connection, doubt: tuple[SentCreate, ...]) -> bool | None:
        """Whether the name of its key has the mark of one of these creates."""
        return isinstance(found, Rotation) and any(
            sent.key_fingerprint is not None and found.key_name.endswith(f"#{sent.key_fingerprint}") for sent in doubt
        )

    def removing(self, found: Connection) -> Connection:
        """The rotation, with what is to become of its secret and its keys."""
        return Rotation(
            id=found.id,
            project_id=found.project_id,
            org_id=None,
            credentials_hash="",
            name=found.name,
            app=found.app,
            method=found.method,
            description=found.description,
            created_at=found.created_at,
            connection_id=self.connection_id,
            key_name=found.key_name if isinstance(found, Rotation) else "",
            with_secrets=self.with_secrets,
            revoke_keys=self.revoke_keys,
        )

    def left_by_removal(self, doubt: tuple[SentCreate, ...], *, deleted: bool) -> str:
        """In words, which keys stay at OpenRouter once the rotation is not there any more.

        `deleted`: our own call deleted it, as its answer says. Otherwise somebody else did, or the answer was lost.
        """
        names = [marked(self.key_name, sent.key_fingerprint) for sent in doubt if sent.key_fingerprint is not None]
        revoked = deleted and self.revoke_keys
        if self.recorded_id is None:
            return "" if revoked and len(names) == 1 else described(names)
        if revoked or not self.key_issued or (self.adopted and not self.edits.adopted):
            return described(names)
        return "; ".join(filter(None, (stays(self.key_issued, deleted=deleted), described(names))))

    def left_behind(self, doubt: tuple[SentCreate, ...], recorded: Connection | None) -> str:
        """In words, which keys these creates may have left behind at OpenRouter."""
        has = recorded.key_name if isinstance(recorded, Rotation) else None
        names = [marked(self.key_name, sent.key_fingerprint) for sent in doubt if sent.key_fingerprint is not None]
        return described([name for name in dict.fromkeys(names) if name != has])


@value
class Rotation(Connection):
    """A secret rotation as Infisical describes it. Its key is never read.

    `with_secrets` and `revoke_keys` say what a deletion takes with it. What its description lacks is None. `failure`:
    why its key could not be replaced the last time, empty if it was.
    """

    connection_id: str
    key_name: str
    with_secrets: bool = False
    revoke_keys: bool = False
    environment: str | None = None
    secret_path: str | None = None
    secret_name: str | None = None
    interval_days: int | None = None
    rotate_at: tuple[int, int] | None = None
    spend_limit: float | None = None
    limit_reset: str | None = None
    include_byok: bool | None = None
    automatic: bool = True
    failure: str = ""

    @property
    def described(self) -> str:
        """Which one it is, for people."""
        return f"secret rotation {self.name!r} in {self.environment or '?'}:{self.secret_path or '?'}"


@value
class RecordedRotation:
    """A succeeded request, as far as Infisical's side can be compared with it."""

    id: int
    target: str
    project_id: str
    project_name: str | None
    name: str
    description: str | None
    adopted: bool
    rotation_id: str
    environment: str
    secret_path: str
    secret_name: str
    interval_days: int
    rotate_at: tuple[int, int]
    spend_limit: float | None
    limit_reset: str | None
    include_byok: bool | None

    @property
    def thing(self) -> str:
        """What was made, in a word."""
        return "rotation"

    @property
    def made(self) -> str:
        """The id of what was made."""
        return self.rotation_id

    @property
    def place(self) -> str:
        """Where it is in its project: in this order they are compared."""
        return f"{self.environment}:{self.secret_path}:{self.name}"


def differing(asked: RotationRequest | RecordedRotation, found: Rotation) -> frozenset[str]:
    """The columns in which a rotation is not as it was asked for. What was left to Infisical is as it should be."""
    same = {
        "name": found.name == asked.name,
        "description": is_description_of(asked.id, asked.description, found.description or ""),
        "secret_name": found.secret_name in {None, asked.secret_name},
        "interval_days": found.interval_days in {None, asked.interval_days},
        "rotate_at": found.rotate_at in {None, asked.rotate_at},
        "spend_limit": found.spend_limit == asked.spend_limit,
        "limit_reset": found.limit_reset == asked.limit_reset,
        "include_byok": bool(found.include_byok) == bool(asked.include_byok),
        AUTOMATIC: found.automatic,
    }
    return frozenset(column for column, is_same in same.items() if not is_same)


def mark_of_claim(request: int, attempt: int, fence: int) -> str:
    """What tells the key of one claim's create from all others; SQL that takes claims over writes the same."""
    return f"{request}.{attempt}-{fence & 0xFFFFFF:06x}"


def filled_in(template: str, *, project_name: str | None, project_id: str, environment: str) -> str:
    """The name of a key, as its template says; a project without a name is named by its id."""
    for word, text in (
        ("{project_name}", project_name or project_id),
        ("{project_id}", project_id),
        ("{environment}", environment),
    ):
        template = template.replace(word, text)
    return " ".join(template.split())


def marked(name: str, mark: str | None) -> str:
    """A key's name with its mark, as long as Infisical takes it."""
    suffix = f" #{mark}" if mark else ""
    return f"{name[: LONGEST_KEY_NAME - len(suffix)].rstrip()}{suffix}"


def stays(key: str, *, deleted: bool) -> str:
    """What to do about the key of a rotation that is not there any more."""
    if deleted:
        return (
            f'its key stays at OpenRouter, as it was removed without revoke_keys: delete the key named "{key}" there'
            " once nothing uses it"
        )
    return f'the rotation was gone already, and its key may be left: delete any key named "{key}" at OpenRouter'


def described(names: Sequence[str]) -> str:
    """What to do about keys of these names."""
    if not names:
        return ""
    listed = ", ".join(f'"{name}"' for name in names)
    if len(names) == 1:
        return (
            f"a create got no answer and may have left a key behind: if OpenRouter lists a key named {listed},"
            " delete it there; no rotation uses it"
        )
    return (
        f"creates got no answer and may have left keys behind: if OpenRouter lists keys named {listed},"
        " delete them there; no rotation uses them"
    )
