"""Read the answers by which Infisical, or what stands before it, refuses.

Pure. Decided by status, then by `error`, then by how `message` begins.

What is not Infisical's own refusal proves nothing of a create that was sent: a gateway, a firewall or a login page may
answer after it went through.
"""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from provisioner.core.model import Action, Proof, Result
from provisioner.infisical import advice
from provisioner.infisical.headers import read_retry_after
from provisioner.infisical.shapes import Envelope, read_envelope
from provisioner.infisical.text import clean, shorten
from provisioner.infisical.tokens import is_about_key, is_about_token, is_old_token_error
from provisioner.infisical.verdict import Asked, Verdict

ADDRESS_MESSAGE: Final = "You are not allowed to access this resource from the current IP address"
UNEXPLAINED: Final = "Infisical answered 401 without a reason that we know"
FOREIGN: Final = "the server answered 401 and not as Infisical does"

# The refusals that Infisical gives before it inserts anything, by status: `error` in its envelope. A 409 is what the
# documentation promises for a name that is taken.
REFUSALS: Final[dict[int, frozenset[str]]] = {
    400: frozenset({"BadRequest"}),
    401: frozenset({"UnauthorizedError", "TokenError"}),
    403: frozenset({"TokenError", "ForbiddenError", "PermissionDenied", "ProjectMembershipNotFound"}),
    404: frozenset({"NotFound"}),
    409: frozenset({"BadRequest", "Conflict"}),
    422: frozenset({"ValidationFailure"}),
    429: frozenset({"RateLimitExceeded"}),
}

_WITH_KEY: Final = frozenset({Action.CREATE, Action.REPLACE})
_LOOKING: Final = frozenset({Action.LOOK_UP, Action.IDENTIFY, Action.INSPECT})
# What only Infisical itself can say of a request.
_OWN: Final = frozenset(
    {Result.INVALID, Result.KEY_REFUSED, Result.FORBIDDEN, Result.PROJECT_MISSING, Result.ABSENT, Result.OTHER_APP}
)


def read_refusal(asked: Asked, status: int, headers: Mapping[str, str], body: bytes, now: float | None) -> Verdict:
    """What an answer that is no success means, and proves; `now` in seconds since 1970."""
    envelope = read_envelope(body, secret=asked.key)
    verdict = _meaning(asked, status, headers, envelope, now)
    if envelope is not None and _is_infisicals(status, headers, envelope):
        return verdict._replace(proof=Proof.TAKEN if verdict.result is Result.NAME_TAKEN else Proof.REFUSED)
    return verdict


def _is_infisicals(status: int, headers: Mapping[str, str], envelope: Envelope) -> bool:
    """Whether this is Infisical's own refusal, of a stage before the insert: its envelope, and nothing that is odd."""
    return _is_enveloped(status, headers, envelope) and envelope.error in REFUSALS.get(status, ())


def _is_enveloped(status: int, headers: Mapping[str, str], envelope: Envelope) -> bool:
    """Whether the answer is in Infisical's envelope, whatever kind of error it names."""
    return (
        envelope.req_id is not None
        and envelope.status in {None, status}
        and headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    )


def _meaning(
    asked: Asked, status: int, headers: Mapping[str, str], envelope: Envelope | None, now: float | None
) -> Verdict:
    if status == 429:
        return _throttled(headers, envelope, now)
    if misled := misled_by(status, headers, envelope):
        return Verdict(Result.MISCONFIGURED, clean(misled, secret=asked.key), metered=False)
    if envelope is None:
        return Verdict(
            Result.UNKNOWN, f"the server answered {status} and which is not how Infisical answers", metered=False
        )
    read = _FAILURE.get(status)
    if read is None:
        message = advice.quoting(f"the server answered {status}", envelope.message)
        return Verdict(Result.UNKNOWN, message, metered=False, req_id=envelope.req_id)
    verdict = read(asked, envelope)._replace(req_id=envelope.req_id)
    if asked.action not in _WITH_KEY:
        own = envelope.req_id is not None  # Infisical has more reasons not to show something than not to make it
    elif verdict.result is Result.KEY_REFUSED:
        # Its sentence about the key says enough: another word for the kind of error proves nothing, and no login helps.
        own = _is_enveloped(status, headers, envelope)
    else:
        own = _is_infisicals(status, headers, envelope)
    if verdict.result in _OWN and not own:
        # Somebody else's word: it fails no request.
        said = f": {envelope.message}" if envelope.message else ""
        message = shorten(f"the server answered {status} and not as Infisical does{said}")
        observation = Result.TOKEN_TROUBLE if status == 401 else Result.UNKNOWN
        return Verdict(observation, message, metered=False, req_id=envelope.req_id)
    return verdict


