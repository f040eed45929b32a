"""A vault for requests that send no key, because the connection they name has one."""

from provisioner.core.model import Request
from provisioner.core.secret import Secret

_NONE = Secret("")


class Keyless:
    """`core.ports.Vault` without keys."""

    async def open(self, _request: Request) -> Secret:
        """Return no key."""
        return _NONE

    async def reopen(self, _request: Request) -> Secret:
        """Return no key."""
        return _NONE
