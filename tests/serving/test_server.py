"""Tests of server: a service of a few lines, with real workers, in a process of its own."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import psutil
import pytest

from tests.cli.harness import insist
from tests.conftest import issue
from tests.doubles import ends, until
from tests.isolation.test_custodian import children
from tests.memory import forms, holds
from tlsify.aio.limits import Limits
from tlsify.config import KtlsMode, KtlsPolicy, ServerConfig
from tlsify.serving import server as serving
from tlsify.serving.plan import ServerPlan
from tlsify.serving.server import part
from tlsify.system import listening, sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

with_landlock = pytest.mark.skipif(
    sandbox.refusal() is not None, reason=f"no sandbox: {sandbox.refusal()}"
)
# Answers each line with its worker's pid, its user, and the line.
PROGRAM = """
import asyncio, logging, os, sys
from pathlib import Path
from tlsify.system import listening
from tlsify.serving import server as serving
from tlsify.aio.limits import Limits
from tlsify.aio.transport import attach
from tlsify.credentials.key_pair import KeyPair
from tlsify.config import KtlsMode, KtlsPolicy, ServerConfig
from tlsify.serving.configuration import Isolation
from tlsify.serving.plan import Provision, ServerPlan
from tlsify.system.process import Account
from tlsify.system.sandbox import Reach, Sandboxing
from tlsify.serving.reexec import Inherited

