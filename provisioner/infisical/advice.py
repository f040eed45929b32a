"""Say what to mend when Infisical refuses: sentences for the people who read a row's error message.

Pure.
"""

import re
from typing import Final

from provisioner.infisical.shapes import Envelope
from provisioner.infisical.text import shorten

_ability: Final = re.compile(r"not allowed to ([a-z-]{1,64}) on app-connections").search


def quoting(advice: str, message: str) -> str:
    """Advice with Infisical's own words behind it."""
    return shorten(f"{advice} (Infisical: {message})" if message else advice)


# Each region of Infisical's cloud has identities of its own; `app` is the name that the US region had first.
_REGIONS: Final = {
    "us.infisical.com": ("US", "https://eu.infisical.com", "EU"),
    "app.infisical.com": ("US", "https://eu.infisical.com", "EU"),
    "eu.infisical.com": ("EU", "https://us.infisical.com", "US"),
}


def elsewhere(host: str) -> str:
    """Add that the identity may be known at another Infisical than the one that was asked."""
    if host not in _REGIONS:
        return ", and that the target's url is that of the Infisical that has the identity" if host else ""
    region, other, other_region = _REGIONS[host]
    return (
        f", and the region: {host} is the {region} cloud; if the identity is in the {other_region} cloud or on a server"
        f" of your own, set the target's url (INFISICAL_HOST for target default) to {other} or to that server"
    )


def forbidden(envelope: Envelope, project_id: str | None) -> str:
    """Name the permission that is missing, where it is missing, and who can give it."""
    project = f"project {project_id}" if project_id else "the project"
    message = envelope.message
    if message.startswith("This project does not belong"):
        advice = f"{project} belongs to another organization: use the target of that organization"
    elif message.startswith("You are not a member of this organization"):
        advice = "the machine identity is not in the organization: add it there, under Access Control"
    elif envelope.error == "ProjectMembershipNotFound" or message.startswith("You are not a member of this project"):
        advice = f"the machine identity is not in {project}: add it there, with a role that may create app connections"
    else:
        asked = _ability(message)
        ability = asked[1] if asked else "create-app-connections"
        verb = ability.partition("-")[0]
        advice = (
            f"the machine identity lacks the permission {ability} in {project}: give it a role there that allows"
            f" '{verb}' on App Connections; a fresh grant takes about 10 s to show"
        )
    return quoting(advice, message)


def project_missing(envelope: Envelope, project_id: str | None) -> str:
    """Say that the project is not there for this organization."""
    return quoting(f"there is no project {project_id}: check project_id and the target", envelope.message)


def key_refused(message: str) -> str:
    """Say what the refusal of a key means, and what it may mean besides."""
    return quoting(
        "OpenRouter does not accept the key, or could not be asked: it has to be a valid management"
        " (provisioning) key, not an inference key",
        message,
    )


def untrusted_address(message: str) -> str:
    """Say that the identity may not be used from where this worker runs."""
    return quoting("the machine identity does not trust this worker's address: add it to its trusted IPs", message)
