"""HTTP servers for files, each over TLS in its own way: who takes part in bulk and its kin."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scripts.bench import peers, servers
from scripts.bench.interleave import Missing
from scripts.bench.processes import free_port, started
from scripts.bench.servers import Running, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class Site(NamedTuple):
    """A way to serve files.

    Attributes:
        start: runs it.
        tls: whether it speaks TLS.
        ktls: whether it is meant to leave the records to the kernel.
        keeps: whether a connection is good for more than one answer.
    """

    start: Callable[[Setting], AbstractContextManager[Running]]
    tls: bool = True
    ktls: bool = False
    keeps: bool = True


def _aiohttp(way: str) -> Callable[[Setting], AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(setting: Setting) -> Iterator[Running]:
        port, shown = free_port(), setting.credentials
        if way == "aiofastnet" and not peers.python_has("aiofastnet"):
            raise Missing("aiofastnet is not installed for this Python")
        program = peers.ROOT / "scripts/bench/programs/http_server.py"
        words = peers.python().with_arguments(program, way, port, shown.certificate, shown.key)
        with started(words, port, core=setting.core, folder=setting.files) as process:
            yield Running(port, (process,))

    return start


@contextlib.contextmanager
def _gunicorn(setting: Setting) -> Iterator[Running]:
    """Run gunicorn, threads in a worker, with the project's integration."""
    port, shown = free_port(), setting.credentials
    words = peers.python().with_arguments("-m", "gunicorn", "--bind", f"127.0.0.1:{port}")
    words = words.with_arguments("--certfile", shown.certificate, "--keyfile", shown.key)
    words = words.with_arguments("--worker-class", "tlsify.integrations.gunicorn.ThreadWorker")
    words = words.with_arguments("--threads", 4, "--keep-alive", 600, "--no-control-socket")
    words = words.with_arguments("http_server:application")
    program = str(peers.ROOT / "scripts/bench/programs")
    path = f"{words.environment['PYTHONPATH']}:{program}"
    words = peers.Words(words.words, words.environment | {"PYTHONPATH": path})
    with started(words, port, core=setting.core, folder=setting.files) as process:
        yield Running(port, (process,))


def _behind(
    terminator: Callable[[Setting], AbstractContextManager[Running]],
    origin: Callable[[Setting], AbstractContextManager[Running]] = servers.nginx_plain,
) -> Callable[[Setting], AbstractContextManager[Running]]:
    """Put a terminator in front of nginx; both are accounted for."""

    @contextlib.contextmanager
    def start(setting: Setting) -> Iterator[Running]:
        with origin(setting) as plain, terminator(replace(setting, backend=plain.port)) as tls:
            yield Running(tls.port, (*tls.programs, *plain.programs))

    return start


@contextlib.contextmanager
def _passed(setting: Setting) -> Iterator[Running]:
    """Run ``tlsify forward --pass-fd`` with the C server that gets the descriptors."""
    if (program := peers.files_program()) is None:
        raise Missing("not built: there is no C compiler")
    place = setting.folder / f"passed-{free_port()}"
    words = program.with_arguments(place, setting.files)
    with started(words, core=setting.core, folder=setting.files) as process:
        process.await_path(place)
        front_end = servers.forward("auto", "--pass-fd", f"unix:{place}", "--aware")
        with front_end(replace(setting, backend=0)) as front:
            yield Running(front.port, (*front.programs, process))


def _wrapped(*options: str) -> Callable[[Setting], AbstractContextManager[Running]]:
    """Return what runs nginx without TLS under ``tlsify wrap``."""

    def start(setting: Setting) -> AbstractContextManager[Running]:
        if _kernel_sessions() is None:
            raise Missing("no kernel TLS here")
        shown = setting.credentials
        command = servers.tlsify("wrap", "--cert", shown.certificate, "--key", shown.key)
        return servers.nginx_plain(setting, command.with_arguments(*options, "--"))

    return start


def _kernel_sessions() -> int | None:
    """Count the sending directions that this kernel has been given; None without kernel TLS."""
    try:
        lines = Path("/proc/net/tls_stat").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) for line in lines if line.startswith("TlsTxSw"))


@contextlib.contextmanager
def carried_by(*, kernel: bool) -> Iterator[None]:
    """See to it that the kernel has a part in what is meant to be its work.

    Args:
        kernel: whether it is.

    Raises:
        Missing: it had none: some builds of OpenSSL offload nothing.
    """
    before = _kernel_sessions()
    if kernel and before is None:
        raise Missing("no kernel TLS here")
    yield
    if kernel and _kernel_sessions() == before:
        raise Missing("the kernel had no part in it")


SITES = {
    "tlsify serve, kernel": Site(servers.serve("auto"), ktls=True),
    "tlsify serve, relay": Site(servers.serve("off")),
    "tlsify + aiohttp": Site(_aiohttp("tlsify"), ktls=True),
    "tlsify + gunicorn": Site(_gunicorn, ktls=True),
    "tlsify --pass-fd, C": Site(_passed, ktls=True),
    "tlsify wrap + nginx": Site(_wrapped(), ktls=True),
    "tlsify wrap --bare + nginx": Site(_wrapped("--bare"), ktls=True),
    "tlsify forward + nginx": Site(_behind(servers.forward("auto")), ktls=True),
    "nginx, kernel": Site(servers.nginx_ktls, ktls=True),
    "nginx": Site(servers.nginx),
    "haproxy + nginx": Site(_behind(servers.haproxy_relay)),
    "hitch + nginx": Site(_behind(servers.hitch)),
    "stunnel + nginx": Site(_behind(servers.stunnel)),
    "aiohttp + ssl": Site(_aiohttp("ssl")),
    "aiohttp + aiofastnet": Site(_aiohttp("aiofastnet"), ktls=True),
    "openssl s_server, kernel": Site(servers.s_server_ktls, ktls=True, keeps=False),
    "nginx, plain": Site(servers.nginx_plain, tls=False),
    "aiohttp, plain": Site(_aiohttp("plain"), tls=False),
}
