"""gunicorn: the sync and gthread workers, with sendfile and mod_ssl's variables; the command."""

from __future__ import annotations

import logging
import select
import selectors
import ssl
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.http import get_parser
from gunicorn.workers import gthread, sync

from tlsify.aio.outcomes import FAILURES, outcome
from tlsify.errors import ConfigError, TlsifyError, said
from tlsify.integrations.background import Handshakes
from tlsify.integrations.command import reported, require_certificate
from tlsify.integrations.variables import variables
from tlsify.integrations.waiting import is_ready
from tlsify.metrics.counters import Event
from tlsify.sslcontext.context import SSLContext
from tlsify.sslcontext.socket import SSLSocket

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator

    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff
    from tlsify.sslcontext.facts import TLSInfo

_CLIENT_CERT = ("none", "request", "require")
_HANDSHAKE_TIMEOUT = 30.0
# Seconds that gunicorn, too, waits for the first byte of a connection.
_REQUEST_PATIENCE = 5.0
# Seconds until another look: at what has stalled, or after a failure to accept.
_PAUSE = 0.1
# How health checks and port scans end.
_USUAL = {Event.HANDSHAKE_TRUNCATED, Event.HANDSHAKE_BROKEN}


class _Socket(SSLSocket):
    """Has gunicorn log a handshake that takes too long in one line, as it does any other.

    And has it close at once, instead of half-closing in good order, behind a part of an answer.
    """

    def _establish(self) -> TLSInfo:
        try:
            return super()._establish()
        except TimeoutError as exc:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, str(exc)) from exc

    def shutdown(self, how: int, /) -> None:
        if self._facts is not None and self.handoff.is_cut:
            raise ConnectionAbortedError("the answer broke off")
        super().shutdown(how)


_made: dict[tuple[Any, ...], SSLContext] = {}


def ssl_context(conf: Any, default: Callable[[], Any]) -> SSLContext:
    """Make a context as `make_context`; a hook of gunicorn's configuration."""
    del default
    return make_context(conf)


def make_context(conf: Any, policy: KtlsPolicy | None = None) -> SSLContext:
    """Make a context of gunicorn's settings, once: it is asked for with each connection.

    Args:
        conf: gunicorn's settings: certfile, keyfile, ca_certs, cert_reqs, ciphers, timeout.
        policy: when to offload; AUTO if None.

    Raises:
        ConfigError: a file is unusable, or settings contradict each other.
    """
    key = (conf.certfile, conf.keyfile, conf.ca_certs, conf.cert_reqs, conf.ciphers, policy)
    if key not in _made:
        _made[key] = _make_context(conf, policy)
    return _made[key]


def _make_context(conf: Any, policy: KtlsPolicy | None = None) -> SSLContext:
    context = SSLContext.for_server(
        conf.certfile or conf.keyfile,
        conf.keyfile,
        cafile=conf.ca_certs,
        alpn=["http/1.1"],
        client_cert=_CLIENT_CERT[conf.cert_reqs],  # type: ignore[arg-type]
        policy=policy,
    )
    context.sslsocket_class = _Socket  # type: ignore[assignment]
    if conf.ciphers:
        context.set_ciphers(conf.ciphers)
    if conf.timeout:
        # A sync worker that waits any longer is killed.
        context.handshake_timeout = min(_HANDSHAKE_TIMEOUT, conf.timeout / 2)
    return context


class _Plain:
    """gunicorn's settings as for a server without TLS, which may use sendfile."""

    is_ssl = False

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cfg, name)


class _Answer:
    """An application's answer: unless it is whole, the connection ends without close_notify."""

    def __init__(self, parts: Iterable[bytes], cut: Callable[[], None]) -> None:
        self._parts = parts
        self._cut = cut
        self._is_whole = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts
        self._is_whole = True

    def close(self) -> None:
        """Close it; gunicorn does so in any case."""
        if not self._is_whole:
            self._cut()
        if hasattr(self._parts, "close"):
            self._parts.close()


