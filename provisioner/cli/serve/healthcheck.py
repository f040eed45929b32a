"""`provisioner healthcheck`: for `HEALTHCHECK` and for probes that run a command."""

from pathlib import Path
from typing import Annotated, Final

import typer

from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config
from provisioner.cli.terminal.output import say, tell_error

PATIENCE: Final = 3.0  # seconds
LONGEST: Final = 500  # bytes of an answer to show

Listen = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Address of the worker's status port, if it differs from the settings."),
]
Ready = Annotated[bool, typer.Option("--ready", help="Check that it accepts requests, not only that it is alive.")]


def healthcheck(config: Config = None, listen: Listen = None, ready: Ready = False) -> None:
    """Exit 0 if the worker on this host is healthy, 1 if it is not or does not answer.

    A worker that waits for the database is healthy, because it resumes automatically; with --ready it is not.

    Example: provisioner healthcheck --ready
    """
    endpoint = _endpoint(config, listen)
    if endpoint is None:
        tell_error(
            "the worker has no status port, because listen.address is off: set it, for example to "
            "127.0.0.1:9464, or rely on systemd's watchdog"
        )
        raise typer.Exit(NOT_DONE)
    host, port = endpoint
    status, said = _ask(host, port, "/readyz" if ready else "/healthz")
    if status != 200:
        tell_error(said)
        raise typer.Exit(NOT_DONE)
    say(said)
    raise typer.Exit(DONE)


def _endpoint(config: Path | None, listen: str | None) -> tuple[str, int] | None:
    """Return the daemon's listening address; None if it does not listen. Raises `SettingsError`."""
    from provisioner.settings import load_settings

    return load_settings(config=config, overrides={"listen": {"address": listen}}).listen.endpoint


def _ask(host: str, port: int, path: str) -> tuple[int, str]:
    """Return the answer's status and first words; or 0, and why there is no answer."""
    from http.client import HTTPConnection, HTTPException

    # A daemon that listens on every address listens on this one.
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound here
    connection = HTTPConnection(near, port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(LONGEST).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return (
            0,
            f"no worker answers at {host}:{port}: {reason}; check that `provisioner run` is running, and read its log",
        )
    finally:
        connection.close()
