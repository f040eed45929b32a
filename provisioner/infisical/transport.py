"""Send one HTTP request to Infisical and read one answer, or say whether the request can have arrived.

Nothing is repeated here, and redirects are not followed, so a token never goes to another host. aiohttp itself repeats
a request if a kept connection turns out to be closed, but only for idempotent methods: a GET or a DELETE may arrive
twice, a POST or a PATCH never does.
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
from provisioner.infisical.parts import MIN_SECRET, clean

LONGEST_ANSWER: Final = 2**20  # bytes; a list of thousands of connections needs more, see `send`
# Seconds to keep an idle connection. Common load balancers close it after 60 s and the server after 72 s, so it is
# hardly ever closed while a request is being sent on it.
KEEP_ALIVE: Final = 50.0
# Gateways add many long headers to answers: session cookies, security policies, traces. An answer that exceeded the
# limits would look like a connection that keeps breaking.
LONGEST_HEADER: Final = 2**18  # bytes, name and value
MOST_HEADERS: Final = 4096
DNS_TTL: Final = 30  # seconds; soon enough to find an instance that moves


_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
_NO_FILES_LEFT: Final = "this process cannot open more files and connections; raise the limit, see `provisioner doctor`"


class NotSent(ProvisionerError):
    """Nothing was sent, so the same request may be made again."""


class AnswerLost(ProvisionerError):
    """The request may have arrived, but no answer came back."""


class Answer(NamedTuple):
    """An HTTP answer; header names ignore case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """How to reach one Infisical.

    `timeout` is for a whole call in seconds: the server cuts silent connections after 100, so no answer comes later.
    `connect_timeout` covers everything before the request is sent. `ca_file` replaces the system's certificate
    authorities. `proxy` is a URL, secret because it may contain a password, or a function that reads it before each
    call. `max_connections` is the most calls at once: the creates in flight, and a few look-ups and logins.
    """

    base_url: str
    timeout: float = 105.0
    connect_timeout: float = 10.0
    ca_file: str | None = None
    proxy: Secret | Callable[[], Secret] | None = None
    max_connections: int = 72


class Transport:
    """The connections to one Infisical. Create it inside a running event loop; close it, or use `async with`."""

    def __init__(self, options: TransportOptions) -> None:
        self._timeout = options.timeout
        # Waiting for one of our own connections says nothing about the other side, so no timeout runs meanwhile.
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
                # Some of these messages quote what was received; the class says enough.
                raise AnswerLost(f"the connection broke before the answer was read ({type(exc).__name__})") from exc
            return Answer(response.status, response.headers, self._unquoted(answer, headers, proxy))

    def _through(self) -> str | None:
        """Return the present proxy. Raises `NotSent` if its file cannot be read."""
        proxy = self._proxy
        try:
            secret = proxy if proxy is None or isinstance(proxy, Secret) else proxy()
        except (OSError, ValueError) as exc:
            raise NotSent(f"nothing was sent: {exc}") from exc
        return secret.reveal() if secret else None

    @staticmethod
    def _unquoted(answer: bytes, headers: Mapping[str, str], proxy: str | None) -> bytes:
        """Mask the secrets of the request in the answer: a proxy's error page may quote a whole request."""
        for secret in _sent_secrets(headers.get("Authorization", ""), proxy):
            if secret in answer:
                answer = answer.replace(secret, MASK.encode())
        return answer


@lru_cache(maxsize=4)  # neither changes often
def _sent_secrets(authorization: str, proxy: str | None) -> tuple[bytes, ...]:
    """Return what must not come back: the token, and a proxy's password as given and as sent."""
    secrets = [authorization.removeprefix("Bearer ").encode()]
    url = URL(proxy or "")
    if url.password:
        secrets += [url.password.encode(), b64encode(f"{url.user or ''}:{url.password}".encode())]
    return tuple(secret for secret in secrets if len(secret) >= MIN_SECRET)


def _unreadable(error: aiohttp.ClientResponseError) -> str:
    """Say why the head of an answer could not be read. The library's own text quotes what was received."""
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
        return True  # aiohttp has one with the system's authorities; reading them again takes 15 ms at the start
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:  # ssl.SSLError is one
        raise ValueError(f"no certificate authorities can be read from {ca_file}: {exc.strerror or exc}") from exc
