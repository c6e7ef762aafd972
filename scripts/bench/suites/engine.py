"""Handshakes in memory: what the engine costs without a socket, against CPython's and pyOpenSSL."""

from __future__ import annotations

import contextlib
import ssl
import time
from typing import TYPE_CHECKING, Protocol

from OpenSSL import SSL

from scripts.bench import client
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment
from tlsify.config import ServerConfig
from tlsify.credentials.key_pair import KeyPair
from tlsify.tls.engine import Engine
from tlsify.tls.openssl import session_reused
from tlsify.tls.record import split_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from scripts.bench.credentials import Credentials
    from scripts.bench.interleave import Turn
    from scripts.bench.plan import Plan

_ROOM = 2**16
_NOTE = (
    "Both sides are in one process, without sockets; only the server's part is timed. CPython's is "
    "that of the Python that runs the benchmark, with its own OpenSSL; the others use the one that "
    "comes with cryptography."
)


class _Server(Protocol):
    """A server's side: bytes in, bytes out; `done` once it has nothing more to negotiate."""

    done: bool

    def feed(self, received: bytes) -> bytes: ...


class _Ours:
    def __init__(self, config: ServerConfig) -> None:
        self._engine = Engine(config)
        self.done = False

    def feed(self, received: bytes) -> bytes:
        for record in split_records(received):
            if self._engine.result() is None:  # what TLS 1.3's client sends last may be an alert
                self._engine.feed(record)
        if self._engine.result() is not None:
            self.done = True
        output = self._engine.output()
        if self.done:
            self._engine.release()
        return output


class _PyOpenSSL:
    def __init__(self, context: SSL.Context) -> None:
        self._connection = SSL.Connection(context, None)
        self._connection.set_accept_state()
        self.done = False

    def feed(self, received: bytes) -> bytes:
        self._connection.bio_write(received)
        with contextlib.suppress(SSL.WantReadError):
            self._connection.do_handshake()
            self.done = True
        with contextlib.suppress(SSL.WantReadError):
            return self._connection.bio_read(_ROOM)
        return b""


class _CPython:
    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=True)
        self.done = False

    def feed(self, received: bytes) -> bytes:
        self._in.write(received)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._object.do_handshake()
            self.done = True
        return self._out.read()


def _ours(shown: Credentials) -> Callable[[], _Server]:
    pair = KeyPair.load(shown.certificate, shown.key)
    config = ServerConfig(key_pair=pair, resumption=True)
    return lambda: _Ours(config)


def _pyopenssl(shown: Credentials) -> Callable[[], _Server]:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_chain_file(str(shown.certificate))
    context.use_privatekey_file(str(shown.key))
    context.set_session_id(b"bench")
    return lambda: _PyOpenSSL(context)


def _cpython(shown: Credentials) -> Callable[[], _Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown.certificate, shown.key)
    return lambda: _CPython(context)


CONTENDERS = {"tlsify engine": _ours, "pyOpenSSL": _pyopenssl, "CPython ssl": _cpython}


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return one experiment for each kind of handshake."""
    offers = [client.Offer(version, resumes=r) for version in ("1.3", "1.2") for r in (False, True)]
    for offer in offers[:1] if plan.smoke else offers:
        for kind in ("ECDSA",) if plan.smoke else ("ECDSA", "RSA"):
            how = "resumed" if offer.resumes else "full"
            yield Experiment(
                title=f"TLS {offer.version}, {kind}, X25519, {how}",
                contenders=tuple(_contender(plan, name, offer, kind) for name in CONTENDERS),
                figure="time",
                unit="µs",
                reference="CPython ssl",
                note=_NOTE,
            )


def _contender(plan: Plan, name: str, offer: client.Offer, kind: str) -> Contender:
    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        make_server = CONTENDERS[name](make(plan.folder, kind))
        context = client.context(offer)
        session = converse(make_server, context)[1] if offer.resumes else None

        def turn() -> dict[str, float]:
            times = []
            for _ in range(2 if plan.smoke else 300):
                taken, _, resumed = converse(make_server, context, session)
                if resumed != offer.resumes:
                    raise RuntimeError(f"resumed: {resumed}")
                times.append(taken)
            # Whatever interrupts adds to some of them, and takes from none.
            return {"time": 1e6 * sorted(times)[len(times) // 4]}

        yield turn

    return Contender(name, start)


def converse(
    make_server: Callable[[], _Server], context: SSL.Context, session: Any = None
) -> tuple[float, Any, bool]:
    """Do one handshake; return the server's seconds, a session, and whether it was resumed."""
    there = SSL.Connection(context, None)
    there.set_connect_state()
    if session is not None:
        there.set_session(session)
    with contextlib.suppress(SSL.WantReadError):
        there.do_handshake()
    begun = time.perf_counter()
    server = make_server()
    taken = time.perf_counter() - begun
    while not server.done:
        flight = there.bio_read(_ROOM)
        begun = time.perf_counter()
        answer = server.feed(flight)
        taken += time.perf_counter() - begun
        if answer:
            there.bio_write(answer)
        with contextlib.suppress(SSL.WantReadError):
            there.do_handshake()
            there.recv(1)
    client.keep_session(there)
    return taken, there.get_session(), session_reused(there)
