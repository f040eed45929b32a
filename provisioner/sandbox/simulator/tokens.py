"""Access tokens: how they are made, believed, renewed and ended.

A token ends in one of three ways that a client sees differently: it is `expired` by its own words, it has `lapsed` by
the database's, or its row is gone.
"""

from dataclasses import dataclass
from typing import Literal

from provisioner.sandbox.simulator import jwt
from provisioner.sandbox.simulator.answers import Refusal, not_found
from provisioner.sandbox.simulator.clock import Clock
from provisioner.sandbox.simulator.seeds import Seeds

__all__ = ["Identity", "Token", "Tokens"]

Identity = Literal["ok", "removed", "untrusted-address"]
"""Whether the identity may use its tokens."""

SCHEME_LENGTH = len("Bearer ")


@dataclass(slots=True, kw_only=True)
class Token:
    """What the database knows about a token; `ttl`, `max_ttl` and `uses_limit` of 0 mean no limit."""

    id: str
    ttl: int
    max_ttl: int
    uses_limit: int
    created: float
    renewed: float
    uses: int = 0
    end: Literal["open", "expired", "lapsed"] = "open"


class Tokens:
    """Mints tokens and tells which ones hold."""

    def __init__(self, seeds: Seeds, clock: Clock) -> None:
        self._key = seeds.named_secret("signing key").encode()
        self._seeds = seeds
        self._clock = clock
        self._rows: dict[str, Token] = {}
        self.identity_id = seeds.named_uuid("identity")
        self.identity: Identity = "ok"

    def judge(self, identity: Identity) -> None:
        """Let the identity be like this from now on."""
        self.identity = identity

    def mint(self, *, ttl: int, max_ttl: int = 0, uses_limit: int = 0) -> str:
        """Return a new access token that lives `ttl` seconds; 0 is for ever."""
        now = self._clock()
        row = Token(id=self._seeds.uuid(), ttl=ttl, max_ttl=max_ttl, uses_limit=uses_limit, created=now, renewed=now)
        self._rows[row.id] = row
        return self._sign(row)

    def _sign(self, row: Token) -> str:
        issued = int(row.renewed)
        payload: dict[str, object] = {
            "identityId": self.identity_id,
            "clientSecretId": self._seeds.named_uuid("client secret id"),
            "identityAccessTokenId": row.id,
            "authTokenType": "identityAccessToken",
            "iat": issued,
        }
        return jwt.sign(payload | {"exp": issued + row.ttl} if row.ttl else payload, self._key)

    def authenticate(self, authorization: str | None) -> Token:
        """Return the token of a header, or raise the refusal. It counts as one use of the token."""
        if authorization is None:
            raise _unauthorized("Token missing")
        # The server cuts off seven characters, whatever they are.
        text = authorization[SCHEME_LENGTH:]
        if text.startswith("st."):
            raise not_found("Service token not found")
        row = self._row(text)
        if self.identity == "untrusted-address":
            message = "You are not allowed to access this resource from the current IP address"
            raise Refusal(403, "ForbiddenError", message)
        if self.identity == "removed":
            raise Refusal(400, "BadRequest", "Identity does not belong to this organization")
        if row.end == "lapsed":
            del self._rows[row.id]
            raise _unauthorized("Failed to renew MI access token due to TTL expiration")
        if row.uses_limit and row.uses >= row.uses_limit:
            del self._rows[row.id]
            raise _unauthorized("Unable to renew because access token number of uses limit reached")
        row.uses += 1
        return row

    def _row(self, text: str) -> Token:
        try:
            payload = jwt.verify(text, self._key, self._clock())
        except jwt.InvalidToken as error:
            raise Refusal(403, "TokenError", str(error)) from None
        if payload.get("authTokenType") != "identityAccessToken":
            raise _unauthorized("Token missing")
        row = self._rows.get(str(payload.get("identityAccessTokenId")))
        if row is None:
            raise _unauthorized("No identity access token found")
        if row.end == "expired":
            raise _expired()
        return row

    def renew(self, text: str) -> tuple[str, Token]:
        """Return a new token in place of one that still holds; past its longest life, the old one ends too."""
        row = self._row(text)
        now = self._clock()
        if row.max_ttl and now + row.ttl > row.created + row.max_ttl:
            del self._rows[row.id]
            raise _unauthorized("Failed to renew MI access token past its Max TTL expiration")
        row.renewed = now
        return self._sign(row), row

    def revoke(self, text: str) -> None:
        """End one token."""
        del self._rows[self._row(text).id]

    def revoke_all(self) -> None:
        """End every token."""
        self._rows.clear()

    def end_all(self, end: Literal["expired", "lapsed"]) -> None:
        """Let every token that there is end in this way."""
        for row in self._rows.values():
            row.end = end

    def expire(self, row: Token) -> Refusal:
        """Let a token be expired from now on; return the refusal that says so."""
        row.end = "expired"
        return _expired()


def _expired() -> Refusal:
    return Refusal(403, "TokenError", jwt.EXPIRED)


def _unauthorized(message: str) -> Refusal:
    return Refusal(401, "UnauthorizedError", message)
