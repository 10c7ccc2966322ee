"""`ark watch --web`: the report page, live, for a browser on this machine.

Who may read: whoever knows the address. It is on the loopback address only and holds a token, in its path rather than
in a cookie: cookies of 127.0.0.1 go to whatever else serves on any of its ports. A page of somebody else's cannot
read it: no answer allows that, and a name that leads here by a trick (DNS rebinding) is refused by the `Host` that it
brings. Other users of this machine can connect, and are told nothing without the token.

Nothing can be changed through it: there is `GET` alone, for the page and for what is new, which comes as server-sent
events. A reader that is slow or gone holds nobody up: each has a thread and a time-out, and there are only so many.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import re
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import clean_line
from autoresearch_kit.project import Project
from autoresearch_kit.watch.station import Station, as_event

ADDRESS = "127.0.0.1"
READERS = 16
"""So many pages are told what is new; a page that nobody looks at does not ask."""
CONNECTIONS = 64
"""Of more, those that have not asked for anything yet give way, the oldest first."""
TIMEOUT_SECONDS = 10.0
"""For a reader to ask, and to take each piece."""
BEAT_SECONDS = 15.0
"""A connection that says nothing for so long gets a word, so that both ends know that the other is there."""
GLANCE_SECONDS = 0.5
"""So often each connection is looked at whether the page is still there: its place is another's then."""
PIECE = 64 * 2**10
"""Bytes that are sent at a time."""
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Connection": "close",
}
_HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)


def serve(project: Project, name: str | None, port: int, tell: Callable[[str], object]) -> None:
    """Serve the page of a run until Ctrl-C; `port` 0 is any free one. `tell` is told the address, once.

    UsageError where there is no such run and none will be, or when the port cannot be had.
    """
    station = Station(project, name)
    station.look()
    with _Server(station, port) as server:
        threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
        try:
            tell(server.url)
            station.attend()
        except KeyboardInterrupt:
            server.is_over = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, station: Station, port: int) -> None:
        self.station = station
        self.token = secrets.token_urlsafe(24)
        self.readers = threading.BoundedSemaphore(READERS)
        self.is_over = False
        """Whether what goes wrong from now on is nobody's concern."""
        self._silent: dict[socket.socket, None] = {}
        """Connections that have not asked for anything yet, the oldest first."""
        self._open = 0
        self._count = threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            hint = "choose another: --port N; without it any free one is taken"
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"port {port} is taken", hint) from None
            raise UsageError(f"port {port} cannot be had: {error.strerror}", hint) from None
        self.url = f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def server_bind(self) -> None:
        # Not HTTPServer's own, which asks for the name of this machine: that may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = ADDRESS, self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._count:
            crowded = self._open >= CONNECTIONS
            oldest = next(iter(self._silent), None) if crowded else None
            if oldest is not None:
                self._silent.pop(oldest)
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            if not crowded or oldest is not None:
                self._open += 1
                self._silent[request] = None
        if crowded and oldest is None:
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.heard(request)
            with self._count:
                self._open -= 1

    def heard(self, request: Any) -> None:
        """This connection has asked for something that it may have, or has ended."""
        with self._count:
            self._silent.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Readers go at any moment; everything else is a mistake of ours, said in one line where this was started."""
        error = sys.exception()
        if not self.is_over and not isinstance(error, OSError):
            text = clean_line(f"{type(error).__name__}: {error}", 200)
            with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
                print(f"ark: a question of a browser could not be answered: {text}", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ark", ""
    timeout = TIMEOUT_SECONDS

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self.close_connection = True
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            self.send_error(403)
        elif self.command != "GET":
            self.send_error(405)
        else:
            return True
        return False

    def do_GET(self) -> None:
        try:
            asked = urlsplit(self.path)
            query = parse_qs(asked.query)
        except ValueError:  # such as http://[
            self.send_error(400)
            return
        _, _, rest = asked.path.partition("/")
        token, slash, what = rest.partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            self.send_error(403)
            return
        self.server.heard(self.connection)
        if what == "events":
            self._events(query)
        elif not slash:
            self._send(308, b"", "text/plain", {"Location": f"/{self.server.token}/"})
        elif not what:
            self._page()
        else:
            self.send_error(404)

    def _page(self) -> None:
        try:
            status, body, kind = 200, self.server.station.page(), "html"
        except ArkError as error:  # such as a repository that is gone
            status, body, kind = 500, f"{error.message}\n".encode("utf-8", "replace"), "plain"
        except Exception:
            self.send_error(500)
            raise
        self._send(status, body, f"text/{kind}; charset=utf-8")

    def _events(self, query: dict[str, list[str]]) -> None:
        """What is new, for as long as it is read."""
        # Of a page that was just closed or read anew the place is free in a moment.
        if not self.server.readers.acquire(timeout=2 * GLANCE_SECONDS):
            self.send_error(503)
            return
        try:
            with self.server.station.reader(), contextlib.suppress(ArkError):  # the page asks again
                self._begin(200, "text/event-stream; charset=utf-8")
                state, stamp = query.get("since", [""])[0], -1
                beat = time.monotonic() + BEAT_SECONDS
                while not self._is_gone():
                    news = self.server.station.next_news(state, stamp, min(BEAT_SECONDS, GLANCE_SECONDS))
                    if news is not None:
                        state, stamp = news.state, news.stamp
                        self._write(as_event(news))
                    elif time.monotonic() < beat:
                        continue
                    else:
                        self._write(b"event: beat\ndata:\n\n")
                    beat = time.monotonic() + BEAT_SECONDS
        finally:
            self.server.readers.release()

    def _is_gone(self) -> bool:
        """Whether the other end has closed; a write would learn of that only at the second try."""
        look = select.poll()
        look.register(self.connection, select.POLLIN)
        return bool(look.poll(0)) and not self.connection.recv(1, socket.MSG_PEEK)

    def _send(self, status: int, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self._begin(status, kind, {"Content-Length": str(len(body)), **(more or {})})
        self._write(body)

    def _begin(self, status: int, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, body: bytes) -> None:
        # In pieces: the time-out is for each of them.
        for at in range(0, len(body), PIECE):
            self.wfile.write(body[at : at + PIECE])

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A refusal, in the same words whatever was asked: nothing of the question is in it."""
        self.close_connection = True
        words = {
            403: "Not by this address. Open the one that `ark watch --web` printed, token and all.",
            404: "There is nothing here but the page itself.",
            405: "This can only be read.",
            500: "The page could not be made; where `ark watch --web` was started it says why.",
            503: f"{READERS} pages are open already. Close one of them.",
        }
        more = {"Allow": "GET"} if code == 405 else {}
        body = (words.get(code, "That was no question that a browser asks.") + "\n").encode()
        with contextlib.suppress(OSError):
            self._begin(code, "text/plain; charset=utf-8", {"Content-Length": str(len(body)), **more})
            self._write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what was asked holds the token."""
