"""Secret rotations: what is asked for, what Infisical has, and which of them is our own making. Pure.

Every create of ours names its key at OpenRouter for itself: the name that was asked for, and a mark that no other
create has. So the rotation that is found tells which create made it, without any clock, and the keys that others of our
creates may have left behind are known by name.
"""

from collections.abc import Sequence
from typing import Final

from provisioner.core.model import Connection, Request, SentCreate, value

# What Infisical takes for the name of a key.
LONGEST_KEY_NAME: Final = 100


@value
class RotationRequest(Request):
    """One row of `rotation_requests`, as far as making the rotation needs it.

    `connection_id` is empty where its connection is not recorded. `spend_limit` is in OpenRouter's credits.
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

    @property
    def looks_first(self) -> bool:
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

    def left_behind(self, doubt: tuple[SentCreate, ...], recorded: Connection | None) -> str:
        """In words, which keys these creates may have left behind at OpenRouter."""
        has = recorded.key_name if isinstance(recorded, Rotation) else None
        names = [marked(self.key_name, sent.key_fingerprint) for sent in doubt if sent.key_fingerprint is not None]
        return described([name for name in dict.fromkeys(names) if name != has])


@value
class Rotation(Connection):
    """A secret rotation as Infisical describes it. Its key is never read.

    `with_secrets` and `revoke_keys` say what a deletion takes with it.
    """

    connection_id: str
    key_name: str
    with_secrets: bool = False
    revoke_keys: bool = False


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
