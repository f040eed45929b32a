"""The settings: what can be set, where a value comes from, and what is wrong with it."""

from provisioner.core.secret import Secret
from provisioner.settings.errors import SettingsError
from provisioner.settings.load import load_settings
from provisioner.settings.model import Settings
from provisioner.settings.sections import Credential, Target
from provisioner.settings.values import RateLimit

__all__ = [
    "Credential",
    "RateLimit",
    "Secret",
    "Settings",
    "SettingsError",
    "Target",
    "load_settings",
]
