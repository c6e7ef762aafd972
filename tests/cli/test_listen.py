"""Tests of listen, and of UCSPI-TLS on it."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.certificates import certify, save
from tests.cli.forked import refused
from tests.cli.harness import (
    CARRIERS,
    COMMAND,
    ENVIRONMENT,
    LOOPBACK,
    PATIENCE,
    Outcome,
    Running,
    finish,
    in_threads,
    insist,
    pause,
    read_all,
    read_line,
    read_message,
    run,
    start,
)
from tests.doubles import Endpoint, descriptors, reset, until

if TYPE_CHECKING:
    import trustme

    from tests.cli.conftest import Credentials, Pki

each_carrier = pytest.mark.parametrize("carrier", CARRIERS)
_ECHO = ("cat",)


class Listening(Running):
    """A running ``tlsify listen``."""

    def __init__(self, shown: Credentials, *words: str, program: tuple[str, ...] = _ECHO) -> None:
        """Start it and wait until it is ready."""
        shows = ("--cert", shown.certificate, "--key", shown.key)
        self.process = start(
            "listen",
            *words,
            *shows,
            *[LOOPBACK, "0", "--"],
            *program,
            stdin=subprocess.DEVNULL,
        )
        is_json = "--log-format=json" in words
        line = read_message(self.process.stderr) if is_json else read_line(self.process.stdout)
        assert line, finish(self.process).err
        said = json.loads(line)["message"] if is_json else line
        self.port = int(said.rpartition(":")[2])

    def dial(self, source: str = LOOPBACK) -> socket.socket:
        """Make a TCP connection."""
        return socket.create_connection(
            (LOOPBACK, self.port), timeout=PATIENCE, source_address=(source, 0)
        )

    def connect(self, pki: Pki, source: str = LOOPBACK) -> ssl.SSLSocket:
        """Make a TLS connection."""
        context = pki.client_context()
        return context.wrap_socket(self.dial(source), server_hostname="localhost")

    def ask(self, pki: Pki, question: bytes) -> bytes:
        """Ask by our own client, which tells a cut stream from an end."""
        words = ("connect", "--ca", pki.authority, "localhost", self.port)
        return run(*words, data=question).succeeded()


@each_carrier
def test_program_for_each_connection(pki: Pki, carrier: str) -> None:
    """Several at once; each has a process of its own, and the answer comes after the question."""
    with Listening(pki.good, carrier) as server:
        in_threads(3, lambda n: _check(server.ask(pki, b"question %d" % n) == b"question %d" % n))
        until(lambda: not server.children())
        assert server.stop() == Outcome(0, b"", "")


def _check(claim: bool) -> None:
    assert claim


@each_carrier
def test_isolated_key(pki: Pki, carrier: str, tmp_path: Path) -> None:
    """Programs run as ever; holders of an old key end although a connection from before goes on."""
    shown = type(pki.good)(tmp_path / "certificate.pem", tmp_path / "key.pem")
    for source, sink in zip(pki.good, shown, strict=True):
        sink.write_bytes(source.read_bytes())
    with Listening(shown, carrier, "--isolate-key") as server:
        (number,) = server.children()
        custodian, holders = psutil.Process(number), _children(number)
        with server.connect(pki) as stream:
            stream.sendall(b"before")
            assert stream.recv(6) == b"before"
            server.process.send_signal(signal.SIGHUP)
            until(lambda: _children(number) and not set(holders) & set(_children(number)))
            assert server.ask(pki, b"after") == b"after"
            stream.sendall(b"still here")
            assert stream.recv(10) == b"still here"
    until(lambda: not custodian.is_running())


def _children(pid: int) -> list[int]:
    return [each.pid for each in psutil.Process(pid).children()]


@each_carrier
def test_what_the_program_has(pki: Pki, carrier: str) -> None:
    """Three descriptors, and both ends' addresses."""
    script = "ls /proc/self/fd | wc -l; echo $TCPREMOTEIP $SSLLOCALPORT $SSL_TLS_SNI_SERVERNAME"
    with Listening(pki.good, carrier, program=("sh", "-c", script)) as server:
        expected = f"4\n127.0.0.1 {server.port} localhost\n"
        assert server.ask(pki, b"") == expected.encode()


