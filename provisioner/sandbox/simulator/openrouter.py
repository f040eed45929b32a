"""The keys at OpenRouter: what Infisical's rotations make there, and what is left behind when one of them fails."""

from dataclasses import dataclass, field
from typing import Any

from provisioner.sandbox.simulator.seeds import Seeds

__all__ = ["Key", "KeyStore"]


@dataclass(slots=True, kw_only=True)
class Key:
    """One ordinary API key. It can spend money from the moment it is issued until it is revoked.

    `made_by` is the fingerprint of the management key that asked for it. `rotation_id` is the rotation that has it;
    None where whatever asked for it failed afterwards: nobody knows the key, and it stays.
    """

    hash: str
    name: str
    value: str = field(repr=False)
    made_by: str
    limit: float | None
    limit_reset: str | None
    include_byok: bool
    created_at: str
    rotation_id: str | None = None

    def public(self) -> dict[str, Any]:
        """Return it as `/_simulator/state` shows it, without the key itself."""
        return {
            "hash": self.hash,
            "name": self.name,
            "madeBy": self.made_by,
            "limit": self.limit,
            "limitReset": self.limit_reset,
            "includeByok": self.include_byok,
            "createdAt": self.created_at,
            "rotationId": self.rotation_id,
        }


@dataclass(slots=True, kw_only=True)
class KeyStore:
    """OpenRouter's list of keys, by their hash; names need not be unique there."""

    seeds: Seeds
    keys: dict[str, Key] = field(default_factory=dict)
    issued: int = 0

    def issue(self, *, made_by: str, parameters: dict[str, Any], at: str) -> Key:
        """Make a key."""
        self.issued += 1
        key = Key(
            hash=self.seeds.named_secret(f"key {self.issued}"),
            name=parameters["name"],
            value=f"sk-or-v1-generated-{self.issued}",
            made_by=made_by,
            limit=parameters.get("limit"),
            limit_reset=parameters.get("limitReset"),
            include_byok=bool(parameters.get("includeByokInLimit", False)),
            created_at=at,
        )
        self.keys[key.hash] = key
        return key

    def revoke(self, hash_: str) -> None:
        """Let a key be gone."""
        self.keys.pop(hash_, None)
