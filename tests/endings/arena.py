"""Play a cell of the table: a peer here, the program in its own process."""

from __future__ import annotations

import re
import socket
import struct
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import psutil

from tests.doubles import queued, until
from tests.endings.harness import Process, Template
from tests.endings.peers import HOST, PATIENCE, Contexts, Peer, Seen
from tests.endings.programs import LINE
from tests.endings.table import AWAY, DOORS, PROGRAMS, SIZE, TIMES, Cell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme

MODES = {"relay": "off", "kernel": "require"}
# A patience that is to run out, and one that is not.
_SHORT, _LONG = 0.3, 60.0
_EXITS = {0: "end", 99: "cut"}  # docs/cli.md
_OURS = "RuntimeError: the program's own"

# What sh does as a PROG: it hears and says as the other programs do.
_SAY = f"""say() {{ echo "{{\\"at\\": \\"$1\\", \\"told\\": \\"$2\\"}}" >&{LINE}; }}
send() {{ if head -c $size /dev/zero >&7; then say done nothing; else say done reset; fi; }}
say connected; read word <&{LINE}
"""
_PROGS = {
    "close": "send",
    "exit": "send; exit 3",
    "kill": f"send; read word <&{LINE}",
    "serve-in-child": "send &",
    "close-in-child": "(exec 6<&- 7>&-); send",
}