@each_carrier
def test_access_log(pki: Pki, tmp_path: Path, carrier: str) -> None:
    """A line for each connection, and for each that is refused; signals go on in a new file."""
    path, old, older = (tmp_path / name for name in ("log", "log.1", "log.2"))
    with Listening(pki.good, carrier, f"--access-log={path}") as server:
        with server.dial() as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            read_all(plain)
        assert server.ask(pki, b"q" * 10_000) == b"q" * 10_000
        until(lambda: path.read_text().count("\n") == 2)
        path.rename(older)
        server.process.send_signal(signal.SIGHUP)
        until(path.exists)
        assert server.ask(pki, b"q") == b"q"
        until(lambda: path.read_text().count("\n") == 1)
        path.rename(old)
        for number in (signal.SIGUSR2, signal.SIGUSR1):  # the first is other servers'
            server.process.send_signal(number)
        until(path.exists)
        with server.connect(pki) as stream:
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
            reset(stream)
        until(lambda: path.read_text().count("\n") == 1)
        server.stop()
    assert "received=1 " in old.read_text()
    refused, served = (line.split(" ") for line in older.read_text().splitlines())
    assert refused[1:3] == ["refused", "client=127.0.0.1"]
    assert "end=peer_misbehaved" in refused
    told = dict(word.partition("=")[::2] for word in served[2:])
    is_kernel = carrier != "--ktls=off"
    assert (told["carrier"], told["end"]) == ("kernel" if is_kernel else "relay", "clean")
    assert told["received"] == "10000"
    # The program writes to the kernel by itself: records, with 22 bytes each, are what is known.
    assert 0 <= int(told["sent"]) - 10_000 <= (1000 if is_kernel else 0)
    assert "end=ECONNRESET" in path.read_text()


def test_access_log_on_stdout(pki: Pki) -> None:
    """It is the door's, which no program has; messages in JSON have the address as a field."""
    words = ("--access-log=-", "--log-format=json")
    with Listening(pki.good, *words) as server:
        with server.dial() as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            read_all(plain)
        refused = json.loads(read_line(server.process.stdout))
        assert server.ask(pki, b"x") == b"x"
        served = json.loads(read_line(server.process.stdout))
        said = [json.loads(line) for line in server.stop().err.splitlines()]
    assert (refused["event"], refused["end"]) == ("refused", "peer_misbehaved")
    assert (served["event"], served["received"]) == ("connection", 1)
    assert said[-1]["port"] == refused["port"]
    assert said[-1]["message"].startswith("peer sent plain text")


def test_more_than_the_limit(pki: Pki) -> None:
    """They wait, and are served when another has ended."""
    with Listening(pki.good, "--limit", "2") as server, ExitStack() as stack:
        first = [stack.enter_context(server.connect(pki)) for _ in range(2)]
        waiting = stack.enter_context(server.dial())
        assert len(server.children()) == 2
        first[0].close()
        context = pki.client_context()
        with context.wrap_socket(waiting, server_hostname="localhost") as third:
            third.sendall(b"x")
            assert third.recv(1) == b"x"


def test_more_than_an_address_may_have(pki: Pki) -> None:
    """They are closed at once, and other addresses are not the worse for it."""
    with Listening(pki.good, "--per-address", "1") as server:
        with server.connect(pki), server.dial() as second:
            second.shutdown(socket.SHUT_WR)
            assert read_all(second) == b""
            with server.connect(pki, "127.0.0.2") as other:
                other.sendall(b"x")
                assert other.recv(1) == b"x"
        until(lambda: not server.children())
        assert server.ask(pki, b"again") == b"again"
        said = r"127\.0\.0\.1:\d+: connection refused: its address has reached its limit .*\(1\)"
        assert re.search(said, server.stop().err)


def test_drain(pki: Pki) -> None:
    """SIGTERM ends listening at once, and the process when the last program has ended."""
    with Listening(pki.good) as server:
        with server.connect(pki) as stream:
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
            server.process.send_signal(signal.SIGTERM)
            until(lambda: not _listens(server.port))
            stream.sendall(b"y")
            assert stream.recv(1) == b"y"
            assert server.process.poll() is None
        assert finish(server.process).status == 0


def test_second_signal(pki: Pki) -> None:
    """It ends the process without waiting; who is connected stays so."""
    with Listening(pki.good) as server, server.connect(pki) as stream:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not _listens(server.port))
        insist(server.process)
        assert server.process.wait(PATIENCE) == 0
        stream.sendall(b"z")
        assert stream.recv(1) == b"z"


