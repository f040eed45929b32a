"""Tell whether a refusal is about the access token: by what kind of sentence it is, for servers word it differently.

Pure.
"""

import re
from typing import Final

from provisioner.infisical.shapes import Envelope

KEY_MESSAGE: Final = "Unable to validate connection"

# What a sentence about a token, about who holds it or about how it was obtained speaks of.
_about_token: Final = re.compile(
    r"\b(?:tokens?|jwt|re-?authenticate|client secret|auth(?:entication)? method|identity|membership|log ?in)\b",
    re.IGNORECASE,
).search
# What a sentence about the API key or OpenRouter speaks of: then only another call tells.
_about_key: Final = re.compile(r"api[ -]?key|openrouter|validate|upstream", re.IGNORECASE).search
_used_up: Final = re.compile(r"usage limit|uses limit|number of uses", re.IGNORECASE).search
# Older servers say these with 400, a status that otherwise is about the request.
_OLD_400: Final = (
    "Unable to renew because access token number of uses limit",
    "Identity does not belong to this organization",
)


def is_about_key(envelope: Envelope) -> bool:
    """Whether a 401 says that OpenRouter did not accept the key, or could not be asked."""
    return envelope.message.startswith(KEY_MESSAGE)


def is_about_token(envelope: Envelope) -> bool:
    """Whether a 401 is Infisical's own refusal of the access token: the call did not get past the door."""
    if envelope.req_id is None:
        return False
    if envelope.error == "TokenError":
        return True
    message = envelope.message
    return envelope.error == "UnauthorizedError" and bool(_about_token(message)) and not _about_key(message)


def is_old_token_error(envelope: Envelope) -> bool:
    """Whether a 400, which otherwise is about the request, is an older server's refusal of the access token."""
    return envelope.message.startswith(_OLD_400)


def is_used_up(message: str) -> bool:
    """Whether a token was refused because it has been used as often as it may be: the next login brings another."""
    return _used_up(message) is not None
