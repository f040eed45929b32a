"""Interpret refusals of Infisical or of a gateway, and say what to fix.

Pure. The status decides first, then `error`, then the beginning of `message`. Sentences about the access token are
recognised by their subject, because servers word them differently.

A refusal that is not Infisical's own proves nothing about a create: a gateway, a firewall or a login page may answer
after it went through.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from provisioner.core.model import Action, Observation, Proof, Result
from provisioner.infisical.parts import Envelope, Reply, clean, read_envelope, read_retry_after, shorten

ADDRESS_MESSAGE: Final = "You are not allowed to access this resource from the current IP address"
FOREIGN_PROJECT: Final = "This project does not belong"
OUTSIDE: Final = "You are not a member of this project"
UNEXPLAINED: Final = "Infisical answered 401 without a reason that we know"
FOREIGN: Final = "the server answered 401 and not as Infisical does"

# The refusals that Infisical gives before it inserts anything: `error` in its envelope, by status. A 409 is what the
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
# Each region of Infisical's cloud has its own identities; `app` is the US region's older name.
_REGIONS: Final = {
    "us.infisical.com": ("US", "https://eu.infisical.com", "EU"),
    "app.infisical.com": ("US", "https://eu.infisical.com", "EU"),
    "eu.infisical.com": ("EU", "https://us.infisical.com", "US"),
}

_WITH_KEY: Final = frozenset({Action.CREATE, Action.REPLACE, Action.UPDATE})
_LOOKING: Final = frozenset({Action.LOOK_UP, Action.IDENTIFY, Action.INSPECT, Action.CONFIRM})
_DELETING: Final = frozenset({Action.REMOVE, Action.DELETE})
_NAMING: Final = frozenset({Action.CREATE, Action.UPDATE})
# Results that only Infisical itself can state about a request.
_OWN: Final = frozenset(
    {
        Result.NOT_IN_PROJECT,
        Result.FOREIGN_PROJECT,
        Result.INVALID,
        Result.KEY_REFUSED,
        Result.FORBIDDEN,
        Result.PROJECT_MISSING,
        Result.ABSENT,
        Result.OTHER_APP,
    }
)

KEY_MESSAGE: Final = "Unable to validate connection"

# The words of a sentence about a token, its owner, or how it was obtained.
_about_token: Final = re.compile(
    r"\b(?:tokens?|jwt|re-?authenticate|client secret|auth(?:entication)? method|identity|membership|log ?in)\b",
    re.IGNORECASE,
).search
# The words of a sentence about the API key or OpenRouter: only another call can tell which.
_about_key: Final = re.compile(r"api[ -]?key|openrouter|validate|upstream", re.IGNORECASE).search
_used_up: Final = re.compile(r"usage limit|uses limit|number of uses", re.IGNORECASE).search
# Older servers use 400 for these, a status that is otherwise about the request.
_OLD_400: Final = (
    "Unable to renew because access token number of uses limit",
    "Identity does not belong to this organization",
)
_ability: Final = re.compile(r"not allowed to ([a-z-]{1,64}) on (app-connections|secret-rotation)").search
_ROTATIONS: Final = "secret-rotation"


def read_refusal(reply: Reply) -> Observation:
    """Interpret an answer that is not a success: what it means, and what it proves."""
    envelope = read_envelope(reply.body, secret=reply.asked.key)
    seen = _meaning(reply, envelope)
    if envelope is None:
        return seen
    proof = Proof.NONE
    if _is_infisicals(reply, envelope):
        proof = Proof.TAKEN if seen.result is Result.NAME_TAKEN else Proof.REFUSED
    return replace(seen, proof=proof, req_id=envelope.req_id)


def _is_infisicals(reply: Reply, envelope: Envelope) -> bool:
    """Whether this is Infisical's own refusal before the insert: its envelope, without anything odd."""
    return _is_enveloped(reply, envelope) and envelope.error in REFUSALS.get(reply.status, ())


def _is_enveloped(reply: Reply, envelope: Envelope) -> bool:
    """Whether the answer has Infisical's envelope, whatever error it names."""
    return envelope.req_id is not None and envelope.status in {None, reply.status} and reply.kind == "application/json"