def test_signal_that_comes_twice(pki: Pki) -> None:
    """One request may: timeout(1) sends it to the process and to its group."""
    with Listening(pki.good) as server:
        with server.connect(pki) as stream:
            pause(server.process)
            for number in (signal.SIGTERM, signal.SIGINT):
                server.process.send_signal(number)
            server.process.send_signal(signal.SIGCONT)
            until(lambda: not _listens(server.port))
            stream.sendall(b"z")
            assert stream.recv(1) == b"z"
            assert server.process.poll() is None
        assert finish(server.process).status == 0


# Says goodbye when it is asked to end.
_FAREWELL = "trap 'echo 421 closing; exit 0' TERM; echo 220 hello; while :; do sleep 0.05; done"


@each_carrier
def test_signal_to_the_whole_service(pki: Pki, carrier: str) -> None:
    """As systemd ends it by default: each client gets the last words, and close_notify."""
    with Listening(pki.good, carrier, program=("sh", "-c", _FAREWELL)) as server:
        with server.connect(pki) as stream:
            assert stream.recv(100) == b"220 hello\n"
            service = psutil.Process(server.process.pid)
            for process in (service, *service.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):  # the program's own come and go
                    process.terminate()
            assert read_all(stream) == b"421 closing\n"
        assert finish(server.process).status == 0


def test_signal_to_a_child(pki: Pki) -> None:
    """It is that child's alone, also in the moment in which it is forked."""
    with Listening(pki.good, "--limit", "100") as server:
        seen: set[int] = set()
        while len(seen) < 20:
            with server.dial() as sock:
                sock.sendall(b"\x16\x03\x01\0\1\1" + bytes(2**12))  # else it gets no process
                until(lambda: set(server.children()) - seen)
                for pid in set(server.children()) - seen:
                    seen.add(pid)
                    os.kill(pid, signal.SIGTERM)
        assert server.ask(pki, b"still here") == b"still here"
        until(lambda: not server.children())
        assert server.stop().status == 0


