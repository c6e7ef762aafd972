"""An unmodified server as a process of its own, a client over real HTTPS, and what they showed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import sys
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.doubles import ends
from tests.interop.programs import Program
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trustme

PROGRAMS = Path(__file__).parent / "programs"
BIG = 3_000_000
# Where rows of docs/integrations.md are collected, if anybody wants them.
EVIDENCE = os.environ.get("TLSIFY_EVIDENCE")


@dataclass(frozen=True)
class Task:
    """What a program is told, as JSON in its only argument.

    Attributes:
        port: where to listen on 127.0.0.1.
        cert: PEM chain.
        key: PEM key.
        ca: PEM anchors for clients' certificates, which are requested and not required.
        file: what to answer /file with.
        ktls: "off" for the relay, "require" for the kernel.
        alpn: what the server offers.
        options: whatever else one server needs.
    """

    port: int
    cert: str
    key: str
    ca: str
    file: str
    ktls: str
    alpn: tuple[str, ...] = ("http/1.1",)
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Self:
        """Read it, in the program."""
        return cls.parse(sys.argv[1])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it where the program has put it."""
        given = json.loads(text)
        return cls(**given | {"alpn": tuple(given["alpn"])})


@dataclass
class Row:
    """What one server showed on one path; a row of the table in docs/integrations.md.

    Attributes:
        server: its name, and how it was run if there are several ways.
        package: of which the version is shown.
        path: "kernel" or "relay".
        scheme: what the application took the request's scheme to be.
        sendfile: how many os.sendfile calls a file of `BIG` bytes took; 0 where it was copied. On
            the relay path they go to the relay's socketpair.
        alpn: what was negotiated, as the client saw it.
        client_cert: whom the application took the client to be.
    """

    server: str
    package: str
    path: str
    scheme: str
    sendfile: int
    alpn: str
    client_cert: str
    release: str = ""

    def keep(self) -> None:
        """Write it down, if somebody collects them."""
        self.release = (
            version(self.package) if self.package else ".".join(map(str, sys.version_info[:3]))
        )
        if EVIDENCE is not None:
            with Path(EVIDENCE).open("a") as file:
                file.write(json.dumps(asdict(self)) + "\n")


class Served:
    """One running program, and clients of it."""

    def __init__(
        self, name: str, task: Task, authority: trustme.CA, command: Sequence[str] = ()
    ) -> None:
        """Start ``programs/NAME.py``.

        Args:
            name: without the suffix.
            task: for it.
            authority: which issued its certificate, and issues the client's.
            command: Python's arguments, instead of that program.
        """
        self.task = task
        self._authority = authority
        words = command or [str(PROGRAMS / f"{name}.py"), json.dumps(asdict(task))]
        self.program = Program([sys.executable, *words])

    def __enter__(self) -> Self:
        """Wait until it listens."""
        with ExitStack() as stack:
            stack.enter_context(self.program)
            self.program.await_port(self.task.port)
            stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        """End it: first by a signal that takes its workers along."""
        self.program.terminate()
        with suppress(AssertionError):
            ends(self.program.process, 5)
        self.program.__exit__(*details)

    def interrupt(self) -> None:
        """End it as Ctrl-C does, whoever is connected; an idle client keeps no server alive."""
        self.program.process.send_signal(signal.SIGINT)
        ends(self.program.process)

    def context(self, *, client: str | None = None, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        """Make a client's context, with a certificate for ``client`` if there is one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        if client is not None:
            self._authority.issue_cert(client, common_name=client).configure_cert(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def connect(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """Connect and do the handshake."""
        sock = socket.create_connection(("127.0.0.1", self.task.port), timeout=60)
        return context.wrap_socket(sock, server_hostname="example.org")

    def ask(self, sock: ssl.SSLSocket, path: str, body: bytes | None = None) -> bytes:
        """Send one request on a connection that is kept alive; return the body of the answer."""
        connection = http.client.HTTPConnection("example.org")
        connection.sock = sock
        connection.request("GET" if body is None else "POST", path, body)
        with connection.getresponse() as response:
            content = response.read()
        assert response.status == 200, (path, response.status, content)
        return content

    def ask_anew(self, context: ssl.SSLContext, path: str, body: bytes | None = None) -> bytes:
        """Send one request on a connection of its own."""
        with closing(self.connect(context)) as sock:
            return self.ask(sock, path, body)

    def ends_cleanly(self, path: str) -> bool:
        """Ask for an answer whose length only its end tells; return whether that is clean."""
        sock = socket.create_connection(("127.0.0.1", self.task.port), timeout=60)
        with self.context().wrap_socket(
            sock, server_hostname="example.org", suppress_ragged_eofs=False
        ) as tls:
            tls.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            received = b""
            try:
                while piece := tls.recv(2**16):
                    received += piece
            except ssl.SSLEOFError:
                is_clean = False
            else:
                is_clean = True
        assert received.endswith(b"\r\n\r\nhalf"), received
        return is_clean

    def judge(
        self, server: str, package: str, *, client: str = "client.example", keeps_alive: bool = True
    ) -> Row:
        """Ask for everything that the applications answer; checks it, and gives the row.

        Args:
            server: what to call it.
            package: of which the version is shown.
            client: whom its client's certificate is for.
            keeps_alive: whether it takes several requests on one connection.
        """
        context = self.context(client=client, alpn=("http/1.1",))
        with closing(self.connect(context)) as sock:
            alpn = sock.selected_alpn_protocol() or ""
            ask = partial(self.ask, sock)
            if not keeps_alive:
                sock.close()  # it would keep others waiting
                ask = partial(self.ask_anew, context)
            big = Path(self.task.file).read_bytes()
            assert ask("/echo", big[:100_000]) == big[:100_000]
            before = int(ask("/sendfiles"))
            assert ask("/file") == big
            sendfile = int(ask("/sendfiles")) - before
            offload = ask("/offload").decode()
            row = Row(
                server,
                package,
                "kernel" if self.task.ktls == "require" else "relay",
                ask("/scheme").decode(),
                sendfile,
                alpn,
                ask("/peer").decode(),
            )
        assert row.scheme == "https"
        assert offload.startswith(row.path), offload
        assert row.client_cert == client
        row.keep()
        return row


def arrange(
    folder: Path,
    authority: trustme.CA,
    ktls: str,
    *,
    alpn: tuple[str, ...] = ("http/1.1",),
    **options: str,
) -> Task:
    """Lay out certificate, key, anchors and file in a folder; return the task."""
    issued = authority.issue_cert("example.org", "127.0.0.1")
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (folder / "key.pem").chmod(0o600)
    (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())
    (folder / "big.bin").write_bytes(bytes(range(251)) * (BIG // 251))
    names: dict[str, Any] = {
        key: str(folder / name)
        for key, name in (("cert", "cert.pem"), ("key", "key.pem"), ("ca", "ca.pem"))
    }
    return Task(
        free_port(), **names, file=str(folder / "big.bin"), ktls=ktls, alpn=alpn, options=options
    )
