"""Carry one HTTP request to Infisical and one answer back, or say whether the request can have arrived.

Nothing is repeated in here, and no redirect is followed: a token never goes to another host. aiohttp itself sends a
request again when a kept connection turns out to be closed, but only with idempotent methods; so a GET or a DELETE may
arrive twice, a POST or a PATCH never does.
"""

import asyncio
import errno
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Final, NamedTuple, Self

import aiohttp
from yarl import URL

from provisioner import __version__
from provisioner.core.errors import ProvisionerError
from provisioner.core.secret import MASK, Secret
from provisioner.infisical.parts import TELLTALE, clean

LONGEST_ANSWER: Final = 2**20  # bytes; the list of thousands of connections asks for more, see `send`
# Seconds an idle connection is kept: below the 60 s after which common load balancers drop it, let alone the server's
# 72 s, so that it is hardly ever closed under a request that is on its way.
KEEP_ALIVE: Final = 50.0
# Gateways put long headers on their answers, and many: session cookies, security policies, traces. What is read is an
# answer; what is not would look like a connection that breaks, again and again.
LONGEST_HEADER: Final = 2**18  # bytes, name and value
MOST_HEADERS: Final = 4096
DNS_TTL: Final = 30  # seconds; an instance that moves is found again soon


_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
_NO_FILES_LEFT: Final = "this process cannot open more files and connections; raise the limit, see `provisioner doctor`"


class NotSent(ProvisionerError):
    """Nothing was sent: the same request may be made again."""


class AnswerLost(ProvisionerError):
    """The request may have arrived, and no answer came back."""


class Answer(NamedTuple):
    """An HTTP answer; `headers` are looked up without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """How to reach one Infisical.

    `timeout` is for a whole call in seconds: the server cuts silent sockets at 100, so later answers never come.
    `connect_timeout` is for everything before the request is sent. `ca_file` replaces the system's certificate
    authorities. `proxy` is a URL, secret because it may hold a password, or where to read it before each call.
    `max_connections` is the most calls at once: what may be in flight, and a few for look-ups and logins.
    """

    base_url: str
    timeout: float = 105.0
    connect_timeout: float = 10.0
    ca_file: str | None = None
    proxy: Secret | Callable[[], Secret] | None = None
    max_connections: int = 72


class Transport:
    """The connections to one Infisical. Made inside a running event loop; to be closed, or used in `async with`."""

    def __init__(self, options: TransportOptions) -> None:
        self._timeout = options.timeout
        # Who waits for one of our own connections is not kept waiting by the other side: no timeout runs meanwhile.
        self._slots = asyncio.Semaphore(options.max_connections)
        self._proxy = options.proxy
        connector = aiohttp.TCPConnector(
            limit=options.max_connections,
            keepalive_timeout=KEEP_ALIVE,
            ttl_dns_cache=DNS_TTL,
            ssl=_tls(options.ca_file),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=options.timeout, connect=options.connect_timeout),
            headers={"User-Agent": f"provisioner/{__version__}", "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        most: int = LONGEST_ANSWER,
    ) -> Answer:
        """Send one request and read its whole answer, of at most `most` bytes. Raises `NotSent` or `AnswerLost`."""
        async with self._slots:
            proxy = self._through()
            try:
                response = await self._session.request(
                    method, url, headers=headers, data=body, allow_redirects=False, proxy=proxy
                )
                try:
                    content = response.content
                    answer = await content.readany()
                    if not content.at_eof():
                        answer = await _rest(content, answer, most)
                except BaseException:
                    response.close()
                    raise
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
                if getattr(exc, "errno", None) in _NO_FILES:
                    raise NotSent(f"nothing was sent: {_NO_FILES_LEFT}") from exc
                raise NotSent(clean(f"nothing was sent: {exc}")) from exc
            except aiohttp.ClientHttpProxyError as exc:
                raise NotSent(f"nothing was sent: the proxy refused to connect ({exc.status})") from exc
            except TimeoutError as exc:
                raise AnswerLost(f"no answer within {self._timeout:g} s") from exc
            except aiohttp.ClientResponseError as exc:
                raise AnswerLost(_unreadable(exc)) from exc
            except (aiohttp.ClientError, OSError) as exc:
                # The text of some of these quotes what was received; the class says enough.
                raise AnswerLost(f"the connection broke before the answer was read ({type(exc).__name__})") from exc
            return Answer(response.status, response.headers, self._unquoted(answer, headers, proxy))

    def _through(self) -> str | None:
        """The proxy as it is now. Raises `NotSent` when the file that holds it cannot be read."""
        proxy = self._proxy
        try:
            secret = proxy if proxy is None or isinstance(proxy, Secret) else proxy()
        except (OSError, ValueError) as exc:
            raise NotSent(f"nothing was sent: {exc}") from exc
        return secret.reveal() if secret else None

    @staticmethod
    def _unquoted(answer: bytes, headers: Mapping[str, str], proxy: str | None) -> bytes:
        """The answer without the secrets of the request's headers: a proxy's error page may quote a whole request."""
        for secret in _sent_secrets(headers.get("Authorization", ""), proxy):
            if secret in answer:
                answer = answer.replace(secret, MASK.encode())
        return answer


@lru_cache(maxsize=4)  # neither changes often
def _sent_secrets(authorization: str, proxy: str | None) -> tuple[bytes, ...]:
    """What must not come back: the token, and a proxy's password as it is and as it is sent."""
    secrets = [authorization.removeprefix("Bearer ").encode()]
    url = URL(proxy or "")
    if url.password:
        secrets += [url.password.encode(), b64encode(f"{url.user or ''}:{url.password}".encode())]
    return tuple(secret for secret in secrets if len(secret) >= TELLTALE)


def _unreadable(error: aiohttp.ClientResponseError) -> str:
    """Why the head of an answer was not read. The library's own text quotes what was received."""
    if "Got more than" in error.message:
        return f"the answer has a header longer than {LONGEST_HEADER} bytes: check the gateway in front of Infisical"
    if "Too many" in error.message:
        return f"the answer has more than {MOST_HEADERS} headers: check the gateway in front of Infisical"
    return "the answer is not valid HTTP: check the target's url, and the gateway in front of Infisical"


async def _rest(content: aiohttp.StreamReader, first: bytes, most: int) -> bytes:
    parts, size = [first], len(first)
    while not content.at_eof():
        part = await content.readany()
        parts.append(part)
        size += len(part)
        if size > most:
            raise AnswerLost(f"the answer is longer than {most} bytes")
    return b"".join(parts)


def _tls(ca_file: str | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True  # aiohttp has one with the system's authorities; to read them once more takes a start 15 ms
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:  # ssl.SSLError is one
        raise ValueError(f"no certificate authorities can be read from {ca_file}: {exc.strerror or exc}") from exc
