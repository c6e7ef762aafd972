"""An agent in a process of its own, and TLS peers for what it connects."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.doubles import Endpoint, descriptors, until
from tlsify import agent
from tlsify.agent import wire
from tlsify.codepoints import CipherSuite
from tlsify.connection.stream import TLSSocket
from tlsify.system import scm_rights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import trustme

    from tlsify.connection.handoff import Handoff
    from tlsify.credentials.key_pair import KeyPair

ROOT = Path(__file__).resolve().parents[2]
HOST = "example.org"
PATIENCE = 60.0
_PR_CAPBSET_DROP = 24
_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE = 21, 24
# How many threads a user may have who is given.
_THREADS = 12
VERBOSE = "-v"  # stands in front of the verb


class Files(NamedTuple):
    """What requests and command lines name."""

    trust: Path
    certificate: Path
    key: Path

    @classmethod
    def save(cls, folder: Path, authority: trustme.CA, pair: KeyPair) -> Self:
        """Write them."""
        made = cls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        made.trust.write_bytes(authority.cert_pem.bytes())
        made.certificate.write_bytes(pair.certificate_pem())
        made.key.write_bytes(
            pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return made

    def server_context(self) -> ssl.SSLContext:
        """Make a TLS server of them."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Make a TLS client that trusts them."""
        return ssl.create_default_context(cafile=self.trust)

    def request(
        self, *, ktls: str = "off", name: str = HOST, timeout: float = PATIENCE
    ) -> agent.ClientRequest:
        """Ask for a connection with their server, and with nobody else."""
        return agent.ClientRequest(
            server_name=name,
            identities=(f"dns:{name}",),
            trust=str(self.trust),
            timeout=timeout,
            ktls=ktls,
        )


class Agent:
    """A running ``tlsify agent`` in a private folder, with a short name as AF_UNIX wants it."""

    def __init__(
        self,
        *words: str | Path,
        workers: int = 1,
        limit: int | None = None,
        user: int | None = None,
        settings: str = "",
    ) -> None:
        """Start it and wait until it is ready.

        Args:
            words: options.
            workers: processes.
            limit: how many descriptors it may have; None for the usual number.
            user: whose real uid it has, so that it may have no more threads than that user, which
                are a few; it keeps root's other rights.
            settings: statements of Python that go first.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="tlsify-"))
        self.place = self.folder / "agent"
        self.user = user
        self.process = start(
            self.place, *words, workers=workers, limit=limit, user=user, settings=settings
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith(b"tlsify: agent at")
        self._idle = self.descriptors()

    def __enter__(self) -> Self:
        """Serve."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, however the test ended."""
        if self.process.poll() is None:
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.communicate()
        shutil.rmtree(self.folder)

    def pids(self) -> list[int]:
        """Return its processes, the first one first."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def descriptors(self) -> int:
        """Count what its processes have open."""
        return sum(len(descriptors(pid)) for pid in self.pids())

    def at_rest(self) -> None:
        """Wait until no session has left anything open."""
        until(lambda: self.descriptors() <= self._idle, PATIENCE)

    @contextmanager
    def without_threads(self) -> Iterator[None]:
        """Occupy all threads of its user's that it could start."""
        user = self.user
        assert user is not None
        command = ["sleep", str(PATIENCE)]
        own = sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self.pids())
        others = [
            subprocess.Popen(command, preexec_fn=lambda: os.setresuid(user, 0, 0))
            for _ in range(_THREADS - own)
        ]
        try:
            yield
        finally:
            for one in others:
                one.kill()
                one.wait()

    def stop(self) -> tuple[int, str]:
        """Ask it to end; return its exit status and what it said on stderr."""
        self.process.terminate()
        _, said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said.decode()

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        for pid in reversed(self.pids()):
            os.kill(pid, number)

    def kill(self) -> None:
        """Kill all of it."""
        with ExitStack() as stack:
            ends = [os.pidfd_open(pid) for pid in self.pids()]
            for end in ends:
                stack.callback(os.close, end)
            self.signal(signal.SIGKILL)
            for end in ends:  # a worker may be the last that listens
                assert select.select([end], [], [], PATIENCE)[0], "it lives on"
        self.process.wait(PATIENCE)


def start(
    *words: str | Path,
    workers: int = 1,
    pass_fds: tuple[int, ...] = (),
    limit: int | None = None,
    user: int | None = None,
    settings: str = "",
) -> subprocess.Popen[bytes]:
    """Start ``tlsify agent``."""

    def prepare() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        if user is not None:
            # Who has one of these is not bound by RLIMIT_NPROC (kernel/fork.c copy_process).
            for capability in (_CAP_SYS_ADMIN, _CAP_SYS_RESOURCE):
                ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
            resource.setrlimit(resource.RLIMIT_NPROC, (_THREADS, _THREADS))
            os.setresuid(user, 0, 0)

    verbose = [VERBOSE] if VERBOSE in words else []
    rest = [word for word in words if word != VERBOSE]
    program = f"{settings}\nfrom tlsify.cli import main; raise SystemExit(main())"
    how = ["-c", program] if settings else ["-m", "tlsify"]
    command = [sys.executable, *how, *verbose, "agent", "--workers", str(workers), *rest]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        pass_fds=pass_fds,
        preexec_fn=prepare,
        env=os.environ | {"PYTHONWARNINGS": "always::ResourceWarning"},
    )


@contextmanager
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make a connection; both ends are closed in the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        for sock in (ours, theirs):
            sock.settimeout(PATIENCE)
        ours.settimeout(None)
        yield ours, theirs


def echo(stream: ssl.SSLSocket) -> bytes:
    """Send everything back in capitals, and end in good order."""
    received = b""
    while data := stream.recv(2**14):
        received += data
        stream.sendall(data.upper())
    with suppress(OSError):
        stream.unwrap()
    return received


def serving(
    files: Files, sock: socket.socket, work: Callable[[ssl.SSLSocket], object] = echo
) -> Endpoint[object]:
    """Be a TLS server on a socket, in a thread."""

    def run() -> object:
        context = files.server_context()
        with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as stream:
            return work(stream)

    return Endpoint(run)


def talk(handed: Handoff) -> None:
    """Send something, get it back, and end in good order."""
    with TLSSocket(handed) as stream:
        stream.sendall(b"data")
        assert stream.recv(100) == b"DATA"
        stream.shutdown(socket.SHUT_WR)
        assert stream.recv(100) == b""


# -- agents that are none


SUITE = CipherSuite.TLS_AES_128_GCM_SHA256.value.number
RELAYED = wire.encode(wire.Relayed(code="c", sentence="s", suite=SUITE))
KEYED = wire.encode(wire.Kernel(state=bytearray(b"state"), suite=SUITE))


class Impostor:
    """Takes one request, and answers as a test wants it to."""

    def __init__(self, answer: Callable[[socket.socket], object]) -> None:
        """Listen."""
        self._folder = tempfile.TemporaryDirectory(prefix="tlsify-")
        self.place = Path(self._folder.name, "agent")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.place))
        self._listener.listen()
        self._endpoint = Endpoint(lambda: self._serve(answer))

    def _serve(self, answer: Callable[[socket.socket], object]) -> None:
        with self._listener, self._listener.accept()[0] as channel:
            _, number = scm_rights.receive(channel, wire.MAX_REQUEST)
            os.close(number or -1)
            answer(channel)

    def join(self) -> None:
        """Wait for its end."""
        self._endpoint.result()
        self._folder.cleanup()
