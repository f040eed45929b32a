"""The simulated Infisical as a process of its own, as the users' own tests would start it."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.cli import started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEY = "sk-or-v1-not-a-real-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Infisical:
    """Its address and credentials."""

    url: str
    client_id: str
    client_secret: str
    organization: str
    projects: Sequence[str]

    @property
    def variables(self) -> dict[str, str]:
        """A worker's settings for it."""
        return {
            "INFISICAL_HOST": self.url,
            "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": self.client_id,
            "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": self.client_secret,
            "OPENROUTER_PROVISIONING_KEY": KEY,
        }

    def state(self) -> dict[str, Any]:
        """The events so far."""
        with urllib.request.urlopen(f"{self.url}/_simulator/state") as answer:  # noqa: S310  # loopback
            state: dict[str, Any] = json.load(answer)
            return state

    def log_in(self) -> str:
        """An access token, for use without a login."""
        body = json.dumps({"clientId": self.client_id, "clientSecret": self.client_secret}).encode()
        url, headers = f"{self.url}/api/v1/auth/universal-auth/login", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:  # noqa: S310  # loopback
            return str(json.load(answer)["accessToken"])

    def set(self, **settings: object) -> None:
        """Change settings."""
        body = json.dumps(settings).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/_simulator/settings", body, headers)  # noqa: S310  # loopback
        urllib.request.urlopen(request).close()  # noqa: S310  # loopback


@contextmanager
def simulated(*options: str) -> Iterator[Infisical]:
    """Serve until the end of the block."""
    process = started("simulate", *options, stdout=subprocess.PIPE)
    try:
        line = json.loads(process.stdout.readline())
        yield Infisical(
            url=line["url"],
            client_id=line["clientId"],
            client_secret=line["clientSecret"],
            organization=line["organizationId"],
            projects=line["projects"],
        )
    finally:
        process.terminate()
        process.communicate(timeout=10)
