"""The viewer's web server: a page, its cases, their tiles. Knows no slides or runs.

Slides are patient data. So the server is bound to loopback unless asked; every address begins with a secret that only
who started it knows (other users of the machine can reach its ports); what a request names is looked up in a list and
never made into a path; a request under a foreign host name (DNS rebinding) is refused; and the page may load nothing
from elsewhere (CSP).

Tiles are read in threads. A tile that the page no longer waits for is not read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.websocket import WebSocketHandler

from wsi_stain.core import html
from wsi_stain.core.errors import ConfigError, SlideError
from wsi_stain.viewer.cases import Case, Picture, describe_case
from wsi_stain.viewer.tiles import SlideTiles

PORT = 8765
"""Where the page is served, unless that is taken."""

_TEMPLATES = Path(__file__).parent / "templates"
_NEXT_PORTS = 20
_GRACE_S = 5.0
"""A page that is loaded again is back by then."""

_MOST_BODY = 1024
"""Bytes of a request's body or of a message: nothing is expected."""

_MOST_BUFFER = 64 * 1024
_IDLE_S = 600.0
_LOG = logging.getLogger(__name__)

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ASSETS = {"view.js": "text/javascript", "tiles.js": "text/javascript", "view.css": "text/css"}


class ViewServer:
    """The server of some cases, from binding its port to its end.

    Args:
        cases: What is to be seen.
        host: Address to bind.
        port: Port to bind, 0 for any; None for `PORT`, or the next free one.
        title: Heading of the page.

    Attributes:
        url: The page's address, secret included.
        pages: Pages that are open now.

    Raises:
        ConfigError: The port is taken, or the address is not this machine's.
    """

    def __init__(
        self, cases: Sequence[Case], host: str = "127.0.0.1", port: int | None = None, title: str = ""
    ) -> None:
        self.cases = cases
        self.title = title
        self.tiles = SlideTiles()
        self.pictures: Mapping[str, Picture] = {p.id: p for case in cases for p in case.pictures}
        self.threads = ThreadPoolExecutor(os.cpu_count() or 4, "tiles")
        self.pages: set[WebSocketHandler] = set()
        self._host = host
        self._socket = _bind_socket(host, port)
        name = f"[{host}]" if ":" in host else host
        secret = secrets.token_urlsafe(16)
        self.url = f"http://{name}:{self._socket.getsockname()[1]}/{secret}/"
        shared = {"server": self}
        self._app = web.Application(
            [
                (f"/{secret}/", _PageHandler, shared),
                (f"/{secret}/({'|'.join(_ASSETS)})", _AssetHandler, shared),
                (rf"/{secret}/cases/(\d{{1,6}})", _CaseHandler, shared),
                (rf"/{secret}/tiles/([0-9a-f]{{20}})/(\d{{1,2}})/(\d{{1,6}})/(\d{{1,6}})", _TileHandler, shared),
                (f"/{secret}/alive", _AliveHandler, shared),
            ],
            default_handler_class=_NothingHandler,
            default_handler_args=shared,
            log_function=lambda handler: None,  # addresses hold the secret
            websocket_max_message_size=_MOST_BODY,
        )

    async def serve(self, on_ready: Callable[[str], None], end_with_pages: bool) -> None:
        """Serve until SIGINT, SIGTERM or, if asked, some seconds after the last page was closed.

        Args:
            on_ready: Called with the page's address once it can be opened.
            end_with_pages: End when the pages have: at least one came and none is left.
        """
        self._ended, self._end_with_pages = asyncio.Event(), end_with_pages
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._ended.set)
        http = HTTPServer(
            self._app, max_body_size=_MOST_BODY, max_buffer_size=_MOST_BUFFER, max_header_size=_MOST_BUFFER,
            idle_connection_timeout=_IDLE_S, body_timeout=_GRACE_S,
        )  # fmt: skip
        http.add_socket(self._socket)
        try:
            on_ready(self.url)
            await self._ended.wait()
        finally:
            http.stop()
            for page in [*self.pages]:
                page.close(1001, "the viewer has ended")
            await http.close_all_connections()
            self.threads.shutdown(cancel_futures=True)

    def add_page(self, page: WebSocketHandler) -> None:
        """Count a page that was opened."""
        self.pages.add(page)

    def remove_page(self, page: WebSocketHandler) -> None:
        """Discount a page that was closed, or is being loaded again."""
        self.pages.discard(page)
        if self._end_with_pages:
            asyncio.get_running_loop().call_later(_GRACE_S, self._end_if_left)

    def _end_if_left(self) -> None:
        if not self.pages:
            self._ended.set()

    def is_host(self, host: str) -> bool:
        """Check whether a request's Host may be this server: an address, this machine's or the bound name."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in {"localhost", self._host.lower(), socket.gethostname().lower()}
        return True


class _BaseHandler(web.RequestHandler):
    """Base of all handlers: headers, errors, the check of the host."""

    def initialize(self, server: ViewServer) -> None:
        self.server = server

    def set_default_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        if not self.server.is_host(self.request.host):
            raise web.HTTPError(403, reason="Foreign host name")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}: {self._reason}\n")

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Work in one of the threads; forgotten when the client goes away first."""
        self._work = asyncio.get_running_loop().run_in_executor(self.server.threads, work, *arguments)
        try:
            return await self._work
        except asyncio.CancelledError:
            raise web.Finish from None

    def log_exception(self, *error: Any) -> None:
        """Report a fault of ours without the address, which holds the secret."""
        if not isinstance(error[1], web.HTTPError):
            _LOG.error("the viewer failed to answer", exc_info=error[1])

    def compute_etag(self) -> str | None:
        return None

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if hasattr(self, "_work"):
            self._work.cancel()


