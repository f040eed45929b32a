"""Deliver a notice to its receiver: one POST with a time limit; only the status of the answer matters."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from provisioner import __version__
from provisioner.core.notices import Delivery
from provisioner.core.secret import Secret
from provisioner.notify.bodies import body_of, headers_of

SecretSource = Secret | Callable[[], Secret]  # a secret, or a function that reads it

TIME: Final = 10.0  # seconds that a receiver may take


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverOptions:
    """Where and how to send notices. Secrets in files are read before each call, because they may have changed."""

    url: SecretSource
    form: str
    signing_key: SecretSource | None = None
    ca_file: str | None = None
    proxy: SecretSource | None = None
    timeout: float = field(default=TIME)


class HttpReceiver:
    """`core.ports.Receiver` over HTTP. Each notice gets a session of its own, because notices are rare."""

    def __init__(self, options: ReceiverOptions) -> None:
        self._options = options

    async def deliver(self, delivery: Delivery) -> str:
        """Deliver a notice; returns why it failed, empty on success. The reason omits the address, which is secret."""
        chosen = self._options
        body = body_of(delivery, chosen.form)
        try:
            url, proxy = _read(chosen.url).reveal(), _read(chosen.proxy).reveal() if chosen.proxy else None
            headers = headers_of(delivery, body, _read(chosen.signing_key) if chosen.signing_key else None)
            return await self._post(url, body, headers, proxy)
        except TimeoutError:
            return f"no answer within {chosen.timeout:g} s"
        except aiohttp.ClientHttpProxyError as error:
            return f"the proxy refused to connect ({error.status})"
        except aiohttp.ClientConnectorCertificateError:
            return "the receiver's certificate is not trusted"
        except (aiohttp.ClientError, OSError, ValueError) as error:  # some of these messages quote the address
            return f"the connection failed ({type(error).__name__})"

    async def _post(self, url: str, body: bytes, headers: dict[str, str], proxy: str | None) -> str:
        tls: ssl.SSLContext | bool = True
        if self._options.ca_file:
            tls = ssl.create_default_context(cafile=self._options.ca_file)
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._options.timeout),
                headers={"User-Agent": f"provisioner/{__version__}"},
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(ssl=tls, force_close=True),
            ) as session,
            # Redirects are not followed: the notice is for this address alone.
            session.post(url, data=body, headers=headers, proxy=proxy, allow_redirects=False) as answer,
        ):
            if 200 <= answer.status < 300:
                return ""
            kind = "a redirect, which is not followed" if 300 <= answer.status < 400 else "an error"
            return f"the receiver answered {answer.status}, {kind}"


def _read(held: SecretSource) -> Secret:
    return held if isinstance(held, Secret) else held()