logging.basicConfig(format="%(message)s", level=logging.INFO)
folder = Path(sys.argv[1])

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Lines(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(f"{os.getpid()} {os.geteuid()} ".encode() + data)

class Service:
    async def start(self, is_full):
        if os.path.exists(folder / "fails"):
            raise RuntimeError("planted")
    async def serve(self, handed):
        await attach(Lines, handed)
    async def drain(self):
        say("drain", os.getpid())
        await asyncio.sleep(1000)
    async def stop(self):
        say("stop", os.getpid())
    def backends(self):
        return {"a:1": True}

def load():
    return ServerConfig(key_pair=KeyPair.load(folder / "cert.pem", folder / "key.pem"), timeout=5)

def watch():
    watched = folder / "watched"
    if not watched.exists():
        return 0
    size = min(watched.stat().st_size + 1, 5)
    watched.write_bytes(bytes(size))  # it changes from one look to the next, and then no more
    return size

def listen():
    first = listening.listen("127.0.0.1", 0, reuse_port=True)
    port = first.getsockname()[1]
    more = [listening.listen("127.0.0.1", port, reuse_port=True) for _ in range(SOCKETS - 1)]
    return [first, *more]

SOCKETS, ACCOUNT, DELAY, DRAIN = 1, None, 0, 5.0
REACH, SANDBOXING = Reach(), Sandboxing.AUTO
ISOLATION = None
exec(sys.argv[2])
with Inherited.inherit() as estate:
    listeners = estate.claim("all", listen)
    metrics = estate.claim("metrics", lambda: [listening.listen_at(folder / "metrics")])
    serving.run(ServerPlan(
        listeners=listeners, load=load, policy=KtlsPolicy(KtlsMode.OFF),
        provide=lambda: Provision(Service), workers=2,
        limits=Limits(), drain_delay=DELAY, drain_seconds=DRAIN, metrics=metrics, account=ACCOUNT,
        watch=watch, estate=estate,
        reach=lambda: REACH, sandboxing=SANDBOXING, isolation=ISOLATION,
        on_ready=lambda: say("ready", os.getpid(), listeners[0].getsockname()[1]),
    ))
"""


class Server:
    """The program above."""

    def __init__(self, folder: Path, authority: trustme.CA, settings: str = "") -> None:
        """Start it, and wait until it is ready."""
        self._folder = folder
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self._context)
        self.issue(authority)
        with (folder / "errors").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, folder, settings],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            _, pid, port = self.read("ready")
            assert int(pid) == self.process.pid
        except BaseException:
            self.__exit__()
            raise
        self.port = int(port)

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, should it still run."""
        self.process.kill()
        self.process.communicate()

    def issue(self, authority: trustme.CA) -> None:
        """Put a new certificate and key in place."""
        leaf = authority.issue_cert("example.org")
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        (self._folder / "cert.pem").write_bytes(chain)
        (self._folder / "key.pem").write_bytes(leaf.private_key_pem.bytes())

    def read(self, word: str) -> list[str]:
        """Read up to a line that begins with a word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()
        raise AssertionError(f"no {word}: {self.errors()}")

    def errors(self) -> str:
        """Return what it has said on stderr."""
        return (self._folder / "errors").read_text()

    def connect(self) -> ssl.SSLSocket:
        """Make a connection."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return self._context.wrap_socket(sock, server_hostname="example.org")

    def ask(self, sock: ssl.SSLSocket | None = None) -> tuple[int, int]:
        """Send a line, on a connection of its own if there is none; return pid and user."""
        if sock is None:
            with self.connect() as own:
                return self.ask(own)
        sock.sendall(b"hello")
        pid, user, text = sock.recv(100).split(b" ")
        assert text == b"hello"
        return int(pid), int(user)

    def serial(self) -> Any:
        """Return the serial number of the certificate that it shows."""
        with self.connect() as sock:
            return cast("Any", sock.getpeercert())["serialNumber"]

    def metrics(self, path: str = "/metrics") -> dict[str, float] | int:
        """Ask for metrics, or something else there: the status, if it is not 200."""
        connection = HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self._folder / "metrics"))
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            return response.status
        samples = re.findall(r"^(tlsify_\S+) (\S+)$", text, re.MULTILINE)
        return {name: float(number) for name, number in samples}

    def metric(self, name: str) -> float:
        """Return one of them."""
        found = self.metrics()
        assert isinstance(found, dict)
        return found[name]

    def workers(self) -> set[int]:
        """Return which processes it has forked."""
        pid = self.process.pid
        return {int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def stop(self) -> None:
        """End it, in good order."""
        self.process.terminate()
        assert ends(self.process) == 0, self.errors()


@pytest.fixture
def server(tmp_path: Path, authority: trustme.CA) -> Iterator[Server]:
    """One that runs."""
    with Server(tmp_path, authority) as made:
        yield made


# A worker that somebody has taken over: what it is told to open, it tries to.
_TAKEN_OVER = """
def data_received(self, data):
    try:
        open(data.decode(), "rb").close()
        answer = b"opened"
    except OSError as exc:
        answer = str(exc.errno).encode()
    self.transport.write(b"%d 0 " % os.getpid() + answer)
Lines.data_received = data_received
"""


def _tries(server: Server, path: Path) -> bytes:
    with server.connect() as sock:
        sock.sendall(str(path).encode())
        return sock.recv(100).split(b" ")[2]


@with_landlock
def test_worker_that_is_taken_over(tmp_path: Path, authority: trustme.CA) -> None:
    """It can read what it serves, and neither its own key nor anything else; others see it."""
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "file").touch()
    os.environ["TLSIFY_ROSTER"] = str(tmp_path / "roster")
    settings = f"{_TAKEN_OVER}\nREACH = Reach(read=({str(tmp_path / 'shown')!r},))"
    try:
        served = Server(tmp_path, authority, settings)
    finally:
        os.environ["TLSIFY_ROSTER"] = "off"
    with served as server:
        assert _tries(server, tmp_path / "shown/file") == b"opened"
        assert _tries(server, tmp_path / "key.pem") == str(errno.EACCES).encode()
        assert _tries(server, Path("/etc/passwd")) == str(errno.EACCES).encode()
        assert len([*(tmp_path / "roster").iterdir()]) == 2
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.metric('tlsify_reloads_total{outcome="ok"}') == 1)
        assert _tries(server, tmp_path / "key.pem") == str(errno.EACCES).encode()
        server.stop()
    assert [*(tmp_path / "roster").iterdir()] == []


