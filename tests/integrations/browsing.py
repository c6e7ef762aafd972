"""A browser's requests over TLS to a real acceptor that serves a folder."""

from __future__ import annotations

import asyncio
import http.client
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tests.doubles import RELAY, Endpoint
from tlsify.aio.acceptor import Acceptor
from tlsify.aio.loop import EventLoop
from tlsify.integrations import static_files
from tlsify.integrations.static_answers import Folder, Rules

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.config import KtlsPolicy, ServerConfig

T = TypeVar("T")
TEXT = b"0123456789" * 20000
# Long ago, and in whole seconds, as HTTP's dates are.
MODIFIED = 1_500_000_000


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


class Browser:
    """One keep-alive connection."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext) -> None:
        """Connect."""
        self.sock = context.wrap_socket(
            socket.create_connection(address, timeout=60),
            server_hostname="example.org",
            suppress_ragged_eofs=False,
        )
        self._http = http.client.HTTPConnection("example.org")
        self._http.sock = self.sock

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send a request and read its answer; underscores in header names become hyphens."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self._http.request(method, path, headers=fields)
        return _read(self._http.getresponse())

    def send(self, *lines: str, body: bytes = b"") -> Answer:
        """Send a request as it is written, and read its answer."""
        self.sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1") + body)
        response = http.client.HTTPResponse(self.sock, method=lines[0].partition(" ")[0])
        response.begin()
        return _read(response)


def _read(response: http.client.HTTPResponse) -> Answer:
    with response:
        body = response.read()
    lowered = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, lowered, body)


class Host:
    """Serves the folder while a piece of work runs as its browser."""

    def __init__(self, root: Path, config: ServerConfig, context: ssl.SSLContext) -> None:
        """Keep what serving takes."""
        self.root = root
        self._config = config
        self.context = context
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    def stop(self) -> None:
        """Make the server drain."""
        self._loop.call_soon_threadsafe(self._stop.set)

    def visit(self, work: Callable[[Browser], T], policy: KtlsPolicy = RELAY, **options: Any) -> T:
        """Serve here until the work is done in a thread; the options are the site's."""
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            return runner.run(self._visit(work, policy, options))

    async def _visit(
        self, work: Callable[[Browser], T], policy: KtlsPolicy, options: dict[str, Any]
    ) -> T:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()

        def browse() -> T:
            try:
                browser = Browser(address, self.context)
                with closing(browser.sock):
                    return work(browser)
            finally:
                self.stop()

        of_site = {
            name: options.pop(name)
            for name in ("send_timeout", "access_log", "fields")
            if name in options
        }
        site = static_files.Site(Folder(self.root, rules=Rules(**options)), **of_site)
        await site.start()
        async with Acceptor([listener], site.serve, self._config, policy) as acceptor:
            visit = Endpoint(browse)
            await self._stop.wait()
            parting = asyncio.create_task(site.drain())
            await acceptor.drain(20)
            parting.cancel()
            await asyncio.gather(parting, return_exceptions=True)
        await site.stop()
        return visit.result()
