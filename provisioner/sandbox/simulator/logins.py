"""How a machine identity gets its access token, and how failed attempts lock it out."""

import hmac
from dataclasses import dataclass, field
from typing import Any

from provisioner.sandbox.simulator import jwt
from provisioner.sandbox.simulator.answers import Refusal
from provisioner.sandbox.simulator.clock import Clock
from provisioner.sandbox.simulator.settings import Settings
from provisioner.sandbox.simulator.tokens import Tokens

__all__ = ["Logins"]

ATTEMPTS = 3
LOCKED_FOR = 300.0
FORGOTTEN_AFTER = 30.0


@dataclass(slots=True, kw_only=True)
class Logins:
    """Checks credentials. Times are seconds of the given clock."""

    tokens: Tokens
    settings: Settings
    clock: Clock
    client_id: str
    counts: dict[str, int] = field(default_factory=lambda: {"ok": 0, "refused": 0, "locked": 0})
    _secret_made: float = 0.0
    _secret_uses: int = 0
    _secret_revoked: bool = False
    _failures: int = 0
    _last_failure: float = 0.0
    _locked_until: float = 0.0

    def __post_init__(self) -> None:
        self._secret_made = self.clock()

    def renew_secret(self, secret: str) -> None:
        """Begin the life of a new client secret."""
        self.settings.client_secret = secret
        self._secret_made = self.clock()
        self._secret_uses = 0
        self._secret_revoked = False

    def unlock(self) -> None:
        """Forget failed attempts and end a lock."""
        self._failures = 0
        self._locked_until = 0.0

    def universal(self, client_id: str, secret: str) -> dict[str, Any]:
        """Return the answer to a login with client id and secret, or raise the refusal."""
        now = self.clock()
        if client_id != self.client_id:
            raise self._refusal("Invalid credentials")
        if now < self._locked_until:
            message = "This identity auth method is temporarily locked, please try again later"
            raise self._refusal(message, count="locked")
        right = hmac.compare_digest(secret.encode(), self.settings.client_secret.encode())
        if not right:
            self._note_failure(now)
        if not right or self._secret_revoked:
            raise self._refusal("Invalid credentials")
        self._failures = 0
        self._spend_secret(now)
        return self._grant()

    def _note_failure(self, now: float) -> None:
        if now - self._last_failure > FORGOTTEN_AFTER:
            self._failures = 0
        self._last_failure = now
        self._failures += 1
        if self._failures >= ATTEMPTS:
            self._failures = 0
            self._locked_until = now + LOCKED_FOR

    def _spend_secret(self, now: float) -> None:
        if self.settings.secret_ttl and now > self._secret_made + self.settings.secret_ttl:
            self._secret_revoked = True
            raise self._refusal("Access denied due to expired client secret")
        if self.settings.secret_uses and self._secret_uses >= self.settings.secret_uses:
            self._secret_revoked = True
            raise self._refusal("Access denied due to client secret usage limit reached")
        self._secret_uses += 1

    def by_jwt(self, identity_id: str, token: str) -> dict[str, Any]:
        """Return the answer to a login with another issuer's token: any of three parts that has not expired."""
        if identity_id != self.tokens.identity_id:
            raise self._refusal("Invalid credentials")
        if len(token.split(".")) != jwt.PARTS or not all(token.split(".")):
            raise self._refusal("Access denied: invalid token")
        expires = (jwt.decode_unverified(token) or {}).get("exp")
        if isinstance(expires, int | float) and self.clock() >= expires:
            raise self._refusal("Access denied: jwt expired")
        return self._grant()

    def require_organization(self, slug: object) -> None:
        """Raise the refusal of an identity that is not in the organization that a login names."""
        ours = self.settings.organization_slug
        if ours and slug is not None and slug != ours:
            raise self._refusal("Invalid credentials")

    def renew(self, token: str) -> dict[str, Any]:
        """Return the answer to a renewal."""
        renewed, row = self.tokens.renew(token)
        return _granted(renewed, row.ttl, row.max_ttl)

    def revoke(self, token: str) -> dict[str, Any]:
        """Return the answer to ending a token."""
        self.tokens.revoke(token)
        return {"message": "Successfully revoked access token"}

    def _grant(self) -> dict[str, Any]:
        self.counts["ok"] += 1
        ttl, uses = self.settings.token_ttl, self.settings.token_uses
        max_ttl = self.settings.token_max_ttl or ttl
        return _granted(self.tokens.mint(ttl=ttl, max_ttl=max_ttl, uses_limit=uses), ttl, max_ttl)

    def _refusal(self, message: str, *, count: str = "refused") -> Refusal:
        self.counts[count] += 1
        return Refusal(401, "UnauthorizedError", message)


def _granted(token: str, ttl: int, max_ttl: int) -> dict[str, Any]:
    return {"accessToken": token, "expiresIn": ttl, "accessTokenMaxTTL": max_ttl, "tokenType": "Bearer"}
