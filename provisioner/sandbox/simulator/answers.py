"""The answers: Infisical's envelopes, and a proxy's pages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

__all__ = [
    "Answer",
    "BadUrl",
    "Cut",
    "NoRoute",
    "OpenRouterRefusal",
    "Page",
    "Refusal",
    "Stopping",
    "answer_of",
    "internal",
    "not_found",
    "permission_denied",
]

JSON = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP response."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False


def answer_of(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return the response with this JSON."""
    return Answer(status=status, body=orjson.dumps(body), headers=headers or {})


class Cut(Exception):
    """The connection is closed, and nothing more is to be done."""


class Refusal(Exception):
    """An answer other than success, in the envelope of the application. Subclasses have another body."""

    content_type = JSON

    def __init__(
        self,
        status: int,
        error: str,
        message: object,
        *,
        details: list[Any] | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(status, error, message)
        self.status = status
        self.error = error
        self.message = message
        self.details = details
        self.headers = headers or {}
        self.close = close

    def answer(self, request_id: str) -> Answer:
        """Return it as a response."""
        body = self._body(request_id)
        return Answer(
            status=self.status,
            body=body if isinstance(body, bytes) else orjson.dumps(body),
            content_type=self.content_type,
            headers=self.headers,
            close=self.close,
        )

    def _body(self, request_id: str) -> dict[str, object] | bytes:
        details = {} if self.details is None else {"details": self.details}
        return {
            "reqId": request_id,
            "statusCode": self.status,
            "message": self.message,
            **details,
            "error": self.error,
        }


class Bare(Refusal):
    """The envelope of the layers below the application, which has no `reqId`."""

    def _body(self, _: str) -> dict[str, object] | bytes:
        return {"message": self.message, "error": self.error, "statusCode": self.status}


class NoRoute(Bare):
    """The route does not exist."""

    def __init__(self, method: str, url: str) -> None:
        super().__init__(404, "Not Found", f"Route {method}:{url} not found")


class BadUrl(Bare):
    """A path that cannot be decoded."""

    content_type = "application/json"

    def __init__(self, path: str) -> None:
        super().__init__(400, "Bad Request", f"'{path}' is not a valid url component")

    def _body(self, _: str) -> dict[str, object] | bytes:
        return {"error": self.error, "code": "FST_ERR_BAD_URL", "message": self.message, "statusCode": self.status}


class Stopping(Bare):
    """The server is stopping: it answers on open connections, and closes them."""

    def __init__(self) -> None:
        super().__init__(503, "Service Unavailable", "Service Unavailable", close=True)


class OpenRouterRefusal(Refusal):
    """A refusal by OpenRouter itself, in its own envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, "", message)

    def _body(self, _: str) -> dict[str, object] | bytes:
        return {"error": {"message": self.message, "code": self.status}}


class Page(Refusal):
    """An HTML page, from a proxy or from the instance's own web interface."""

    content_type = "text/html"

    def __init__(self, status: int, title: str) -> None:
        super().__init__(status, title, title)

    def _body(self, _: str) -> dict[str, object] | bytes:
        title = f"<title>{self.error}</title>"
        return f"<html>\n<head>{title}</head>\n<body><h1>{self.error}</h1></body>\n</html>\n".encode()


def internal(*, error: str = "InternalServerError", close: bool = False) -> Refusal:
    """Return the 500 that gives no details."""
    return Refusal(500, error, "Something went wrong", close=close)


def not_found(message: str) -> Refusal:
    """Return the application's 404."""
    return Refusal(404, "NotFound", message)


def permission_denied(ability: str) -> Refusal:
    """Return the 403 for a role that lacks an ability. For rotations, it names verb and subject separately."""
    verb, of, _ = ability.partition("-secret-rotation")
    subject = "secret-rotation" if of else "app-connections"
    return Refusal(403, "PermissionDenied", f"You are not allowed to {verb} on {subject}", details=[])