class _Worker:
    """Common parts of both workers."""

    cfg: Any
    wsgi: Any

    def init_process(self) -> None:
        """Use tlsify's context, unless the configuration has a hook of its own."""
        setting = self.cfg.settings["ssl_context"]
        if setting.get() is setting.default:
            self.cfg.set("ssl_context", ssl_context)
        if self.cfg.is_ssl:
            self.cfg.ssl_context(self.cfg, None)  # what is wrong with a file must show now
        super().init_process()  # type: ignore[misc]

    def load_wsgi(self) -> None:
        """Load the application, and tell it of its connections."""
        super().load_wsgi()  # type: ignore[misc]
        application = self.wsgi

        def told(environ: dict[str, Any], start_response: Any) -> Any:
            sock = environ["gunicorn.socket"]
            if not isinstance(sock, SSLSocket):
                return application(environ, start_response)
            environ.update(variables(sock.facts))

            def cut() -> None:
                if start_response.__self__.headers_sent:
                    sock.cut()

            try:
                answer = application(environ, start_response)
            except BaseException:
                cut()
                raise
            is_file = isinstance(answer, environ["wsgi.file_wrapper"])
            return answer if is_file else _Answer(answer, cut)

        self.wsgi = told


class SyncWorker(_Worker, sync.SyncWorker):  # type: ignore[misc]
    """gunicorn's worker that serves one connection at a time."""

    def handle_request(self, *arguments: Any) -> None:
        """Answer one request."""
        cfg = self.cfg
        self.cfg = _Plain(cfg)
        try:
            super().handle_request(*arguments)
        finally:
            self.cfg = cfg


class _Connection(gthread.TConn):  # type: ignore[misc]
    """gunicorn's connection, past its handshake."""

    initialized: bool

    def init(self) -> None:
        """Begin to read requests, marked as https."""
        if not self.initialized:
            self.initialized = True
            self.sock.settimeout(None)
            self.parser = get_parser(self.cfg, self.sock, self.client)

    def set_timeout(self) -> None:
        """Prepare to wait by the poller for the next request."""
        super().set_timeout()
        is_ready(self.sock)


class _Queue(gthread.PollableMethodQueue):  # type: ignore[misc]
    """gunicorn's queue, of which the descriptors may not close before its last user has ended."""

    def __init__(self, end_users: Callable[[], None]) -> None:
        """Prepare."""
        super().__init__()
        self._end_users = end_users

    def close(self) -> None:
        """Close it."""
        self._end_users()
        super().close()


