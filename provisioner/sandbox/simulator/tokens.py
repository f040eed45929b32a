"""Access tokens: how they are made, believed, renewed and ended.

A token ends in ways that a client sees differently: it is `expired` by its own words, it has `lapsed` by the server's,
or something was revoked that it came from.
"""

from dataclasses import dataclass, replace
from typing import Literal

from provisioner.sandbox.simulator import jwt
from provisioner.sandbox.simulator.answers import Refusal, not_found
from provisioner.sandbox.simulator.clock import Clock
from provisioner.sandbox.simulator.seeds import Seeds

__all__ = ["LONGEST", "Identity", "Revoked", "Token", "Tokens"]

Identity = Literal["ok", "removed", "inactive", "untrusted-address"]
"""Whether the identity may use its tokens."""

Revoked = Literal["token", "auth method", "client secret", "identity tokens"]
"""What was revoked, as the refusal names it."""

End = Revoked | Literal["open", "expired", "lapsed"]

LONGEST = 7_776_000
"""The life of a token without a time to live, in seconds."""

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
    end: End = "open"


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
        if not authorization:
            raise _unauthorized("Token missing")
        # The server cuts off seven characters, whatever they are.
        text = authorization[SCHEME_LENGTH:]
        if text.startswith("st."):
            raise not_found(f"Service token with ID '{text.split('.')[1]}' not found")
        row = self._row(text)
        if row.end == "lapsed":
            raise _unauthorized("Identity access token exceeded max age, please re-authenticate")
        if row.end != "open":
            raise _unauthorized(f"Failed to authorize: {_revoked(row.end)}")
        match self.identity:
            case "untrusted-address":
                message = "You are not allowed to access this resource from the current IP address"
                raise Refusal(403, "ForbiddenError", message)
            case "removed":
                raise _unauthorized("Identity is not a member of the organization")
            case "inactive":
                raise _unauthorized("Identity organization membership is inactive")
        if row.uses_limit and row.uses >= row.uses_limit:
            raise _unauthorized("Failed to authorize: token usage limit reached")
        row.uses += 1
        return row

    def _row(self, text: str) -> Token:
        try:
            payload = jwt.verify(text, self._key, self._clock())
        except jwt.InvalidToken as error:
            raise Refusal(403, "TokenError", str(error)) from None
        if payload.get("authTokenType") != "identityAccessToken":
            raise _unauthorized("Token missing")
        if not all(isinstance(payload.get(claim), str) for claim in ("identityId", "identityAccessTokenId")):
            raise _unauthorized("Invalid identity access token claims, please re-authenticate")
        row = self._rows.get(str(payload["identityAccessTokenId"]))
        if row is None:
            raise _unauthorized("No identity access token found")
        if row.end == "expired":
            raise _expired()
        return row

    def renew(self, text: str) -> tuple[str, Token]:
        """Return another token beside one that still holds; both live on."""
        row = self._row(text)
        if row.end != "open":
            raise _unauthorized(f"Cannot renew: {_revoked(row.end)}")
        another = replace(row, id=self._seeds.uuid(), renewed=self._clock(), uses=0)
        self._rows[another.id] = another
        return self._sign(another), another

    def revoke(self, text: str) -> None:
        """End one token, or leave it as dead as it is."""
        row = self._row(text)
        if row.end == "open":
            row.end = "token"

    def revoke_all(self, what: Revoked | Literal[""]) -> None:
        """End every token because this was revoked; nothing is nothing."""
        if what:
            self.end_all(what)

    def end_all(self, end: End) -> None:
        """Let every token that there is end in this way."""
        for row in self._rows.values():
            row.end = end

    def expire(self, row: Token) -> Refusal:
        """Let a token be expired from now on; return the refusal that says so."""
        row.end = "expired"
        return _expired()


def _revoked(what: str) -> str:
    return f"{what} {'have' if what.endswith('s') else 'has'} been revoked"


def _expired() -> Refusal:
    return Refusal(403, "TokenError", jwt.EXPIRED)


def _unauthorized(message: str) -> Refusal:
    return Refusal(401, "UnauthorizedError", message)