def test_sandbox_that_is_not_wanted(tmp_path: Path, authority: trustme.CA) -> None:
    """Then workers reach what their user may."""
    settings = f"{_TAKEN_OVER}\nSANDBOXING = Sandboxing.OFF"
    with Server(tmp_path, authority, settings) as server:
        assert _tries(server, tmp_path / "key.pem") == b"opened"


# The keys are in two processes that workers have no way to.
_ISOLATED = """
ISOLATION = Isolation(lambda: [folder / "key.pem"], (), 2, Sandboxing.AUTO, None)
"""


def test_key_that_workers_have(server: Server, tmp_path: Path) -> None:
    """Without isolation it is in the memory of each process, which the search below would find."""
    wanted = forms((tmp_path / "key.pem").read_bytes())
    for pid in (server.process.pid, *server.workers()):
        assert holds(pid, wanted)


def test_isolated_key(tmp_path: Path, authority: trustme.CA) -> None:
    """It is in no process that has connections, be it after a reload; the holders have it."""
    with Server(tmp_path, authority, _ISOLATED) as server:
        for _ in range(2):
            server.ask()
            wanted = forms((tmp_path / "key.pem").read_bytes())
            holders = {pid for each in server.workers() for pid in children(each)}
            assert len(holders) == 2
            assert all(holds(pid, wanted) for pid in holders)
            (custodian,) = {pid for pid in server.workers() if children(pid)}
            assert "NoNewPrivs:\t1" in Path(f"/proc/{custodian}/status").read_text()
            for pid in (server.process.pid, *server.workers() - {custodian}):
                assert holds(pid, wanted) == set()
            first = server.serial()
            server.issue(authority)
            server.process.send_signal(signal.SIGHUP)
            until(partial(lambda before: server.serial() != before, first))
            until(lambda: server.metric("tlsify_workers_draining") == 0)
        last = psutil.Process(custodian)
        server.stop()
    until(lambda: not last.is_running())


def test_isolated_key_that_is_refused(tmp_path: Path, authority: trustme.CA) -> None:
    """A bad reload is refused as without isolation; holders and custodian are replaced."""
    with Server(tmp_path, authority, _ISOLATED) as server:
        first = server.serial()
        good = (tmp_path / "key.pem").read_bytes()
        (tmp_path / "key.pem").write_bytes(b"nonsense")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.metric('tlsify_reloads_total{outcome="refused"}') == 1)
        assert "key.pem holds no usable PEM private key" in server.errors()
        (tmp_path / "key.pem").write_bytes(good)
        (custodian,) = {pid for pid in server.workers() if children(pid)}
        os.kill(min(children(custodian)), signal.SIGKILL)
        until(lambda: server.metric("tlsify_key_holder_restarts_total") == 1)
        assert server.serial() == first
        os.kill(custodian, signal.SIGKILL)
        until(lambda: server.metric('tlsify_reloads_total{outcome="ok"}') == 1)
        assert server.serial() == first
        server.stop()


@with_landlock
def test_isolated_key_that_is_readable(tmp_path: Path, authority: trustme.CA) -> None:
    """Workers that could read its file are told of once, with a remedy; others are not."""
    for settings, warned in (("", False), ("SANDBOXING = Sandboxing.OFF", True)):
        with Server(tmp_path, authority, _ISOLATED + settings) as server:
            server.ask()
            assert (f"--isolate-key keeps {tmp_path / 'key.pem'}" in server.errors()) is warned


def test_beginning_and_end(server: Server, tmp_path: Path) -> None:
    """Workers serve, their service hears of the end, and nothing is left behind."""
    with server.connect() as sock:
        pid, _ = server.ask(sock)
        assert pid in server.workers()
        assert server.metric("tlsify_connections") == 1
        assert server.metric("tlsify_workers") == 2
        server.process.terminate()
        server.read("drain")
        until(lambda: server.metrics("/healthz") == 503)
        assert server.metric("tlsify_ready") == 0
        assert server.ask(sock) == (pid, os.geteuid()), "it may finish"
        until(lambda: _is_refused(server))
    server.read("stop")
    assert ends(server.process) == 0
    assert not (tmp_path / "metrics").exists()