def _meaning(reply: Reply, envelope: Envelope | None) -> Observation:
    asked, status = reply.asked, reply.status
    if status == 429:
        return _throttled(reply, envelope)
    if misled := misled_by(status, reply.headers, envelope):
        return reply.shows(Result.MISCONFIGURED, clean(misled, secret=asked.key), metered=False)
    if envelope is None:
        message = f"the server answered {status}, which is not how Infisical answers"
        return reply.shows(Result.UNKNOWN, message, metered=False)
    read = _FAILURE.get(status)
    if read is None:
        message = quoting(f"the server answered {status}", envelope.message)
        return reply.shows(Result.UNKNOWN, message, metered=False)
    seen = read(reply, envelope)
    # Infisical hides or keeps things for more reasons than it refuses to make any. A sentence about the key is enough:
    # another `error` proves nothing, and a login would not help.
    any_kind = asked.action not in _WITH_KEY or seen.result is Result.KEY_REFUSED
    own = _is_enveloped(reply, envelope) if any_kind else _is_infisicals(reply, envelope)
    if seen.result in _OWN and not own:
        # It is not Infisical's word, so it fails no request.
        said = f": {envelope.message}" if envelope.message else ""
        message = shorten(f"the server answered {status} and not as Infisical does{said}")
        return reply.shows(Result.TOKEN_TROUBLE if status == 401 else Result.UNKNOWN, message, metered=False)
    return seen


def misled_by(status: int, headers: Mapping[str, str], envelope: Envelope | None) -> str:
    """Say what to fix if this is not Infisical, or not the address of its API; empty if it may be."""
    if 300 <= status < 400:
        return _redirected(status, headers)
    if status == 404 and (envelope is None or envelope.req_id is None):
        said = envelope.message if envelope else ""
        return quoting("the server does not know this route: check the target's url and version", said)
    if status in {405, 407}:
        return f"the server answered {status}: check the target's url and proxy"
    return ""


def _throttled(reply: Reply, envelope: Envelope | None) -> Observation:
    if envelope is None:
        # A gateway's limiter says nothing about Infisical's.
        pause = read_retry_after(reply.headers, "", reply.now)
        return reply.shows(Result.THROTTLED, "over a rate limit before Infisical", metered=False, retry_after=pause)
    pause = read_retry_after(reply.headers, envelope.message, reply.now)
    return reply.shows(Result.THROTTLED, envelope.message, retry_after=pause)


def _redirected(status: int, headers: Mapping[str, str]) -> str:
    try:
        there = urlsplit(headers.get("location", ""))
        port = f":{there.port}" if there.port else ""
        to = f"{there.scheme or 'https'}://{there.hostname}{port}" if there.hostname else there.path
    except ValueError:
        to = ""
    where = f"redirects to {to}" if to else "does not say where to"
    return f"the server answered {status} and {where}: set the target's url to Infisical's address"


def _bad_request(reply: Reply, envelope: Envelope) -> Observation:
    message = envelope.message
    if is_old_token_error(envelope):
        return reply.shows(Result.TOKEN_TROUBLE, message, metered=False)
    if reply.asked.action in _DELETING and message.startswith("Cannot delete"):
        return reply.shows(Result.IN_USE, message)
    if reply.asked.action in _NAMING and "already exists" in message:
        return reply.shows(Result.NAME_TAKEN, message)
    if reply.asked.action in _LOOKING and "is not for App" in message:
        return reply.shows(Result.OTHER_APP, message)
    return reply.shows(Result.INVALID, message or "Infisical refused the request without saying why")


def _unauthorized(reply: Reply, envelope: Envelope) -> Observation:
    message = envelope.message
    if reply.asked.action in _WITH_KEY and is_about_key(envelope):
        return reply.shows(Result.KEY_REFUSED, key_refused(message))
    if is_about_token(envelope):
        return reply.shows(Result.TOKEN_TROUBLE, message, metered=False)
    return reply.shows(Result.TOKEN_TROUBLE, quoting(UNEXPLAINED, message), metered=False)


def _forbidden(reply: Reply, envelope: Envelope) -> Observation:
    if envelope.error == "TokenError":
        return reply.shows(Result.TOKEN_TROUBLE, envelope.message, metered=False)
    if envelope.message.startswith(ADDRESS_MESSAGE):
        # No row is at fault and a login does not help: the whole target waits until the identity is fixed.
        return reply.shows(Result.MISCONFIGURED, untrusted_address(envelope.message), metered=False)
    message = forbidden(envelope, reply.asked.project_id)
    if is_outside(envelope):
        return reply.shows(Result.NOT_IN_PROJECT, message)
    foreign = envelope.message.startswith(FOREIGN_PROJECT)
    return reply.shows(Result.FOREIGN_PROJECT if foreign else Result.FORBIDDEN, message)


