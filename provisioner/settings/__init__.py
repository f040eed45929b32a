"""The settings: what can be set, where a value comes from, and what is wrong with one."""

from provisioner.core.secret import Secret
from provisioner.settings.errors import SettingsError
from provisioner.settings.identity import Identity, JwtIdentity, TokenIdentity, UniversalIdentity
from provisioner.settings.load import load_settings
from provisioner.settings.model import Settings
from provisioner.settings.sections import Credential, InfisicalSecret, Target
from provisioner.settings.values import RateLimit, normalise_name

__all__ = [
    "Credential",
    "Identity",
    "InfisicalSecret",
    "JwtIdentity",
    "RateLimit",
    "Secret",
    "Settings",
    "SettingsError",
    "Target",
    "TokenIdentity",
    "UniversalIdentity",
    "load_settings",
    "normalise_name",
]
