"""Build the notifier from the settings; imported only if notices are configured."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from provisioner.core.secret import Secret
from provisioner.keyring import secret_source
from provisioner.observe.meter import Meter
from provisioner.postgres.pool import Database
from provisioner.settings import Settings, SettingsError

if TYPE_CHECKING:
    from provisioner.notify.notifier import Notifier
    from provisioner.notify.receiver import HttpReceiver


def open_notifier(
    settings: Settings, database: Database, meter: Meter, *, rested: Callable[[float], bool]
) -> "Notifier | None":
    """Return the notifier, if notices are configured; `rested`: whether the worker was idle for this many seconds."""
    if settings.notify.url is None:
        return None
    from provisioner.notify.notifier import Notifier  # noqa: PLC0415 - only with notices
    from provisioner.postgres.notices import NoticeBoard  # noqa: PLC0415 - as above
    from provisioner.postgres.reports import read_status  # noqa: PLC0415 - as above

    look = partial(read_status, database, batches=0)
    board = NoticeBoard(database, events=settings.notify.told, read_status=look)
    return Notifier(board, open_receiver(settings), heard=meter.notified, rested=rested)


def open_receiver(settings: Settings) -> "HttpReceiver":
    """Return the receiver from the settings. Raises `SettingsError` if there is none."""
    from provisioner.notify.bodies import format_of  # noqa: PLC0415 - only with notices
    from provisioner.notify.receiver import HttpReceiver, ReceiverOptions  # noqa: PLC0415 - as above

    chosen = settings.notify
    if chosen.url is None:
        raise SettingsError("no notices can be sent: set notify.url")
    return HttpReceiver(
        ReceiverOptions(
            url=secret_source(settings, chosen.url, "notify", "url"),
            form=chosen.format or format_of(chosen.url.reveal()),
            signing_key=_optional(settings, chosen.signing_key, "signing_key"),
            ca_file=str(chosen.ca_file) if chosen.ca_file else None,
            proxy=_optional(settings, chosen.proxy, "proxy"),
        )
    )


def _optional(settings: Settings, secret: Secret | None, name: str) -> Secret | Callable[[], Secret] | None:
    return None if secret is None else secret_source(settings, secret, "notify", name)