def _is_refused(server: Server) -> bool:
    """Return whether nobody listens any more: the other worker may take a moment longer."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    except OSError:  # it was in the queue of that one
        pass
    return False


@pytest.mark.parametrize("is_long", [True, False])
def test_delay(tmp_path: Path, authority: trustme.CA, *, is_long: bool) -> None:
    """Balancers are told of the end before connections are; another request ends it at once."""
    with Server(tmp_path, authority, f"DELAY = {3600 if is_long else 0.3}") as server:
        first = server.workers()
        server.process.terminate()
        if is_long:
            until(lambda: server.metrics("/readyz") == 503)
            assert server.metrics("/livez") != 503
            server.process.send_signal(signal.SIGHUP)
            server.ask()
            assert server.workers() == first, "there is no reload any more"
            insist(server.process)
        else:
            server.read("stop")
        assert ends(server.process) == 0


def test_end_of_patience(tmp_path: Path, authority: trustme.CA) -> None:
    """Who does not go in time is cut off, with close_notify."""
    with Server(tmp_path, authority, "DRAIN = 0.1") as server, server.connect() as sock:
        server.ask(sock)
        server.stop()
        assert sock.recv(1) == b"", "no truncation"


def test_reload(server: Server, authority: trustme.CA) -> None:
    """New connections see the new certificate; one that was there lives on with its old worker."""
    with server.connect() as sock:
        pid, _ = server.ask(sock)
        first = server.serial()
        server.issue(authority)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.metric('tlsify_reloads_total{outcome="ok"}') == 1)
        until(lambda: server.serial() != first)
        assert server.ask(sock)[0] == pid
        assert server.ask()[0] != pid
        assert server.metric("tlsify_workers_draining") >= 1
        assert server.metrics("/healthz") != 503, "it is the old ones that drain"
    until(lambda: server.metric("tlsify_workers_draining") == 0)
    assert server.metric("tlsify_connections") == 0
    server.stop()


def test_bad_reload(server: Server, tmp_path: Path) -> None:
    """It is refused with a line, and all goes on; the next good one is taken."""
    first, workers = server.serial(), server.workers()
    good = (tmp_path / "key.pem").read_bytes()
    (tmp_path / "key.pem").write_bytes(b"nonsense")
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.metric('tlsify_reloads_total{outcome="refused"}') == 1)
    assert server.serial() == first
    assert server.workers() == workers
    path = tmp_path / "key.pem"
    said = f"reload failed; keeping the previous workers: {path} holds no usable PEM private key"
    assert said in server.errors()
    (tmp_path / "key.pem").write_bytes(good)
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.metric('tlsify_reloads_total{outcome="ok"}') == 1)
    server.stop()


def test_workers_that_would_not_start(server: Server, tmp_path: Path) -> None:
    """A new generation that fails leaves the old one where it was."""
    workers = server.workers()
    (tmp_path / "fails").touch()
    server.process.send_signal(signal.SIGHUP)
    until(lambda: server.metric('tlsify_reloads_total{outcome="refused"}') == 1)
    assert server.ask()[0] in workers
    server.stop()


def test_watching(server: Server, tmp_path: Path) -> None:
    """What is watched has it reload by itself, once the change is over."""
    watched = tmp_path / "watched"
    watched.touch()
    until(lambda: watched.stat().st_size == 5)
    until(lambda: server.metric('tlsify_reloads_total{outcome="ok"}') == 1)
    server.stop()
    assert server.errors().count("reloaded") == 1


@pytest.mark.parametrize("sockets", [1, 2, 3])
def test_worker_killed(tmp_path: Path, authority: trustme.CA, sockets: int) -> None:
    """Nobody who connects meanwhile is lost, whether workers share a socket or have their own."""
    with Server(tmp_path, authority, f"SOCKETS = {sockets}") as server:
        workers = server.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        waiting = [
            socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(20)
        ]
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        for sock in waiting:
            with server._context.wrap_socket(sock, server_hostname="example.org") as stream:
                assert server.ask(stream)[0] not in workers
        assert server.metric("tlsify_worker_restarts_total") == 2
        server.stop()


def test_worker_that_hangs(tmp_path: Path, authority: trustme.CA) -> None:
    """It is replaced, and counted; the other one has served all the while, and lives on."""
    hooks = "serving.SupervisorHooks"
    settings = f"from functools import partial; {hooks} = partial({hooks}, patience=2.0)"
    with Server(tmp_path, authority, settings) as server, server.connect() as sock:
        other = server.ask(sock)[0]
        (hung,) = server.workers() - {other}
        os.kill(hung, signal.SIGSTOP)
        until(lambda: hung not in server.workers() and len(server.workers()) == 2, 60)
        assert server.ask(sock)[0] == other
        until(lambda: server.ask()[0] not in {hung, other}, 60)
        assert server.metric("tlsify_worker_hangs_total") == 1
        assert server.metric("tlsify_worker_restarts_total") == 1
        server.stop()


@pytest.mark.parametrize("sockets", [1, 2])
def test_successor(tmp_path: Path, authority: trustme.CA, sockets: int) -> None:
    """It is the same process, goes on counting, and old connections live on for a while."""
    with Server(tmp_path, authority, f"SOCKETS = {sockets}") as server:
        with server.connect() as sock:
            pid, _ = server.ask(sock)
            before = server.metric('tlsify_handshakes_total{outcome="ok"}')
            server.process.send_signal(signal.SIGUSR2)
            assert server.read("ready") == ["ready", str(server.process.pid), str(server.port)]
            until(lambda: server.metric("tlsify_workers_draining") > 0)
            assert server.ask(sock)[0] == pid
            until(lambda: server.ask()[0] != pid)
            assert server.metric('tlsify_handshakes_total{outcome="ok"}') > before
            until(lambda: server.metric("tlsify_connections") == 1)
        until(lambda: pid not in server.workers())
        until(lambda: server.metric("tlsify_workers_draining") == 0)
        server.process.send_signal(signal.SIGUSR2)
        server.read("ready")
        server.stop()


def test_successor_that_would_not_start(server: Server, tmp_path: Path) -> None:
    """It is refused before anything has changed."""
    workers = server.workers()
    (tmp_path / "cert.pem").write_bytes(b"nonsense")
    server.process.send_signal(signal.SIGUSR2)
    until(lambda: "restart failed" in server.errors())
    assert server.workers() == workers
    assert server.ask()[0] in workers
    server.stop()


def test_supervisor_killed(server: Server) -> None:
    """Its workers come to their end, too."""
    with server.connect() as sock:
        pid, _ = server.ask(sock)
        worker = psutil.Process(pid)
        server.process.kill()
        server.read("drain")
    until(lambda: not worker.is_running())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_rights(tmp_path: Path, authority: trustme.CA) -> None:
    """Workers have none, and a reload still reads what only root may."""
    tmp_path.chmod(0o700)
    with Server(tmp_path, authority, "ACCOUNT = Account(65534, 65534, ())") as server:
        assert server.ask()[1] == 65534
        first = server.serial()
        server.issue(authority)
        (tmp_path / "key.pem").chmod(0o600)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.serial() != first)
        assert server.ask()[1] == 65534
        server.stop()


# -- without workers


def test_parts() -> None:
    """Each worker gets its own sockets of each address, and each socket has a worker."""
    made = [listening.listen("127.0.0.1", 0, reuse_port=True)]
    port = made[0].getsockname()[1]
    made += [listening.listen("127.0.0.1", port, reuse_port=True) for _ in range(2)]
    single = listening.listen("127.0.0.1", 0)
    try:
        for number in range(1, 6):
            parts = [part([*made, single], index, number) for index in range(number)]
            assert all(single in each for each in parts)
            assert all(len(each) >= 2 for each in parts)
            assert {sock for each in parts for sock in each} == {*made, single}
        assert [part(made, index, 3) for index in range(3)] == [[sock] for sock in made]
    finally:
        for sock in (*made, single):
            sock.close()


def _plan(limits: Limits, authority: trustme.CA) -> ServerPlan:
    config = ServerConfig(key_pair=issue(authority, "example.org"))
    return ServerPlan(
        listeners=[],
        load=lambda: config,
        policy=KtlsPolicy(KtlsMode.OFF),
        provide=lambda: cast("Any", None),
        workers=2,
        limits=limits,
    )


def test_descriptors_for_all(
    authority: trustme.CA, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no more connections than descriptors suffice for, whatever was asked for."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1064, 1064))
    within = serving._within_means
    assert within(_plan(Limits(), authority)).connections == 500
    assert within(_plan(Limits(connections=20), authority)).connections == 20
    assert not caplog.records
    assert within(_plan(Limits(connections=501), authority)).connections == 500
    assert "no more descriptors (ulimit -n)" in caplog.text
    infinity = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (infinity, infinity))
    assert within(_plan(Limits(), authority)).connections is None
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1064, 1064))
    inline = dataclasses.replace(_plan(Limits(), authority), is_inline=True)
    assert within(inline).connections == 1000, "a relay in the loop has no pair"
    monkeypatch.setattr(serving, "host_refusal", lambda _: None)
    assert within(_plan(Limits(), authority)).connections == 1000, "the kernel's take fewer"


# May have a few threads, for both workers and all connections.
_FEW_THREADS = """
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (24, 4096))
ACCOUNT = Account({user}, {user}, ())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root has no such limit, and becomes who has")
def test_few_threads(tmp_path: Path, authority: trustme.CA) -> None:
    """Relayed connections share them, however many there are."""
    tmp_path.chmod(0o700)
    user = 2**30 + os.getpid()  # who is nobody else's
    number = 60
    with Server(tmp_path, authority, _FEW_THREADS.format(user=user)) as server, ExitStack() as all_:
        streams = [all_.enter_context(server.connect()) for _ in range(number)]
        for stream in streams:
            assert server.ask(stream)[1] == user
        assert server.metric("tlsify_connections") == number
        assert server.metric("tlsify_shortages_total") == 0
        all_.close()
        server.stop()


