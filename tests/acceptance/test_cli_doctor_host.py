"""`provisioner doctor` on a host with few files, behind a proxy, or before an Infisical that is somewhere else."""

from __future__ import annotations

import json
import resource
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.support.cli import SCRIPT, environment
from tests.support.scripted import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

IDENTITY = {
    "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": "6b1b36cb-b04b-4b1c-a6ff-4b4e3f9f9a50",
    "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": "a-client-secret",
}
UNKNOWN = {"reqId": "req-1", "statusCode": 401, "error": "UnauthorizedError", "message": "Invalid credentials"}


def checks(more: dict[str, str], *arguments: str, files: int | None = None) -> dict[str, list[str]]:
    """The result of `doctor` for a check; `files` is how many files it may open."""
    limit = (files, files) if files else resource.getrlimit(resource.RLIMIT_NOFILE)
    done = subprocess.run(  # noqa: S603  # our own arguments; this process has no other threads that matter
        [SCRIPT, "doctor", "--json", *arguments],
        env=environment(None, **{**IDENTITY, **more}),
        cwd="/",
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit),
    )
    assert done.stderr == b""
    found: dict[str, list[str]] = {}
    for each in json.loads(done.stdout)["checks"]:
        found.setdefault(each["name"], []).append(f"{each['verdict']}: {each['said']}; {each['remedy']}")
    return found


@contextmanager
def answering(status: int, body: object, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """A server, or a proxy, with one answer for everything; yields its address and its requests."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Answer."""
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("content-length", "0")))
            text = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(text)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_too_few_files_for_the_targets_are_told() -> None:
    """The limit is reported with the number needed and where to raise it, before targets are blamed for it."""
    nobody = {"INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": ""}  # without a login the result comes at once
    many = {f"PROVISIONER_TARGETS__T{number}__URL": f"https://t{number}.invalid" for number in range(40)}
    found = {files: checks({**nobody, **many}, "--target", "default", files=files)["files"][0] for files in (200, 512)}
    assert found[200].startswith(
        "problem: this process may open 200 files and connections, and 41 targets need at least 216; raise the "
    )
    assert "(`ulimit -Hn`, LimitNOFILE= of systemd, --ulimit of Docker)" in found[200]
    assert found[512].startswith(
        "warning: this process may open 512 files and connections: 9 connections for each of 41 targets; raise the"
    )
    assert checks(nobody)["files"][0].endswith("enough for 1 target; ")


def test_the_proxy_of_the_environment_is_used_and_told() -> None:
    """The proxy and its source are reported without its password; an EU identity at the US host is recognised."""
    with answering(401, UNKNOWN) as (proxy, asked):
        found = checks(
            {
                "INFISICAL_API_URL": "http://us.infisical.com/api",
                "PROVISIONER_TARGETS__DEFAULT__ALLOW_HTTP": "true",
                "HTTP_PROXY": f"http://me:planted-4711@{proxy}",
            }
        )
    assert asked == ["http://us.infisical.com/api/v1/auth/universal-auth/login"]
    via = f"through the proxy http://{proxy} (environment HTTP_PROXY)"
    assert found["proxy"] == [f"ok: default is reached {via}; "]
    (identity,) = found["identity"]
    assert identity.startswith(f"problem: default at http://us.infisical.com {via}: check the client id")
    assert "if the identity is in the EU cloud" in identity
    assert "to https://eu.infisical.com" in identity
    assert "4711" not in str(found)


def test_this_machine_is_not_asked_through_a_proxy() -> None:
    """A server on this host is reached directly, and there is nothing to report."""
    with answering(401, UNKNOWN) as (server, asked):
        found = checks({"INFISICAL_HOST": f"http://{server}", "HTTP_PROXY": f"http://127.0.0.1:{free_port()}"})
    assert asked == ["/api/v1/auth/universal-auth/login"]
    assert "proxy" not in found


def test_an_infisical_that_is_somewhere_else_is_told() -> None:
    """A redirected login shows the destination, and what to set."""
    with answering(301, {}, Location="https://vault.example.com:8443/login?x=y") as (server, asked):
        (identity,) = checks({"INFISICAL_HOST": f"http://{server}"})["identity"]
    assert "the server answered 301 and redirects to https://vault.example.com:8443: set the target's url" in identity
    assert len(asked) == 1
