"""Decide who may see the pages, and what the browser may do with them: host check, token, headers. ASGI middleware.

On loopback every request must name a loopback host. A page of another site whose name resolves to 127.0.0.1 (DNS
rebinding) names its own host. Elsewhere a token is required once and stored in a cookie for this host only.

>>> is_loopback(host_of("127.0.0.1:8000")), is_loopback(host_of("example.org"))
(True, False)
"""

from __future__ import annotations

import ipaddress
import secrets
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "harness_view"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; style-src 'self' file:; script-src 'self' file:; form-action 'none'; base-uri 'none'"
"""Of exported pages, which state it themselves. On disk some browsers take no file for 'self', hence `file:`, which a
page from a web server cannot load."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Return whether a host name or address, without a port, belongs to this machine."""
    bare = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def host_of(header: str) -> str:
    """Return a Host header's name without its port."""
    return header[: header.find("]") + 1] if header.startswith("[") else header.partition(":")[0]


class Guard:
    """Allow only requests with the token or its cookie; without a token, only those that name a loopback host."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(Request(scope))
        await (self._app if refusal is None else refusal)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        if self._token is None:
            if is_loopback(host_of(Headers(scope=request.scope).get("host", ""))):
                return None
            return PlainTextResponse("this viewer serves localhost and loopback addresses only", 421)
        if self._equal(request.cookies.get(COOKIE, "")):
            return None
        if self._equal(request.query_params.get("token", "")):
            # without the token, which would otherwise stay in the browser's history and in copied addresses
            kept = [(name, value) for name, value in parse_qsl(request.url.query) if name != "token"]
            reply = RedirectResponse(request.url.path + (f"?{urlencode(kept)}" if kept else ""), 303)
            reply.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return reply
        return PlainTextResponse("a token is required: open the address with ?token=TOKEN once", 401)

    def _equal(self, candidate: str) -> bool:
        # constant time, so that a token cannot be guessed letter by letter
        return secrets.compare_digest(candidate.encode(), (self._token or "").encode())
