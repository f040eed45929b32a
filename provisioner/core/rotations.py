"""Secret rotations: what is requested, what Infisical has, and which rotations are ours. Pure.

Each of our creates gives its key at OpenRouter a unique name: the requested name and a mark that no other create has.
So a rotation that is found shows which create made it, without any clock, and the keys that our other creates may have
left behind are known by name.
"""

from collections.abc import Sequence
from typing import Final

from provisioner.core.description import is_description_of
from provisioner.core.model import Connection, OnConflict, Request, SentCreate, value

# Infisical's limit for the name of a key.
LONGEST_KEY_NAME: Final = 100
# Columns that only apply to the next key; they are sent together.
SPENDING: Final = frozenset({"spend_limit", "limit_reset", "include_byok"})
# Not a column: whether the key is replaced automatically, which can be switched off in Infisical.
AUTOMATIC: Final = "automatic"


@value
class RotationRequest(Request):
    """One row of `rotation_requests`, with the fields that making the rotation needs.

    `connection_id` is empty if its connection is not recorded. `spend_limit` is in OpenRouter's credits. `key_issued`
    is the name of the recorded rotation's key.
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
        """The noun for what it asks for."""
        return "rotation"

    @property
    def folder(self) -> tuple[str, str]:
        """Where it is in its project."""
        return (self.environment, self.secret_path)

    @property
    def taking_over(self) -> str:
        """None: somebody else's rotation is never replaced, because its key is in use."""
        return str(OnConflict.ADOPT)

    @property
    def reads_back(self) -> bool:
        """Everything that can be edited can be read."""
        return True

    def has_edits(self, found: Connection) -> bool:
        """Whether Infisical already has what was edited."""
        return isinstance(found, Rotation) and not self.edited.intersection(differing(self, found))

    @property
    def edited(self) -> frozenset[str]:
        """The columns that were edited."""
        named = {"name": self.edits.name, "description": self.edits.description}
        return self.edits.others.union(column for column, edited in named.items() if edited)

    @property
    def looks_up_first(self) -> bool:
        """A repeated create makes a second key, which can spend money and which nobody knows."""
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
        """Return the rotation, with what the request says about its secret and its keys."""
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
        """Describe the keys that stay at OpenRouter after the rotation is gone.

        `deleted`: our own call deleted it. Otherwise somebody else did, or our call's answer was lost.
        """
        names = [marked(self.key_name, sent.key_fingerprint) for sent in doubt if sent.key_fingerprint is not None]
        revoked = deleted and self.revoke_keys
        if self.recorded_id is None:
            return "" if revoked and len(names) == 1 else described(names)
        if revoked or not self.key_issued or (self.adopted and not self.edits.adopted):
            return described(names)
        return "; ".join(filter(None, (stays(self.key_issued, deleted=deleted), described(names))))

    def left_behind(self, doubt: tuple[SentCreate, ...], recorded: Connection | None) -> str:
        """Describe the keys that these creates may have left behind at OpenRouter."""
        has = recorded.key_name if isinstance(recorded, Rotation) else None
        names = [marked(self.key_name, sent.key_fingerprint) for sent in doubt if sent.key_fingerprint is not None]
        return described([name for name in dict.fromkeys(names) if name != has])


@value
class Rotation(Connection):
    """A secret rotation as Infisical describes it. Its key is never read.

    `with_secrets` and `revoke_keys` say what a deletion also removes. Fields that Infisical does not return are None.
    `failure`: why the last replacement of its key failed; empty if it succeeded.
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
        """Its identity, for people."""
        return f"secret rotation {self.name!r} in {self.environment or '?'}:{self.secret_path or '?'}"


@value
class RecordedRotation:
    """A succeeded request, with the fields that can be compared with Infisical."""

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
        """The noun for what was made."""
        return "rotation"

    @property
    def made(self) -> str:
        """The id of what was made."""
        return self.rotation_id

    @property
    def place(self) -> str:
        """Where it is in its project; comparisons go in this order."""
        return f"{self.environment}:{self.secret_path}:{self.name}"


def differing(asked: RotationRequest | RecordedRotation, found: Rotation) -> frozenset[str]:
    """Return the columns in which a rotation differs from the request, ignoring those left to Infisical."""
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
    """Return the mark of the key of one claim's create; the SQL that takes over claims writes the same."""
    return f"{request}.{attempt}-{fence & 0xFFFFFF:06x}"


def filled_in(template: str, *, project_name: str | None, project_id: str, environment: str) -> str:
    """Fill in the template of a key's name; a project without a name is represented by its id."""
    for word, text in (
        ("{project_name}", project_name or project_id),
        ("{project_id}", project_id),
        ("{environment}", environment),
    ):
        template = template.replace(word, text)
    return " ".join(template.split())


def marked(name: str, mark: str | None) -> str:
    """Append a mark to a key's name, within Infisical's limit."""
    suffix = f" #{mark}" if mark else ""
    return f"{name[: LONGEST_KEY_NAME - len(suffix)].rstrip()}{suffix}"


def stays(key: str, *, deleted: bool) -> str:
    """Say what to do about the key of a rotation that no longer exists."""
    if deleted:
        return (
            f'its key stays at OpenRouter, because it was removed without revoke_keys: delete the key named "{key}"'
            " there once nothing uses it"
        )
    return f'the rotation no longer existed, and its key may remain: delete any key named "{key}" at OpenRouter'


def described(names: Sequence[str]) -> str:
    """Say what to do about keys with these names."""
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