def _listens(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection((LOOPBACK, port)):
        return True
    return False


def test_reload(pki: Pki, tmp_path: Path) -> None:
    """SIGHUP reads certificate and key anew; what is unusable changes nothing."""
    shown = type(pki.good)(tmp_path / "certificate.pem", tmp_path / "key.pem")

    def install(credentials: Credentials) -> None:
        shown.certificate.write_bytes(credentials.certificate.read_bytes())
        shown.key.write_bytes(credentials.key.read_bytes())

    def subject() -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(server.dial()) as stream:
            return stream.getpeercert(binary_form=True) or b""

    install(pki.good)
    with Listening(shown) as server:
        before = subject()
        install(pki.bad["expired"])
        server.process.send_signal(signal.SIGHUP)
        until(lambda: subject() != before)
        after = subject()
        shown.key.write_bytes(b"nonsense")
        server.process.send_signal(signal.SIGHUP)
        while "reload failed, keeping the current certificate" not in (
            line := read_message(server.process.stderr)
        ):
            assert line
        assert subject() == after


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tickets_across_a_reload(
    pki: Pki, authority: trustme.CA, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Who was here before a certificate was renewed resumes after it; others see the new one."""
    shown = type(pki.good)(tmp_path / "certificate.pem", tmp_path / "key.pem")
    save(certify(authority, "localhost"), shown.certificate, shown.key)
    context = pki.client_context()
    context.minimum_version = context.maximum_version = version

    def visit(session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        stream = context.wrap_socket(server.dial(), server_hostname="localhost", session=session)
        with stream:
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
            seen.append((stream.session_reused, stream.getpeercert(binary_form=True)))
            sessions.append(stream.session)
        return stream

    seen: list[tuple[bool | None, bytes | None]] = []
    sessions: list[ssl.SSLSession | None] = []
    with Listening(shown, "--resumption") as server:
        visit()
        save(certify(authority, "localhost"), shown.certificate, shown.key)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: visit() and seen[-1][1] != seen[0][1])
        assert not any(resumed for resumed, _ in seen)
        visit(sessions[0])
        assert seen[-1][0]


def test_clients_that_fail(pki: Pki) -> None:
    """Each is one error line and its hint, with the address; nothing stays behind."""
    with Listening(pki.good) as server, Listening(pki.good, "--timeout", "0.1") as hasty:
        idle = [descriptors(each.process.pid) for each in (server, hasty)]
        with server.dial() as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert read_all(plain)[:1] == b"\x15"
        with hasty.dial() as silent:
            silent.sendall(b"\x16")
            read_all(silent)
        assert server.ask(pki, b"well") == b"well"
        until(lambda: not server.children() and not hasty.children())
        until(
            lambda: (
                descriptors(server.process.pid) <= idle[0]
                and descriptors(hasty.process.pid) <= idle[1]
            )
        )
        for each, words in (
            (server, "peer sent plain text"),
            (hasty, "the handshake did not finish"),
        ):
            line, _hint = each.stop().err.splitlines()
            assert re.match(rf"tlsify: error: 127\.0\.0\.1:\d+: {words}", line)


def test_program_that_is_killed(pki: Pki) -> None:
    """Only its own connection ends."""
    with Listening(pki.good) as server, server.connect(pki) as other:
        with server.connect(pki) as stream:
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
            os.kill(server.children()[-1], signal.SIGKILL)
            with suppress(ssl.SSLEOFError):
                assert stream.recv(1) == b""
        other.sendall(b"y")
        assert other.recv(1) == b"y"


def test_no_descriptors_left(pki: Pki) -> None:
    """Accepting goes on when there are some again, and does not spin meanwhile."""
    with Listening(pki.good) as server:
        pid = server.process.pid
        used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        free = min(set(range(100)) - used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, 4096))
        context, sock = pki.client_context(), server.dial()
        client = Endpoint(lambda: context.wrap_socket(sock, server_hostname="localhost"))
        assert "EMFILE" in read_message(server.process.stderr)
        ticks = _cpu(pid)
        assert "EMFILE" in read_message(server.process.stderr)  # a second later
        assert _cpu(pid) - ticks < 20
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4096, 4096))
        with client.result() as stream:
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"


def _cpu(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_socket_of_systemd(pki: Pki) -> None:
    """Without ADDR and PORT; readiness and the end are told."""
    with socket.create_server((LOOPBACK, 0)) as listener, ExitStack() as stack:
        name = f"@tlsify-listen-{os.getpid()}"
        told = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        told.bind(name.replace("@", "\0", 1))
        told.settimeout(PATIENCE)
        shown = ("--cert", str(pki.good.certificate), "--key", str(pki.good.key))
        script = (
            f"exec 3<&{listener.fileno()} {listener.fileno()}<&-; "
            'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        )
        command = [*COMMAND, "listen", *shown, "--", "cat"]
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT | {"NOTIFY_SOCKET": name},
        )
        assert told.recv(100) == b"READY=1"
        port = listener.getsockname()[1]
        sock = socket.create_connection((LOOPBACK, port), timeout=PATIENCE)
        with pki.client_context().wrap_socket(sock, server_hostname="localhost") as stream:
            stream.sendall(b"x")
            assert stream.recv(1) == b"x"
        process.send_signal(signal.SIGTERM)
        assert told.recv(100) == b"STOPPING=1"
        outcome = finish(process)
        said = f"tlsify: listening on 127.0.0.1:{port}\n"
        assert (outcome.status, outcome.out) == (0, said.encode())


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((LOOPBACK, "0"), 100, "no program"),
        (("--", "true"), 100, "certificate"),
        ((LOOPBACK, "0", "--", "no-such-program"), 127, "not found"),
        ((LOOPBACK, "x", "--", "true"), 100, "/etc/services"),
        (("--limit", "0", LOOPBACK, "0", "--", "true"), 100, "--limit"),
    ],
)
def test_contradictions(words: tuple[str, ...], status: int, said: str) -> None:
    """Each is told before anything is listened on."""
    refused("listen", *words).failed(status, said)


def test_nothing_to_listen_on(pki: Pki) -> None:
    """Neither an address nor systemd's sockets; an address that is taken."""
    shown = ("--cert", pki.good.certificate, "--key", pki.good.key)
    refused("listen", *shown, "--", "true").failed(100, "no address to listen on")
    refused("listen", *shown, LOOPBACK, "--", "true").failed(100, "has no port")
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        refused("listen", *shown, LOOPBACK, port, "--", "true").failed(102, "in use")


@pytest.mark.usefixtures("lacks_ktls")
def test_kernel_that_cannot(pki: Pki) -> None:
    """Required and absent: 103 before the first client."""
    words = ("--cert", pki.good.certificate, "--key", pki.good.key, LOOPBACK, 0, "--", "true")
    run("--ktls=require", "listen", *words).failed(103)