class Files:
    """What programs read."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        """Write them."""
        self.ca, self.cert, self.key = (folder / f"{name}.pem" for name in ("ca", "cert", "key"))
        leaf = authority.issue_cert(HOST)
        authority.cert_pem.write_to_path(self.ca)
        self.cert.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(self.key)
        self.key.chmod(0o600)
        self.agent = folder / "agent"
        self.worker = folder / "worker"


class Arena:
    """Where cells are played: what several of them share, each made when it is first needed."""

    def __init__(self, folder: Path, authority: trustme.CA, *, many: bool) -> None:
        """Begin with the template, for many cells or for a few."""
        self._files, self._contexts = Files(folder, authority), Contexts(authority)
        self._stack = ExitStack()
        self._template = self._stack.enter_context(Template(many=many))
        self._servers: dict[tuple[str, str], tuple[Process, str]] = {}

    def __enter__(self) -> Self:
        """Play."""
        return self

    def __exit__(self, *_: object) -> None:
        """End them all."""
        self._stack.close()

    def play(self, cell: Cell, carrier: str) -> None:
        """Play a cell.

        Raises:
            AssertionError: it ended otherwise than it should.
        """
        plays: dict[str, Callable[[Cell, str], None]] = {
            "keeper": self._keeper,
            "pump": self._pump,
            "forward": self._forward,
            "tunnel": self._tunnel,
        }
        plays.get(cell.door, self._program)(cell, carrier)

    # -- the library

    def _program(self, cell: Cell, carrier: str) -> None:
        job: dict[str, Any] = cell._asdict() | {"answer": None, "ktls": MODES[carrier]}
        if cell.door == "agent":
            job["agent"] = self._agent()
        with self._peer(cell) as peer:
            if DOORS[cell.door].is_client:
                _, job["port"] = peer.listen()
                with self._start(cell, **job) as process:
                    peer.accept()
                    self._converse(cell, carrier, peer, process)
                return
            with self._start(cell, **job) as process:
                port = process.hear().get("port") or self._passing(cell, carrier)
                peer.connect(port)
                self._converse(cell, carrier, peer, process)

    def _converse(self, cell: Cell, carrier: str, peer: Peer, process: Process) -> None:
        _expect("carrier", process.hear()["offload"], carrier)
        peer.act()
        process.say("go")
        told = process.hear()
        if told["at"] == "sent":
            if cell.peer not in AWAY:
                self._read(cell, peer)
                peer.close()
            told = process.hear()
        elif cell.peer == "never":
            if cell.program in {"drop", "abort"}:
                process.say("bye")
            process.await_end()
            self._read(cell, peer)
        elif cell.peer not in AWAY and cell.program != "wait":
            self._read(cell, peer)
        process.say("bye")
        _expect("told", told["told"], cell.answer.told)
        self._check_end(cell, process)

    def _check_end(self, cell: Cell, process: Process) -> None:
        usual = PROGRAMS[cell.program].status, ""
        right, _ = DOORS[cell.door].statuses.get(cell.program, usual)
        _expect("exit status", process.status(), right)
        process.await_end()
        self._check_errors(process, 1 if cell.program == "raise" else 0)

    def _check_errors(self, process: Process, tracebacks: int = 0) -> None:
        said = process.errors()
        _expect("tracebacks", said.count("Traceback"), tracebacks)
        _expect("tracebacks of its own", said.count(_OURS), tracebacks)

    # -- the command

    def _keeper(self, cell: Cell, carrier: str) -> None:
        with self._peer(cell) as peer:
            _, port = peer.listen()
            size = f"size={_size(cell)}\n"
            prog = ["--", "sh", "-c", size + _SAY + _PROGS[cell.program]]
            with self._start(cell, command=self._connect(cell, carrier, port, *prog)) as process:
                peer.accept()
                process.hear()  # it is connected
                (keeper,) = psutil.Process(process.pid).children()
                peer.act()
                process.say("go")
                told = process.hear()
                if cell.program == "kill":  # on the kernel path PROG has the connection, too
                    keeper.kill()
                    process.say("bye")
                if cell.peer == "never":
                    until(lambda: _is_over(keeper), PATIENCE)
                if cell.peer not in AWAY:
                    self._read(cell, peer)
                    peer.close()
                process.say("bye")
                _expect("told", told["told"], cell.answer.told)
                # That of a killed keeper is not its program's.
                right = 0 if cell.program == "kill" else PROGRAMS[cell.program].status
                _expect("exit status", process.status(), right)
                until(lambda: _is_over(keeper), PATIENCE)
                self._check_errors(process)

    def _pump(self, cell: Cell, carrier: str) -> None:
        with self._peer(cell) as peer:
            _, port = peer.listen()
            with self._start(cell, command=self._connect(cell, carrier, port)) as process:
                peer.accept()
                peer.act()
                with suppress(BrokenPipeError):
                    process.stdin.write(bytes(_size(cell)))
                if cell.program == "kill":
                    process.kill()
                    self._read(cell, peer)
                    return
                process.stdin.close()
                if cell.peer not in AWAY:
                    self._read(cell, peer)
                    peer.close()
                _expect("told", _EXITS.get(process.status(), "reset"), cell.answer.told)
                self._check_errors(process)

    def _connect(self, cell: Cell, carrier: str, port: int, *more: str) -> list[str]:
        words = [f"--ktls={MODES[carrier]}", "connect", "--ca", str(self._files.ca)]
        words += ["--close", _policy(cell), "--servername", HOST]
        return [*words, "127.0.0.1", str(port), *more]

    # -- tlsify forward

    def _forward(self, cell: Cell, carrier: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, self._peer(cell) as peer:
            listener.settimeout(PATIENCE)
            patience = _SHORT if cell.peer == "never" else _LONG
            words = ["--close", _policy(cell), "--send-timeout", str(patience)]
            words += [f"127.0.0.1:{listener.getsockname()[1]}"]
            with self._serve(carrier, words, patience) as process:
                port = _port(process)
                (worker,) = psutil.Process(process.pid).children()
                idle = worker.num_fds()
                peer.connect(port)
                backend, _ = listener.accept()
                with backend:
                    backend.settimeout(PATIENCE)
                    peer.act()
                    if cell.peer == "resets":  # it has come as far as here
                        until(lambda: _has_ended(backend))
                    told = self._as_backend(cell, peer, backend, worker)
                _expect("told", told, cell.answer.told)
                if cell.peer == "never":
                    until(lambda: worker.num_fds() <= idle)
                if cell.program != "wait" and cell.peer not in AWAY:
                    self._read(cell, peer)

    def _tunnel(self, cell: Cell, carrier: str) -> None:
        with self._peer(cell) as peer:
            _, port = peer.listen()
            patience = _SHORT if cell.peer == "never" else _LONG
            words = [f"--ktls={MODES[carrier]}", "forward", "--connect", "--close", _policy(cell)]
            words += ["--backend-ca", str(self._files.ca), "--backend-servername", HOST]
            words += ["--send-timeout", str(patience), "127.0.0.1:0", f"127.0.0.1:{port}"]
            with Process(self._template, command=words, patience=patience) as process:
                where = "127.0.0.1", _port(process)
                (worker,) = psutil.Process(process.pid).children()
                idle = worker.num_fds()
                with socket.create_connection(where, PATIENCE) as client:
                    peer.accept()
                    peer.act()
                    if cell.peer == "resets":
                        until(lambda: _has_ended(client))
                    told = self._as_backend(cell, peer, client, worker)
                _expect("told", told, cell.answer.told)
                if cell.peer == "never":
                    until(lambda: worker.num_fds() <= idle)
                if cell.program != "wait" and cell.peer not in AWAY:
                    self._read(cell, peer)

    def _as_backend(
        self, cell: Cell, peer: Peer, backend: socket.socket, worker: psutil.Process
    ) -> str:
        """Act as the program, which has no TLS; return what it was told."""
        try:
            backend.sendall(bytes(_size(cell)))
            if cell.program == "wait":
                backend.shutdown(socket.SHUT_WR)
                self._read(cell, peer)
                peer.close()
                while backend.recv(2**16):
                    pass
                return "end"
        except (ConnectionResetError, BrokenPipeError):
            if cell.program == "wait" and cell.peer not in AWAY:
                self._read(cell, peer)
            return "reset"
        if cell.program in {"abort", "kill"}:
            until(lambda: queued(peer.tls) > SIZE // 10)  # it has begun to pass it on
        if cell.program == "kill":
            worker.kill()
        if cell.program == "abort":
            backend.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "nothing"

    # -- what they share

    def _peer(self, cell: Cell) -> Peer:
        return Peer(cell.peer, self._contexts)

    def _start(self, cell: Cell, **job: Any) -> Process:
        files = {name: str(getattr(self._files, name)) for name in ("ca", "cert", "key")}
        patience = _SHORT if cell.peer == "never" else _LONG
        given = {"patience": patience, "path": str(self._files.worker), **files, **job}
        return Process(self._template, **given)

    def _read(self, cell: Cell, peer: Peer) -> None:
        seen: Seen = peer.read()
        if not seen.is_right(cell.answer.sees):
            raise AssertionError(f"seen: {seen}, not {cell.answer.sees.value}")

    def _serve(self, carrier: str, words: list[str], patience: float = _LONG) -> Process:
        """Start ``tlsify forward`` to somewhere."""
        given = ["--cert", str(self._files.cert), "--key", str(self._files.key), "127.0.0.1:0"]
        command = [f"--ktls={MODES[carrier]}", "forward", *given, *words]
        return Process(self._template, command=command, patience=patience)

    def _passing(self, cell: Cell, carrier: str) -> int:
        """Return the port of a ``tlsify forward --pass-fd``."""
        key = _policy(cell), carrier
        if key not in self._servers:
            aware = ["--aware"] if carrier == "kernel" else []
            words = ["--close", key[0], "--pass-fd", f"unix:{self._files.worker}", *aware]
            server = self._stack.enter_context(self._serve(carrier, words))
            self._servers[key] = server, str(_port(server))
        return int(self._servers[key][1])

    def _agent(self) -> str:
        """Return the place of a ``tlsify agent``."""
        place = str(self._files.agent)
        if ("agent", "") not in self._servers:
            command = ["agent", "--workers", "1", place]
            agent = Process(self._template, command=command, patience=_LONG)
            self._servers["agent", ""] = self._stack.enter_context(agent), place
            assert agent.stdout.readline().startswith(b"tlsify: agent at")
        return place


def _expect(what: str, found: object, right: object) -> None:
    """Compare; in a module of pytest's own ``assert`` would say the same."""
    if found != right:
        raise AssertionError(f"{what}: {found}, not {right}")


def _size(cell: Cell) -> int:
    """Return how much a program sends, if it sends until it is told that nobody is there."""
    return TIMES.get(cell.peer, 1) * SIZE


def _policy(cell: Cell) -> str:
    return "relaxed" if DOORS[cell.door].relaxed and cell.peer == "cut" else "strict"


def _port(server: Process) -> int:
    line = server.stdout.readline().decode()
    found = re.match(r"tlsify: forwarding .*:(\d+) to ", line)
    assert found is not None, line + server.errors()
    return int(found[1])


def _is_over(process: psutil.Process) -> bool:
    """Return whether a process has ended, be it reaped or not."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def _has_ended(sock: socket.socket) -> bool:
    """Return whether a connection was reset, without being told of it."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return info[0] == 7  # TCP_CLOSE
