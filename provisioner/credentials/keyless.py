"""For requests that send no key: the connection that they name has one."""

from provisioner.core.model import Request
from provisioner.core.secret import Secret

_NONE = Secret("")


class Keyless:
    """`core.ports.Vault` without any key."""

    async def open(self, _request: Request) -> Secret:
        """No key."""
        return _NONE

    async def reopen(self, _request: Request) -> Secret:
        """No key."""
        return _NONE
