"""The check of `doctor` that is about telling others."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

from provisioner.cli.setup.checks import Check, ok, problem, warning
from provisioner.cli.terminal.frame import several
from provisioner.core.errors import ProvisionerError

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings


async def check_notify(settings: "Settings", database: "Database | None", *, send: bool) -> AsyncIterator[Check]:
    """Check that others are told; with `send`, by telling them something. `database` is None if it cannot be used."""
    if settings.notify.url is None:
        if send:
            yield problem("notify", "no notices are sent: notify.url is not set", "set it, or PROVISIONER_NOTIFY__URL")
        return
    if send:
        yield await _trial(settings)
    else:
        host = urlsplit(settings.notify.url.reveal()).hostname
        signed = "signed" if settings.notify.signing_key else "not signed"
        yield ok("notify", f"{host} receives {settings.notify.events}; {signed}")
    if database is not None:
        async for check in _undelivered(database):
            yield check


async def _trial(settings: "Settings") -> Check:
    from provisioner.core.notices import Delivery, trial_notice
    from provisioner.telling import open_receiver

    delivery = Delivery(id=str(uuid4()), notice=trial_notice(), noticed_at=datetime.now(UTC), age=timedelta(0), tries=1)
    if reason := await open_receiver(settings).deliver(delivery):
        return problem("notify", f"a test notice did not arrive: {reason}", "correct notify.url or its receiver")
    return ok("notify", "a test notice has arrived")


async def _undelivered(database: "Database") -> AsyncIterator[Check]:
    from provisioner.postgres.notices import read_undelivered

    try:
        left = await read_undelivered(database)
    except ProvisionerError as error:
        yield warning("notify", f"undelivered notices cannot be read: {error}", "run doctor as a worker's role")
        return
    if left.notices and left.since:
        have = "has" if left.notices == 1 else "have"
        said = (
            f"{several(left.notices, 'notice')} {have} not arrived since {left.since:%Y-%m-%d %H:%M} UTC: {left.error}"
        )
        yield warning("notify", said, "each is tried again for three days; correct notify.url or its receiver")
