"""What a request may cost, and what a browser may do with the answer: limits and headers for every response.

In: any request. Out: the same, or 408 and 413 before it costs more; headers that forbid the browser whatever
the pages do not need. Pure ASGI, so that bodies are never held twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Guard", "TimedProtocol", "timed_protocol"]

_log = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'"
)
_HEADERS = {
    b"content-security-policy": CONTENT_SECURITY_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",  # with no-referrer browsers send "Origin: null", even to us
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    b"cache-control": b"no-store",
}
_HSTS = b"max-age=31536000"


class _TooLargeError(Exception):
    pass


class Guard:
    """Limits the length and the time of a request's body, logs the request, and adds headers to the answer.

    The log line has method, path, status and time; queries and headers, which may name people, are not in it.

    Args:
        app: the application.
        max_bytes: of a body.
        seconds: for the whole body to arrive.
        https: the browser sees https, and shall insist on it.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, https: bool) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.https = https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, self.https)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        started = time.perf_counter()
        if not length.isdigit() or int(length) > self.max_bytes:
            await answer.problem(413, "the body is too large", f"at most {self.max_bytes} bytes")
        else:
            await self._limited(scope, receive, answer)
        path = scope["path"].encode("ascii", "backslashreplace").decode()
        _log.info("%s %s %s %.3f s", scope["method"], path, answer.status, time.perf_counter() - started)

    async def _limited(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        read, end = 0, time.monotonic() + self.seconds
        whole = False

        async def limited() -> Message:
            nonlocal read, whole
            if whole:  # what comes after the body is only the client's leaving
                return await receive()
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                message = await receive()
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > self.max_bytes:
                raise _TooLargeError
            return message

        try:
            await self.app(scope, limited, answer)
        except _TooLargeError:
            await answer.problem(413, "the body is too large", f"at most {self.max_bytes} bytes")
        except TimeoutError:
            await answer.problem(408, "the body took too long", f"all of it within {self.seconds:g} s")


class _Answer:
    """Passes the answer on, with the headers."""

    def __init__(self, send: Send, https: bool) -> None:
        self._send = send
        self._https = https
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            extra = [(name, value) for name, value in _HEADERS.items() if name not in given]
            if self._https:
                extra.append((b"strict-transport-security", _HSTS))
            message = {**message, "headers": [*message["headers"], *extra]}
        await self._send(message)

    async def problem(self, status: int, title: str, expected: str) -> None:
        """Answer with a problem (RFC 9457), unless an answer has begun."""
        if self.status:
            return
        body = json.dumps(
            {"type": "about:blank", "title": title, "status": status, "expected": expected}
        ).encode()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
        ]
        headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


class TimedProtocol(H11Protocol):
    """Uvicorn's HTTP, and a limit on the time that a request's header may take (slow-loris)."""

    header_seconds = 10.0

    def connection_made(self, transport: Any) -> None:
        """Start the clock of the first request."""
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Stop the clock when a header is complete."""
        super().handle_events()
        if self.cycle is not None:
            self._stop_clock()

    def _start_clock(self) -> None:
        self._clock = self.loop.call_later(self.header_seconds, self._too_slow)

    def _stop_clock(self) -> None:
        self._clock.cancel()

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def timed_protocol(seconds: float) -> type[TimedProtocol]:
    """:class:`TimedProtocol` with a limit of its own."""
    return type("TimedProtocol", (TimedProtocol,), {"header_seconds": seconds})
