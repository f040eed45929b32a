"""A simulated Infisical that speaks real HTTP on the loopback address.

`Simulator` (`app`) serves, `Options` configures it. Each request becomes an `Exchange`, passes the checks of
`pipeline`, and ends in a function of `connections`, `rotations`, `projects`, `identity` or `openrouter`. All of them
read and change one `World`; tests inspect it through `control`. What may go wrong is in `chance` and `limits`.

Importing this package alone loads neither aiohttp nor the server, so the command line can name the faults in its help
cheaply.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provisioner.sandbox.simulator.app import Simulator
    from provisioner.sandbox.simulator.options import Options

__all__ = ["Options", "Simulator"]


def __getattr__(name: str) -> Any:
    """Load `Simulator` and `Options` when they are first used."""
    if name == "Simulator":
        from provisioner.sandbox.simulator.app import Simulator  # noqa: PLC0415 - heavy, and --help must be quick

        return Simulator
    if name == "Options":
        from provisioner.sandbox.simulator.options import Options  # noqa: PLC0415 - kept beside its neighbour

        return Options
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