class _NothingHandler(_BaseHandler):
    def get(self) -> None:
        raise web.HTTPError(404)


class _PageHandler(_BaseHandler):
    def get(self) -> None:
        template = html.environment(_TEMPLATES).get_template("page.html")
        page = template.render(cases=self.server.cases, title=self.server.title)
        self.finish(page)


class _AssetHandler(_BaseHandler):
    def get(self, name: str) -> None:
        self.set_header("Content-Type", f"{_ASSETS[name]}; charset=utf-8")
        self.finish((_TEMPLATES / name).read_bytes())


class _CaseHandler(_BaseHandler):
    async def get(self, number: str) -> None:
        if int(number) >= len(self.server.cases):
            raise web.HTTPError(404)
        self.finish(await self.in_thread(describe_case, self.server.cases[int(number)], self.server.tiles))


class _TileHandler(_BaseHandler):
    async def get(self, name: str, level: str, column: str, row: str) -> None:
        picture = self.server.pictures.get(name)
        if picture is None:
            raise web.HTTPError(404)
        self.set_header("Cache-Control", "private, max-age=86400, immutable")
        self.set_etag_header()
        if self.check_etag_header():
            self.set_status(304)
            return
        try:
            tile = await self.in_thread(
                self.server.tiles.jpeg, picture.path, int(level), int(column), int(row), picture.table
            )
        except IndexError:
            raise web.HTTPError(404) from None
        except SlideError as error:
            self.clear_header("Etag")
            self.set_header("Cache-Control", "no-store")
            self.set_status(500, "Unreadable tile")
            self.finish({"problem": str(error.problem), "remedy": error.remedy})
            return
        self.set_header("Content-Type", "image/jpeg")
        self.finish(tile)

    def compute_etag(self) -> str | None:
        """Return the address, which changes with the file."""
        return f'"{"-".join(self.path_args)}"'


class _AliveHandler(_BaseHandler, WebSocketHandler):
    """Open as long as its page is; carries nothing."""

    def open(self) -> None:
        self.server.add_page(self)

    def on_message(self, message: str | bytes) -> None:
        self.close(1003, "nothing is expected")

    def on_close(self) -> None:
        self.server.remove_page(self)


def _bind_socket(host: str, port: int | None) -> socket.socket:
    """Open a socket that listens on the port, or on the first free one of several."""
    numbers = [port] if port is not None else range(PORT, PORT + _NEXT_PORTS)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem: OSError | None = None
    for number in numbers:
        try:
            listener = socket.create_server((host, number), family=family)
            listener.setblocking(False)
            return listener
        except OSError as error:
            problem = error
    ports = f"port {port}" if port is not None else f"any of the ports {PORT} to {PORT + _NEXT_PORTS - 1}"
    reason = (problem.strerror or problem) if problem else ""
    raise ConfigError(f"The viewer cannot use {ports} of {host}: {reason}", "Name another --port, or --port 0 for any")