def test_certificates_in_metrics(authority: trustme.CA) -> None:
    """Each has its names, and of several with the same ones the first to expire is told."""
    pairs = [issue(authority, name) for name in ("a.example", "b.example", "a.example")]
    config = ServerConfig(key_pair=pairs[0], more_key_pairs=tuple(pairs[1:]))
    found = dict(serving.expiries(config))
    assert set(found) == {"a.example", "b.example"}
    assert found["a.example"] == min(pairs[0].not_after, pairs[2].not_after).timestamp()


# Leaves a thread behind that has something to carry yet, as a relay does.
_CARRIES = """
import threading, time

def carry(loop):
    while not loop.is_closed():
        time.sleep(0.01)
    say("carries", os.getpid())
    while not (folder / "go").exists():
        time.sleep(0.01)
    say("carried", os.getpid())

async def stop(self):
    threading.Thread(target=carry, args=[asyncio.get_running_loop()]).start()

Service.stop = stop
"""


def test_signal_that_comes_again(authority: trustme.CA, tmp_path: Path) -> None:
    """A worker that has been asked to end already carries what it owes to its end."""
    with Server(tmp_path, authority, _CARRIES) as server:
        server.process.terminate()
        workers = {int(server.read("carries")[1]) for _ in range(2)}
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        (tmp_path / "go").touch()
        assert {int(server.read("carried")[1]) for _ in range(2)} == workers
        assert ends(server.process) == 0
