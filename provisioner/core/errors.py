"""The errors of the provisioner, named and described by what the caller can do."""


class ProvisionerError(Exception):
    """Something went wrong in the provisioner."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (type(self).__doc__ or "").strip())


class DatabaseUnavailable(ProvisionerError):
    """The database cannot be reached at present; the same call may be made again."""


class DatabaseRefusing(DatabaseUnavailable):
    """The database refuses what it used to allow; the same call may be made again, but a person may have to act."""


class DatabaseUnusable(ProvisionerError):
    """The database answers but cannot serve us; a person must act."""


class StatementRefused(DatabaseUnavailable):
    """The database refuses a statement because of a defect in it; repeating the call is unlikely to help."""


class Unstorable(StatementRefused):
    """The database refuses a value because of its type, a constraint or a trigger; repeating the call will not help."""


class OutcomeRefused(ProvisionerError):
    """The database, or a trigger or constraint of its owner, refuses to record an outcome; try again much later."""


class OutcomeUnstorable(OutcomeRefused):
    """An outcome contains a value that the database cannot store."""


class OutcomeDelayed(ProvisionerError):
    """The database answered but did not record the outcomes; a smaller batch, or a later attempt, may succeed."""

    def __init__(self, detail: str = "", *, slow: bool = False) -> None:
        super().__init__(detail)
        self.slow = slow


class SchemaMismatch(DatabaseUnusable):
    """The schema is not the one that this version needs; run `provisioner migrate`."""


class LeaseLost(ProvisionerError):
    """This worker's lease has expired; other workers now own its requests."""


class IdentityRefused(ProvisionerError):
    """Infisical refuses the machine identity; correct its settings."""


class LoginUnavailable(ProvisionerError):
    """No access token is available at present; try again later."""


class CredentialUnknown(ProvisionerError):
    """No credential of that name is configured."""


class CredentialUnreadable(ProvisionerError):
    """The credential cannot be opened."""


class CredentialUnavailable(ProvisionerError):
    """The credential cannot be fetched at present; try again after `retry_after` seconds."""

    def __init__(self, detail: str, *, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


def is_outage(error: BaseException | None) -> bool:
    """Whether the database is unavailable, which passes by itself; a statement that it refuses is no outage."""
    return isinstance(error, DatabaseUnavailable) and not isinstance(error, StatementRefused)
