"""What goes back to the client: Infisical's envelopes, and a proxy's pages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

__all__ = [
    "JSON",
    "Answer",
    "BadUrl",
    "Cut",
    "NoRoute",
    "OpenRouterRefusal",
    "Page",
    "Refusal",
    "Stopping",
    "internal",
    "not_found",
    "permission_denied",
    "success",
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


def success(body: object) -> Answer:
    """Return a 200 with this JSON."""
    return Answer(status=200, body=orjson.dumps(body))


class Cut(Exception):
    """The connection is gone and nothing more is to be done."""


class Refusal(Exception):
    """An answer other than success, in the envelope of the application."""

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
        """Return the response that says it."""
        body: dict[str, object] = {"reqId": request_id, "statusCode": self.status, "message": self.message}
        if self.details is not None:
            body["details"] = self.details
        body["error"] = self.error
        return Answer(status=self.status, body=orjson.dumps(body), headers=self.headers, close=self.close)


class NoRoute(Refusal):
    """No such route: the one envelope without `reqId`."""

    def __init__(self, method: str, url: str) -> None:
        super().__init__(404, "Not Found", f"Route {method}:{url} not found")

    def answer(self, request_id: str) -> Answer:  # noqa: ARG002 - this envelope has none
        """Return the response that says it."""
        body = {"message": self.message, "error": self.error, "statusCode": self.status}
        return Answer(status=self.status, body=orjson.dumps(body))


class BadUrl(Refusal):
    """A path that cannot be decoded: the router's own envelope, without `reqId`."""

    def __init__(self, path: str) -> None:
        super().__init__(400, "Bad Request", f"'{path}' is not a valid url component")

    def answer(self, request_id: str) -> Answer:  # noqa: ARG002 - this envelope has none
        """Return the response that says it."""
        body = {"error": self.error, "code": "FST_ERR_BAD_URL", "message": self.message, "statusCode": self.status}
        return Answer(status=self.status, body=orjson.dumps(body), content_type="application/json")


class OpenRouterRefusal(Refusal):
    """What OpenRouter itself refuses, in its own envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, "", message)

    def answer(self, request_id: str) -> Answer:  # noqa: ARG002 - this envelope has none
        """Return the response that says it."""
        return Answer(status=self.status, body=orjson.dumps({"error": {"message": self.message, "code": self.status}}))


class Stopping(Refusal):
    """A server that is on its way out answers on the connections that are still open, and closes them."""

    def __init__(self) -> None:
        super().__init__(503, "Service Unavailable", "Service Unavailable", close=True)

    def answer(self, request_id: str) -> Answer:  # noqa: ARG002 - this envelope has none
        """Return the response that says it."""
        body = {"error": self.error, "message": self.message, "statusCode": self.status}
        return Answer(status=self.status, body=orjson.dumps(body), close=True)


class Page(Refusal):
    """A page of HTML, from a proxy or from the instance's own web interface."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(status, title, title)

    def answer(self, request_id: str) -> Answer:  # noqa: ARG002 - a proxy knows none
        """Return the response that says it."""
        page = f"<html>\n<head><title>{self.error}</title></head>\n<body><h1>{self.error}</h1></body>\n</html>\n"
        return Answer(status=self.status, body=page.encode(), content_type="text/html")


def internal(*, error: str = "InternalServerError", close: bool = False) -> Refusal:
    """Return the 500 that tells nothing."""
    return Refusal(500, error, "Something went wrong", close=close)


def not_found(message: str) -> Refusal:
    """Return a 404 of the application."""
    return Refusal(404, "NotFound", message)


def permission_denied(ability: str) -> Refusal:
    """Return the 403 for a role that lacks an ability; that of rotations names them apart from the verb."""
    verb, of, _ = ability.partition("-secret-rotation")
    subject = "secret-rotation" if of else "app-connections"
    return Refusal(403, "PermissionDenied", f"You are not allowed to {verb} on {subject}", details=[])
