"""Tests of the verb agent."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import HOST, Agent, Files, serving, tcp
from tests.cli.forked import refused
from tests.cli.harness import run
from tests.doubles import Endpoint, until
from tlsify import agent
from tlsify.connection.stream import TLSSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder with a name that is short enough."""
    with tempfile.TemporaryDirectory(prefix="tlsify-") as name:
        yield Path(name)


def test_one_worker_for_each_processor(folder: Path) -> None:
    """That is the default, and a supervisor; the place is made private."""
    words = ("--workers", str(len(os.sched_getaffinity(0))))
    with Agent(*words) as it:
        assert len(it.pids()) - 1 == len(os.sched_getaffinity(0))
        assert it.stop() == (0, "")
    assert folder.exists()


def test_key_pairs(files: Files) -> None:
    """A server names the key pair that it wants as the command line does."""
    name = str(files.certificate)
    words = ("--cert", name, "--key", files.key, "--alpn", "h2", "--alpn", "x")
    with Agent(*words) as it, tcp() as (ours, theirs):
        context = files.client_context()
        context.set_alpn_protocols(["x"])

        def greet() -> bytes | None:
            request = agent.ServerRequest(key_pair=name, ktls="off")
            theirs.settimeout(None)
            with TLSSocket(agent.accept(it.place, theirs, request)) as stream:
                stream.sendall(b"hello")
                return stream.handoff.negotiated.alpn

        greeting = Endpoint(greet)
        with context.wrap_socket(ours, server_hostname=HOST) as stream:
            assert stream.recv(5) == b"hello"
            assert stream.selected_alpn_protocol() == "x"
        assert greeting.result() == b"x"


def test_verbose(files: Files) -> None:
    """With --verbose it says what becomes of each session."""
    with Agent("-v") as it, tcp() as (ours, theirs):
        peer = serving(files, theirs)
        handed = agent.connect(it.place, ours, files.request())
        with TLSSocket(handed) as stream:
            stream.shutdown(socket.SHUT_WR)
            stream.recv(1)
        peer.result()
        status, said = it.stop()
    assert status == 0
    assert "policy-off" in said


def test_nothing_secret_is_shown(files: Files) -> None:
    """The process cannot be looked into, not even by others of its user."""
    words = ("--cert", str(files.certificate), "--key", files.key)
    with Agent(*words) as it:
        for pid in it.pids():
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"PRIVATE" not in line
            status = Path(f"/proc/{pid}/maps").stat()
            assert status.st_uid == 0  # what is not dumpable belongs to root


def test_reload(authority: trustme.CA, files: Files, tmp_path: Path) -> None:
    """New files are used as soon as they are there; SIGHUP tells whether they can be."""
    shown = Files(files.trust, tmp_path / "cert.pem", tmp_path / "key.pem")

    def install(leaf: trustme.LeafCert) -> bytes:
        shown.key.write_bytes(leaf.private_key_pem.bytes())
        shown.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())

    def seen() -> bytes | None:
        with tcp() as (ours, theirs):
            theirs.settimeout(None)
            request = agent.ServerRequest(ktls="off")
            asking = Endpoint(lambda: agent.accept(it.place, theirs, request))
            context = shown.client_context()
            with context.wrap_socket(ours, server_hostname=HOST) as stream:
                asking.result().close()
                return stream.getpeercert(binary_form=True)

    first = install(authority.issue_cert(HOST))
    words = ("-v", "--cert", str(shown.certificate), "--key", shown.key)
    with Agent(*words, workers=2) as it:
        assert {seen() for _ in range(4)} == {first}
        second = install(authority.issue_cert(HOST))
        assert {seen() for _ in range(4)} == {second}
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):  # the first two do nothing
            it.process.send_signal(number)
        assert it.process.stderr is not None
        for line in it.process.stderr:
            if b"reloaded" in line:
                break
        shown.key.write_bytes(b"nonsense")
        assert {seen() for _ in range(4)} == {second}
        it.process.send_signal(signal.SIGHUP)
        for line in it.process.stderr:
            if b"reload failed; keeping the previous workers" in line:
                break
        third = install(authority.issue_cert(HOST))
        assert {seen() for _ in range(4)} == {third}
        assert it.stop()[0] == 0


def test_worker_that_dies(files: Files) -> None:
    """It is replaced, a single one, too."""
    words = ("--cert", str(files.certificate), "--key", files.key)
    with Agent(*words, workers=1) as it:
        before = it.pids()
        os.kill(before[1], signal.SIGKILL)
        until(lambda: len(now := it.pids()) == 2 and now[1] != before[1])
        with tcp() as (ours, theirs):
            peer = serving(files, theirs)
            with TLSSocket(agent.connect(it.place, ours, files.request())) as stream:
                stream.sendall(b"data")
                assert stream.recv(100) == b"DATA"
                stream.shutdown(socket.SHUT_WR)
                assert stream.recv(100) == b""
            peer.result()
        assert it.stop()[0] == 0


# -- misuse


def test_usage() -> None:
    """It needs exactly one place."""
    refused("agent").failed(100, "one place", "--fd N")
    refused("agent", "here", "--fd", "3").failed(100, "one place")
    refused("agent", "--fd", "x").failed(100, "--fd")
    refused("agent", "here", "--workers", "0").failed(100, "--workers")


def test_bad_descriptor() -> None:
    """A descriptor has to be one end of a pair."""
    run("agent", "--fd", "0").failed(96, "descriptor 0", "socketpair")
    refused("agent", "--fd", "99").failed(96, "descriptor 99", "Bad file descriptor")
    with socket.socket() as sock:
        number = sock.fileno()
        run("agent", "--fd", number, pass_fds=[number]).failed(96, f"descriptor {number}")


def test_bad_key_pairs(files: Files, folder: Path) -> None:
    """A pair is a pair, and has to be usable before anybody asks for it."""
    place = folder / "agent"
    refused("agent", "--cert", files.certificate, place).failed(
        96, f"{files.certificate} holds no private key"
    )
    words = ("--cert", files.certificate, "--cert", files.certificate, "--key", files.key)
    refused("agent", *words, place).failed(100, "--cert", "--key")
    refused("agent", "--cert", files.certificate, "--key", files.trust, place).failed(
        96, "private key"
    )
    refused("agent", "--cert", "/none", "--key", files.key, place).failed(
        96, "cannot read certificate"
    )
    assert not place.exists()


def test_bad_places(folder: Path) -> None:
    """The folder has to be private, and nobody there."""
    with Agent() as it:
        refused("agent", it.place).failed(96, "an agent is already running at", "stop it first")
    folder.chmod(0o755)
    refused("agent", folder / "agent").failed(96, "is not private", "chmod 700")
    refused("agent", folder / "none" / "none" / "agent").failed(96, "cannot listen at")
