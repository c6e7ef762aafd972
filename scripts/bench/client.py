"""The one TLS client of every experiment: pyOpenSSL, told exactly what to negotiate.

What is measured is the server, so a client need only be the same for all of them. It decides what
is negotiated by offering nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL, _util

from scripts.bench import peers
from tlsify.tls.openssl import session_reused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = struct.pack("ll", 60 if peers.IN_GUEST else 10, 0)
_TICKET_SECONDS = 0.3
_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_TLS12_CIPHERS = b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
_TLS13_CIPHERS = b"TLS_AES_128_GCM_SHA256"


@dataclass(frozen=True)
class Offer:
    """What a client offers: one version, AES-128-GCM, a key share of one group.

    P-256 stands behind that group, for certificates of TLS 1.2, and for socat.
    """

    version: str = "1.3"
    group: str = "X25519"
    resumes: bool = False


def context(offer: Offer) -> SSL.Context:
    """Make a client's Context; it looks at the server's signature, but not at its name."""
    made = SSL.Context(SSL.TLS_CLIENT_METHOD)
    made.set_min_proto_version(_VERSIONS[offer.version])
    made.set_max_proto_version(_VERSIONS[offer.version])
    made.set_cipher_list(_TLS12_CIPHERS)
    made.set_tls13_ciphersuites(_TLS13_CIPHERS)
    # pyOpenSSL has no name for it.
    groups = f"{offer.group}:P-256".encode()
    if not _util.lib.SSL_CTX_set1_curves_list(made._context, groups):  # noqa: SLF001 - see above
        raise RuntimeError(f"this OpenSSL does not know {offer.group}")
    return made


def dial(port: int) -> socket.socket:
    """Connect; system calls fail after a while rather than hang."""
    sock = socket.create_connection(("127.0.0.1", port))
    # Not settimeout: pyOpenSSL wants a blocking descriptor.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def shake(
    made: SSL.Context, port: int, session: Any = None
) -> tuple[SSL.Connection, socket.socket]:
    """Connect and do a handshake; return the connection and its socket."""
    sock = dial(port)
    try:
        connection = SSL.Connection(made, sock)
        connection.set_tlsext_host_name(b"localhost")
        connection.set_connect_state()
        if session is not None:
            connection.set_session(session)
        connection.do_handshake()
    except BaseException:  # all of it is told to the parent
        sock.close()
        raise
    return connection, sock


def keep_session(connection: SSL.Connection) -> None:
    """Mark a connection as ended well for OpenSSL, which uses no other session again.

    Nothing can be sent on it any more.
    """
    connection.set_shutdown(SSL.SENT_SHUTDOWN)


def finish(sock: socket.socket) -> None:
    """End a connection so that the server has seen our Finished, and not a reset in its place."""
    with sock, contextlib.suppress(ConnectionError):
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(2**16):
            pass


def obtain_session(made: SSL.Context, port: int) -> Any:
    """Do a handshake to have something to resume with; the tickets come after it."""
    connection, sock = shake(made, port)
    sock.settimeout(0)
    deadline = time.monotonic() + _TICKET_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(SSL.WantReadError):
            connection.recv(1)
        select.select([sock], [], [], left)
    session = connection.get_session()
    keep_session(connection)
    sock.settimeout(None)
    finish(sock)
    return session


def handshakes(port: int, offer: Offer, count: int) -> dict[str, float]:
    """Do handshakes one after the other.

    Returns:
        ``done``, ``resumed`` (how many were) and ``seconds``.
    """
    made = context(offer)
    session = obtain_session(made, port) if offer.resumes else None
    resumed, begun = 0, time.perf_counter()
    for _ in range(count):
        connection, sock = shake(made, port, session)
        resumed += session_reused(connection)
        keep_session(connection)
        finish(sock)
    return {"done": count, "resumed": resumed, "seconds": time.perf_counter() - begun}


def latencies(port: int, count: int) -> list[float]:
    """Do handshakes one after the other; return what each took, connecting included, in ms."""
    made, taken = context(Offer()), []
    for _ in range(count):
        begun = time.perf_counter()
        _, sock = shake(made, port)
        taken.append(1e3 * (time.perf_counter() - begun))
        finish(sock)
    return taken


def in_children(
    core: int | None, work: Callable[..., Any], *arguments: Any, children: int = 1
) -> list[Any]:
    """Run a function in forked processes, pinned to a core; return what each of them gave."""
    started = [_fork(core, work, *arguments) for _ in range(children)]
    found, failure = [], ""
    for pid, pipe in started:
        with open(pipe, "rb") as reader:
            text = reader.read()
        _, status = os.waitpid(pid, 0)
        if status:
            failure = text.decode(errors="replace").strip() or f"status {status}"
        else:
            found.append(json.loads(text))
    if failure:
        raise RuntimeError(f"the load failed: {failure}")
    return found


@contextlib.contextmanager
def held(core: int | None, port: int, count: int, *, stalled: bool) -> Iterator[None]:
    """Keep idle connections open in a process until the block ends.

    Args:
        core: where it runs.
        port: of loopback.
        count: how many.
        stalled: leave each of them before its handshake, with nothing sent.
    """
    pid, pipe = _fork(core, _hold, port, count, stalled)
    try:
        with open(pipe, "rb") as reader:
            if reader.read(1) != b"!":
                raise RuntimeError(f"the load failed: {reader.read().decode(errors='replace')}")
            yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _hold(pipe: int, port: int, count: int, stalled: bool) -> None:
    made = context(Offer())
    # Without their TLS, of which idle connections need nothing, ours take little memory.
    kept = [dial(port) if stalled else shake(made, port)[1] for _ in range(count)]
    os.write(pipe, b"!")
    signal.pause()
    del kept


def _write(pipe: int, text: bytes) -> None:
    with open(pipe, "wb", closefd=False) as writer:
        writer.write(text)


def _fork(core: int | None, work: Callable[..., Any], *arguments: Any) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status = 1
    try:
        os.close(reader)
        if core is not None:
            os.sched_setaffinity(0, {core})
        # Whoever has something to say before its end does so by itself.
        ahead = (writer,) if work is _hold else ()
        _write(writer, json.dumps(work(*ahead, *arguments)).encode())
        status = 0
    except BaseException:  # all of it is told to the parent
        _write(writer, traceback.format_exc(limit=-2).encode())
    finally:
        sys.stdout.flush()
        os._exit(status)
