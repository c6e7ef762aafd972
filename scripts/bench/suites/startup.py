"""Start-up: from the start of a client to the first byte of its ClientHello."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench import peers
from scripts.bench.credentials import make
from scripts.bench.interleave import Contender, Experiment, Missing
from scripts.bench.processes import started
from scripts.bench.servers import tlsify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.bench.interleave import Start, Turn
    from scripts.bench.plan import Plan

# Each contender finds the host's trust anchors as it does unasked; only s6-tlsc has to be told.
_UNASKED = ("SSL_CERT_FILE", "SSL_CERT_DIR", "CAFILE", "CADIR")
_TOLD = {"s6-tlsclient": {"CAFILE": "/etc/ssl/certs/ca-certificates.crt"}}
_DROP = Path("/proc/sys/vm/drop_caches")
_SSL = (
    "import socket, ssl; ssl.create_default_context().wrap_socket("
    "socket.create_connection(('localhost', {port})), server_hostname='localhost')"
)
_STUNNEL = "client = yes\nforeground = yes\npid =\nconnect = localhost:{port}\n"
_NOTE = (
    "Each program connects to a listener on loopback which takes one byte and hangs up. CPU and "
    "wall are until that byte is there; in all is the process to its end, which for a bare Python "
    "is what counts."
)
_COLD_NOTE = "With the page cache dropped before each start."


def _python(*words: str) -> peers.Words:
    """Run the project's own Python, as people install it."""
    return peers.Words((sys.executable, *words), {"PYTHONPATH": str(peers.ROOT)})


def _find(program: str, *words: str) -> peers.Words:
    found = peers.find(program)
    if found is None:
        raise Missing(str(peers.missing(program)))
    return found.with_arguments(*words)


def _commands(plan: Plan, agent: Path | None) -> dict[str, tuple[str, ...]]:
    """Name the contenders, and the words of those that are found by name; PORT is filled in."""
    stunnel = plan.folder / "stunnel.conf"
    return {
        "python (bare)": ("python", "-c", "pass"),
        "tlsify connect": ("python", "-m", "tlsify", "connect", "localhost", "PORT"),
        "tlsify connect --agent": (
            *("python", "-m", "tlsify", "connect", "--agent", str(agent), "localhost", "PORT"),
        ),
        "CPython ssl": ("python", "-c", _SSL.format(port="PORT")),
        "openssl s_client": ("openssl", "s_client", "-connect", "localhost:PORT"),
        "gnutls-cli": ("gnutls-cli", "-p", "PORT", "localhost"),
        "stunnel": ("stunnel4", str(stunnel)),
        "busybox ssl_client": ("busybox", "ssl_client", "localhost:PORT"),
        "s6-tlsc": ("s6-tlsclient", "localhost", "PORT", "true"),
    }


def experiments(plan: Plan) -> Iterator[Experiment]:
    """Return the start with warm caches, and with cold ones where that can be had."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, _agent(plan) as agent:
        port = listener.getsockname()[1]
        (plan.folder / "stunnel.conf").write_text(_STUNNEL.format(port=port))
        commands = _commands(plan, agent)
        for cold in (False,) if plan.smoke or not os.access(_DROP, os.W_OK) else (False, True):
            yield Experiment(
                title=f"to the ClientHello, {'cold' if cold else 'warm'}",
                contenders=tuple(
                    Contender(name, _starter(plan, listener, words, cold=cold))
                    for name, words in commands.items()
                ),
                figure="cpu",
                unit="ms of CPU",
                reference="python (bare)",
                note=f"{_NOTE} {_COLD_NOTE}" if cold else _NOTE,
            )


@contextlib.contextmanager
def _agent(plan: Plan) -> Iterator[Path | None]:
    """Run an agent; None if it does not start, which is then for its contender to say."""
    shown, place = make(plan.folder, "ECDSA"), plan.folder / "startup-agent"
    words = tlsify("agent", "--workers", 1, "--cert", shown.certificate, "--key", shown.key, place)
    with started(words, core=plan.load_core) as process:
        try:
            process.await_path(place)
        except RuntimeError:
            yield None
        else:
            yield place


def _starter(plan: Plan, listener: socket.socket, words: tuple[str, ...], *, cold: bool) -> Start:
    @contextlib.contextmanager
    def start() -> Iterator[Turn]:
        if "None" in words:
            raise RuntimeError("the agent does not start")
        port = str(listener.getsockname()[1])
        program, *rest = (word.replace("PORT", port) for word in words)
        command = _python(*rest) if program == "python" else _find(program, *rest)
        told = command.environment | _TOLD.get(program, {})
        command = peers.Words(command.words, told)
        dials = port in " ".join(rest) or program == "stunnel4"

        def turn() -> dict[str, float]:
            if cold:
                os.sync()
                _DROP.write_text("3")
            return _measure(plan.core, command, listener if dials else None)

        yield turn

    return start


def _measure(core: int, command: peers.Words, listener: socket.socket | None) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    process = subprocess.Popen(
        command.words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name not in _UNASKED}
        | command.environment,
    )
    os.sched_setaffinity(process.pid, {core})
    cpu = wall = None
    if listener is not None:
        listener.settimeout(20)
        with listener.accept()[0] as sock:
            sock.settimeout(20)
            if not sock.recv(1):
                raise RuntimeError("no ClientHello")
            wall = time.perf_counter() - begun
            cpu = _spent(process.pid)
    process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "cpu": 1000 * (whole if cpu is None else cpu),
        "wall ms": 1000 * (time.perf_counter() - begun if wall is None else wall),
        "CPU ms in all": 1000 * whole,
    }


def _spent(pid: int) -> float:
    """Return a process's processor seconds up to now, threads that have ended included."""
    clock = ~pid << 3 | 2  # CPUCLOCK_SCHED of a process: include/linux/posix-timers.h
    return time.clock_gettime(clock)