def _not_found(reply: Reply, envelope: Envelope) -> Observation:
    if reply.asked.action is Action.CREATE or envelope.message.startswith("Project with ID"):
        return reply.shows(Result.PROJECT_MISSING, project_missing(envelope, reply.asked.project_id))
    return reply.shows(Result.ABSENT, envelope.message)


def _conflict(reply: Reply, envelope: Envelope) -> Observation:
    return reply.shows(Result.NAME_TAKEN if reply.asked.action in _NAMING else Result.INVALID, envelope.message)


def _unprocessable(reply: Reply, envelope: Envelope) -> Observation:
    return reply.shows(Result.INVALID, quoting("Infisical refuses the request's content", envelope.message))


_FAILURE: Final[dict[int, Callable[[Reply, Envelope], Observation]]] = {
    400: _bad_request,
    401: _unauthorized,
    403: _forbidden,
    404: _not_found,
    409: _conflict,
    422: _unprocessable,
}


def is_about_key(envelope: Envelope) -> bool:
    """Whether a 401 says that OpenRouter did not accept the key, or could not be reached."""
    return envelope.message.startswith(KEY_MESSAGE)


def is_about_token(envelope: Envelope) -> bool:
    """Whether a 401 is Infisical's own refusal of the access token, before the call did anything."""
    if envelope.req_id is None:
        return False
    if envelope.error == "TokenError":
        return True
    message = envelope.message
    return envelope.error == "UnauthorizedError" and bool(_about_token(message)) and not _about_key(message)


def is_old_token_error(envelope: Envelope) -> bool:
    """Whether a 400, which is otherwise about the request, is an older server's refusal of the access token."""
    return envelope.message.startswith(_OLD_400)


def is_used_up(message: str) -> bool:
    """Whether a token was refused because its number of uses is exhausted; the next login gets another."""
    return _used_up(message) is not None


def quoting(advice: str, message: str) -> str:
    """Return advice followed by Infisical's own words."""
    return shorten(f"{advice} (Infisical: {message})" if message else advice)


def elsewhere(host: str) -> str:
    """Add that the identity may belong to another Infisical than the one that was asked."""
    if host not in _REGIONS:
        return ", and that the target's url is that of the Infisical that has the identity" if host else ""
    region, other, other_region = _REGIONS[host]
    return (
        f", and the region: {host} is the {region} cloud; if the identity is in the {other_region} cloud or on a server"
        f" of your own, set the target's url (INFISICAL_HOST for target default) to {other} or to that server"
    )


def is_outside(envelope: Envelope) -> bool:
    """Whether a 403 says that the machine identity is not in the project."""
    return envelope.error == "ProjectMembershipNotFound" or envelope.message.startswith(OUTSIDE)


def forbidden(envelope: Envelope, project_id: str | None) -> str:
    """Name the missing permission, where it is missing, and who can grant it."""
    project = f"project {project_id}" if project_id else "the project"
    message = envelope.message
    if message.startswith(FOREIGN_PROJECT):
        advice = f"{project} belongs to another organization: use the target of that organization"
    elif message.startswith("You are not a member of this organization"):
        advice = "the machine identity is not in the organization: add it there, under Access Control"
    elif is_outside(envelope):
        advice = f"the machine identity is not in {project}: add it there, with a role that may create app connections"
    else:
        asked = _ability(message)
        ability = asked[1] if asked else "create-app-connections"
        verb = ability.partition("-")[0]
        rotations = asked is not None and asked[2] == _ROTATIONS
        subject = "Secret Rotations" if rotations else "App Connections"
        ability = f"{ability} on {_ROTATIONS}" if rotations else ability
        advice = (
            f"the machine identity lacks the permission {ability} in {project}: give it a role there that allows"
            f" '{verb}' on {subject}; a new grant takes about 10 s to take effect"
        )
    return quoting(advice, message)


def project_missing(envelope: Envelope, project_id: str | None) -> str:
    """Say that the project does not exist for this organization."""
    project = f"project {project_id}" if project_id else "such project"
    return quoting(f"there is no {project}: check project_id and the target", envelope.message)


def key_refused(message: str) -> str:
    """Say what the refusal of a key means, and what else it may mean."""
    return quoting(
        "OpenRouter does not accept the key, or could not be asked: it has to be a valid management"
        " (provisioning) key, not an inference key",
        message,
    )


def untrusted_address(message: str) -> str:
    """Say that the identity may not be used from this worker's address."""
    return quoting("the machine identity does not trust this worker's address: add it to its trusted IPs", message)
