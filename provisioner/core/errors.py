"""What can go wrong, in words that say what the caller may do."""


class ProvisionerError(Exception):
    """Something went wrong in the provisioner."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (type(self).__doc__ or "").strip())


class DatabaseUnavailable(ProvisionerError):
    """The database cannot be reached just now; the same call may be made again."""


class DatabaseRefusing(DatabaseUnavailable):
    """The database refuses what it allowed before; the same call may be made again, and a person may have to act."""


class DatabaseUnusable(ProvisionerError):
    """The database answers but cannot serve us; a person must act."""


class StatementRefused(DatabaseUnavailable):
    """The database refuses a statement for what it is: a defect; the same call is likely to be refused again."""


class Unstorable(StatementRefused):
    """The database refuses a value for what it is, or a rule or trigger does; the same call will be refused again."""


class OutcomeRefused(ProvisionerError):
    """The database, or what its owner added to it, refuses to record an outcome; it may be asked again much later."""


class OutcomeUnstorable(OutcomeRefused):
    """An outcome holds a value that the database cannot store."""


class OutcomeDelayed(ProvisionerError):
    """The database answers, and did not record outcomes just now; fewer of them, or later, it may."""

    def __init__(self, detail: str = "", *, slow: bool = False) -> None:
        super().__init__(detail)
        self.slow = slow


class SchemaMismatch(DatabaseUnusable):
    """The schema is not the one that this version needs; run `provisioner migrate`."""


class LeaseLost(ProvisionerError):
    """This worker's lease ran out: others own its requests now."""


class IdentityRefused(ProvisionerError):
    """Infisical refuses the machine identity; correct its settings."""


class LoginUnavailable(ProvisionerError):
    """No access token can be had just now; later it may."""


class CredentialUnknown(ProvisionerError):
    """No credential of that name is configured."""


class CredentialUnreadable(ProvisionerError):
    """The credential cannot be opened."""


class CredentialUnavailable(ProvisionerError):
    """The credential cannot be fetched just now; in `retry_after` seconds it may."""

    def __init__(self, detail: str, *, retry_after: float = 0.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