class ThreadWorker(_Worker, gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's worker that serves connections in threads, of which handshakes take none.

    Connections count from when they are accepted, as gunicorn has it. Where there are as many as
    there may be, or no more descriptors, stalled handshakes make room for those who wait.
    """

    _handshakes: Handshakes | None = None
    _resumption = 0.0  # when to accept again after a failure
    _is_failing = False
    _next_press = 0.0

    def __init__(self, *arguments: Any) -> None:
        """Prepare."""
        super().__init__(*arguments)
        self.method_queue = _Queue(self._abort_handshakes)

    def run(self) -> None:
        """Accept and serve, with requests answered as if there were no TLS."""
        true = self.cfg
        self.cfg = _Plain(true)
        if true.is_ssl:
            self._true_cfg, self._context = true, true.ssl_context(true, None)
            self._handshakes = Handshakes(self._context, self.worker_connections)
            self._newcomers = select.poll()
            for listener in self.sockets:
                self._newcomers.register(listener, select.POLLIN)
        try:
            super().run()
        finally:
            self._abort_handshakes()

    def _abort_handshakes(self) -> None:
        if self._handshakes is not None:
            self._handshakes.close()

    # -- when to accept

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's signature
        """Begin or cease to accept; after a failure there is a pause."""
        super().set_accept_enabled(enabled and time.monotonic() >= self._resumption)

    def _rest(self) -> None:
        """Accept nothing for a moment: there may be descriptors, or memory, then."""
        self._resumption = time.monotonic() + _PAUSE
        self.set_accept_enabled(False)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events; as long as there is no place, those that have stalled make room."""
        if self._handshakes is not None and not self._accepting:
            now = time.monotonic()
            if now >= self._next_press:
                self._next_press = now + _PAUSE
                if not self.alive or self._newcomers.poll(0):
                    self._handshakes.make_room(pressing=self.alive)
            timeout = min(timeout, _PAUSE)
        super().wait_for_and_dispatch_events(timeout)

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection; gunicorn serves it when its handshake is done."""
        if self._handshakes is None:
            super().accept(listener)
            return
        try:
            sock, client = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as exc:
            if not self._is_failing:
                self.log.warning("accept() failed, retrying in %s s: %s", _PAUSE, said(exc))
            self._is_failing = True
            self._rest()
            return
        self._is_failing = False
        self.nr_conns += 1
        server = listener.getsockname()

        def done(handed: Handoff) -> None:
            self.method_queue.defer(self._serve, handed, client, server)

        def failed(why: BaseException) -> None:
            # Those who only look whether there is a server are as quiet as with gunicorn.
            self._note_failure(
                client, why, logging.DEBUG if _kind(why) in _USUAL else logging.WARNING
            )
            self.method_queue.defer(self._forget, why)

        self._handshakes.begin(sock, done, failed)

    # -- one connection

    def _serve(self, handed: Handoff, client: Any, server: Any) -> None:
        """Have the poller wait for the request, as gunicorn does for a client that takes long."""
        try:
            sock = _Socket.established(handed, self._context)
            conn = _Connection(self._true_cfg, sock, client, server)
            readable = partial(self.on_pending_socket_readable, conn)
            self.poller.register(sock, selectors.EVENT_READ, readable)
        except (TlsifyError, OSError) as exc:
            handed.abort()
            self._note_failure(client, exc)
            self._forget(exc)
            return
        conn.timeout = time.monotonic() + _REQUEST_PATIENCE
        self.pending_conns.append(conn)

    def _note_failure(self, client: Any, why: BaseException, level: int = logging.WARNING) -> None:
        address = client[0] if isinstance(client, tuple) else client
        self.log.log(level, "connection refused: ip=%s: %s", address, said(why))

    def _forget(self, why: BaseException) -> None:
        """Free the place of a connection that has failed; there may be another newcomer for it."""
        self.nr_conns -= 1
        self._next_press = 0.0
        if _kind(why) is Event.HANDSHAKE_RESOURCES:
            self._rest()


def _kind(why: BaseException) -> Event | None:
    return outcome(why) if isinstance(why, FAILURES) else None


# gunicorn's names of workers, and tlsify's classes in their place.
_WORKERS = {
    "sync": "tlsify.integrations.gunicorn.SyncWorker",
    "gthread": "tlsify.integrations.gunicorn.ThreadWorker",
    "asgi": "tlsify.integrations.gunicorn_asgi.Worker",
}


class Application(WSGIApplication):  # type: ignore[misc]
    """gunicorn's command, with tlsify's worker of the kind that its settings name."""

    _is_started = False

    def load_config(self) -> None:
        """Load the settings, and exchange the worker."""
        super().load_config()
        with reported():
            require_certificate(self.cfg.is_ssl, "--certfile and --keyfile")
            name = self.cfg.worker_class_str  # gthread for a sync worker with threads
            ours = _WORKERS.get(name, name)
            if not ours.startswith("tlsify."):
                kinds = ", ".join(_WORKERS)
                raise ConfigError(
                    f"tlsify has no worker in the place of {name}", hint=f"use {kinds}"
                )
            self.cfg.set("worker_class", ours)
            if not self._is_started:
                _make_context(self.cfg)  # what is wrong with a file must show now
        self._is_started = True


def main() -> None:
    """Run gunicorn's command, with the options of the command line, with tlsify's workers."""
    Application(
        "%(prog)s [OPTIONS] [APP_MODULE]", prog="python -m tlsify.integrations.gunicorn"
    ).run()


if __name__ == "__main__":
    main()
