"""How a machine identity gets its access token, and how failed attempts lock it out."""

import hmac
from dataclasses import dataclass, field
from typing import Any

from provisioner.sandbox.simulator import jwt
from provisioner.sandbox.simulator.answers import Refusal, internal, not_found
from provisioner.sandbox.simulator.clock import Clock
from provisioner.sandbox.simulator.settings import Settings
from provisioner.sandbox.simulator.tokens import LONGEST, Tokens
from provisioner.sandbox.simulator.validation import JS_SPACE, UUID

__all__ = ["Logins"]

ATTEMPTS = 3
LOCKED_FOR = 300.0
FORGOTTEN_AFTER = 30.0
METHODS = {"kubernetes-auth": "Kubernetes", "oidc-auth": "OIDC", "jwt-auth": "JWT"}


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

    def universal(self, client_id: str, secret: str, organization: str | None) -> dict[str, Any]:
        """Return the answer to a login with client id and secret, or raise the refusal."""
        now = self.clock()
        client_id, secret = client_id.strip(JS_SPACE), secret.strip(JS_SPACE)
        if "\0" in client_id:
            raise internal(error="Find one")
        if client_id != self.client_id or self.tokens.identity == "removed":
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
        self._require_organization(organization)
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

    def by_jwt(self, method: str, identity_id: str, token: str, organization: str | None) -> dict[str, Any]:
        """Return the answer to a login with another issuer's token: any of three parts that has not expired."""
        if not UUID.match(identity_id):
            raise internal(error="Find one")
        if identity_id != self.tokens.identity_id or self.tokens.identity == "removed":
            self.counts["refused"] += 1
            kind = METHODS[method]
            message = f"{kind} auth method not found for identity, did you configure {kind} auth?"
            raise not_found(message)
        if len(token.split(".")) != jwt.PARTS or not all(token.split(".")):
            raise self._refusal("Access denied: invalid token")
        expires = (jwt.decode_unverified(token) or {}).get("exp")
        if isinstance(expires, int | float) and self.clock() >= expires:
            raise self._refusal("Access denied: jwt expired")
        self._require_organization(organization)
        return self._grant()

    def _require_organization(self, slug: str | None) -> None:
        """Raise the refusal of a login that names another organization than ours."""
        if slug is not None and slug != self.settings.organization_slug:
            self.counts["refused"] += 1
            raise not_found(f"Sub organization with name {slug} not found")

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
        uses, max_ttl = self.settings.token_uses, self.settings.token_max_ttl or self.settings.token_ttl
        ttl = self.settings.token_ttl or LONGEST
        return _granted(self.tokens.mint(ttl=ttl, max_ttl=max_ttl, uses_limit=uses), ttl, max_ttl)

    def _refusal(self, message: str, *, count: str = "refused") -> Refusal:
        self.counts[count] += 1
        return Refusal(401, "UnauthorizedError", message)


def _granted(token: str, ttl: int, max_ttl: int) -> dict[str, Any]:
    return {"accessToken": token, "expiresIn": ttl, "accessTokenMaxTTL": max_ttl, "tokenType": "Bearer"}