def misled_by(status: int, headers: Mapping[str, str], envelope: Envelope | None) -> str:
    """What to mend if this is not Infisical, or not the address of its API; empty if it may well be."""
    if 300 <= status < 400:
        return _redirected(status, headers)
    if status == 404 and (envelope is None or envelope.req_id is None):
        said = envelope.message if envelope else ""
        return advice.quoting("the server does not know this route: check the target's url and version", said)
    if status in {405, 407}:
        return f"the server answered {status}: check the target's url and proxy"
    return ""


def _throttled(headers: Mapping[str, str], envelope: Envelope | None, now: float | None) -> Verdict:
    if envelope is None:
        # A gateway's limiter: it says nothing about Infisical's own.
        pause = read_retry_after(headers, "", now)
        return Verdict(Result.THROTTLED, "over a rate limit before Infisical", metered=False, retry_after=pause)
    pause = read_retry_after(headers, envelope.message, now)
    return Verdict(Result.THROTTLED, envelope.message, req_id=envelope.req_id, retry_after=pause)


def _redirected(status: int, headers: Mapping[str, str]) -> str:
    try:
        there = urlsplit(headers.get("location", ""))
        port = f":{there.port}" if there.port else ""
        to = f"{there.scheme or 'https'}://{there.hostname}{port}" if there.hostname else there.path
    except ValueError:
        to = ""
    where = f"redirects to {to}" if to else "does not say where to"
    return f"the server answered {status} and {where}: set the target's url to Infisical's address"


def _bad_request(asked: Asked, envelope: Envelope) -> Verdict:
    message = envelope.message
    if is_old_token_error(envelope):
        return Verdict(Result.TOKEN_TROUBLE, message, metered=False)
    if asked.action is Action.CREATE and "already exists" in message:
        return Verdict(Result.NAME_TAKEN, message)
    if asked.action in _LOOKING and "is not for App" in message:
        return Verdict(Result.OTHER_APP, message)
    return Verdict(Result.INVALID, message or "Infisical refused the request without saying why")


def _unauthorized(asked: Asked, envelope: Envelope) -> Verdict:
    message = envelope.message
    if asked.action in _WITH_KEY and is_about_key(envelope):
        return Verdict(Result.KEY_REFUSED, advice.key_refused(message))
    if is_about_token(envelope):
        return Verdict(Result.TOKEN_TROUBLE, message, metered=False)
    return Verdict(Result.TOKEN_TROUBLE, advice.quoting(UNEXPLAINED, message), metered=False)


def _forbidden(asked: Asked, envelope: Envelope) -> Verdict:
    if envelope.error == "TokenError":
        return Verdict(Result.TOKEN_TROUBLE, envelope.message, metered=False)
    if envelope.message.startswith(ADDRESS_MESSAGE):
        # Nobody's row is at fault and no login helps: the whole target waits until the identity is fixed.
        return Verdict(Result.MISCONFIGURED, advice.untrusted_address(envelope.message), metered=False)
    return Verdict(Result.FORBIDDEN, advice.forbidden(envelope, asked.project_id))


def _not_found(asked: Asked, envelope: Envelope) -> Verdict:
    if asked.action is Action.CREATE or envelope.message.startswith("Project with ID"):
        return Verdict(Result.PROJECT_MISSING, advice.project_missing(envelope, asked.project_id))
    return Verdict(Result.ABSENT, envelope.message)


def _conflict(asked: Asked, envelope: Envelope) -> Verdict:
    return Verdict(Result.NAME_TAKEN if asked.action is Action.CREATE else Result.INVALID, envelope.message)


def _unprocessable(_asked: Asked, envelope: Envelope) -> Verdict:
    return Verdict(Result.INVALID, advice.quoting("Infisical refuses the request's content", envelope.message))


_FAILURE: Final[dict[int, Callable[[Asked, Envelope], Verdict]]] = {
    400: _bad_request,
    401: _unauthorized,
    403: _forbidden,
    404: _not_found,
    409: _conflict,
    422: _unprocessable,
}
