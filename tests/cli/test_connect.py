"""Tests of connect."""

from __future__ import annotations

import itertools
import os
import random
import shlex
import signal
import socket
import ssl
import subprocess
import threading
from contextlib import ExitStack, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.conftest import Credentials, Pki
from tests.cli.forked import refused
from tests.cli.harness import (
    CARRIERS,
    COMMAND,
    ENVIRONMENT,
    LOOPBACK,
    PATIENCE,
    CutPeer,
    Outcome,
    Server,
    end_raw,
    finish,
    only_cbc,
    only_tls11,
    over_tls,
    read_all,
    refusal,
    run,
    stalling,
    start,
)
from tests.connection.setup.test_dialing import KINDS, Names, alive, dead, named
from tests.conversations import CONVERSATIONS
from tests.doubles import Endpoint, RawPeer, recv_exactly, reset
from tests.ports import free_port
from tests.provision import find
from tlsify.addresses import Address
from tlsify.cli import connect
from tlsify.codepoints import AlertDescription, ContentType
from tlsify.config import ServerConfig
from tlsify.credentials.key_pair import KeyPair
from tlsify.errors import DeadlineExceeded, NetworkError
from tlsify.tls.record import encode_plain_alert, split_records

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["named"]

_MEBIBYTE = 2**20
_HANDSHAKE_FAILURE = encode_plain_alert(AlertDescription.handshake_failure)


def _connect(pki: Pki, port: int, *words: str) -> tuple[str, ...]:
    return ("connect", *words, "--ca", str(pki.authority), LOOPBACK, str(port))


def _noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _echo(stream: ssl.SSLSocket) -> None:
    while data := stream.recv(2**16):
        stream.sendall(data)
    stream.unwrap()


def _answer(stream: ssl.SSLSocket) -> None:
    stream.sendall(b"%d bytes came" % len(read_all(stream)))
    stream.unwrap()


# -- what works


@pytest.mark.parametrize("carrier", CARRIERS)
def test_five_megabytes_both_ways(pki: Pki, carrier: str) -> None:
    """What goes in by stdin comes back on stdout, every byte of it, over an echoing server."""
    server = Server(over_tls(pki.good.server_context(), _echo))
    sent = _noise(5 * _MEBIBYTE)
    outcome = run(carrier, *_connect(pki, server.port), data=sent)
    assert outcome.succeeded() == sent
    server.result()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_end_of_stdin(pki: Pki, carrier: str) -> None:
    """The end of stdin is a half-close: a server that waits for it can still answer."""
    server = Server(over_tls(pki.good.server_context(), _answer))
    outcome = run(carrier, *_connect(pki, server.port), data=b"question")
    assert outcome.succeeded() == b"8 bytes came"
    server.result()


@pytest.mark.parametrize("host", ["localhost.", "LOCALHOST", "Localhost."])
def test_name_as_it_was_typed(pki: Pki, host: str) -> None:
    """It is found, sent in its canonical form, and compared in that."""
    sent: list[str | None] = []
    context = pki.good.server_context()
    context.sni_callback = lambda _, name, __: sent.append(name)
    server = Server(over_tls(context, _answer))
    outcome = run("connect", "--ca", pki.authority, host, server.port, data=b"12345")
    assert outcome.succeeded() == b"5 bytes came"
    assert sent == ["localhost"]


def test_no_rights(pki: Pki) -> None:
    """On stdin and stdout it can execute nothing, from before its handshake on."""

    def look(sock: socket.socket) -> str:
        status = Path(f"/proc/{process.pid}/status").read_text()
        over_tls(pki.good.server_context(), ssl.SSLSocket.unwrap)(sock)
        return status

    server = Server(look)
    process = start(*_connect(pki, server.port))
    assert "NoNewPrivs:\t1\nSeccomp:\t2\n" in server.result()
    finish(process).succeeded()


def test_peer_ends_before_stdin(pki: Pki) -> None:
    """The server's close_notify ends the command, though stdin is still open."""

    def greet(stream: ssl.SSLSocket) -> None:
        stream.sendall(b"goodbye")
        stream.unwrap()

    server = Server(over_tls(pki.good.server_context(), greet))
    process = start(*_connect(pki, server.port))
    assert process.stdin is not None
    assert process.wait(PATIENCE) == 0
    assert finish(process).succeeded() == b"goodbye"
    server.result()


@pytest.mark.parametrize("words", [[], ["--ktls"], ["--ktls", "auto"]], ids=" ".join)
def test_kernel_where_possible(pki: Pki, words: list[str]) -> None:
    """The kernel is used where it can be, and elsewhere the relay, without a word."""
    server = Server(over_tls(pki.good.server_context(), _answer))
    outcome = run("connect", "--ca", pki.authority, LOOPBACK, *words, server.port)
    assert outcome.succeeded() == b"0 bytes came"


@pytest.mark.ktls
def test_kernel_by_default(pki: Pki) -> None:
    """Without an option the kernel protects the records; TLSIFY_KTLS=off has them relayed."""
    for setting, carrier in (({}, "(kernel)"), ({"TLSIFY_KTLS": "off"}, "(relay, switched-off: ")):
        server = Server(over_tls(pki.good.server_context(), _answer))
        outcome = run("-v", *_connect(pki, server.port), env=ENVIRONMENT | setting)
        assert outcome.status == 0
        assert carrier in outcome.err


def test_no_verify(pki: Pki) -> None:
    """--no-verify accepts anybody, and says so."""
    server = Server(over_tls(pki.bad["expired"].server_context(), _answer))
    outcome = run("connect", "--no-verify", LOOPBACK, server.port)
    assert (outcome.status, outcome.out) == (0, b"0 bytes came")
    assert outcome.err == "tlsify: warning: the peer is not verified\n"


@pytest.mark.parametrize(
    "words", [["--servername", "elsewhere.example"], ["--ref-id", "dns:elsewhere.example"]]
)
def test_other_identity(pki: Pki, words: list[str]) -> None:
    """--servername and --ref-id accept a peer that HOST does not name."""
    server = Server(over_tls(pki.bad["wrong-name"].server_context(), _answer))
    assert run(*_connect(pki, server.port, *words)).succeeded() == b"0 bytes came"


def test_alpn_and_server_name(pki: Pki) -> None:
    """--alpn and --servername reach the server."""
    seen: list[str | None] = []
    context = pki.good.server_context()
    context.set_alpn_protocols(["second"])
    context.sni_callback = lambda _stream, name, _context: seen.append(name)

    def tell(stream: ssl.SSLSocket) -> None:
        stream.sendall((stream.selected_alpn_protocol() or "none").encode())
        stream.unwrap()

    server = Server(over_tls(context, tell))
    words = ("--alpn", "first", "--alpn", "second", "--servername", "localhost")
    assert run(*_connect(pki, server.port, *words)).succeeded() == b"second"
    assert seen == ["localhost"]


def test_verbose(pki: Pki) -> None:
    """--verbose says version, suite and who protects the records; no secret is in it."""
    server = Server(over_tls(pki.good.server_context(), _answer))
    outcome = run("-v", "--ktls=off", *_connect(pki, server.port))
    assert outcome.status == 0
    assert "TLSv1.3 TLS_AES_" in outcome.err
    assert "(relay, policy-off: " in outcome.err
    assert all(line.startswith("tlsify: ") for line in outcome.err.splitlines())


# -- peers that are refused

_REFUSED = {
    "wrong-name": ("SSLV3_ALERT_BAD_CERTIFICATE", "is not ip:127.0.0.1", "--ref-id"),
    "expired": ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "expired", "renew"),
    "not-yet-valid": ("SSLV3_ALERT_BAD_CERTIFICATE", "not yet valid", "clock"),
    "self-signed": ("TLSV1_ALERT_UNKNOWN_CA", "self-signed", "--ca"),
    "wrong-authority": ("TLSV1_ALERT_UNKNOWN_CA", "issuer", "--ca"),
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("flaw", _REFUSED)
def test_unacceptable_certificate(pki: Pki, flaw: str, version: ssl.TLSVersion) -> None:
    """An unacceptable peer gets the alert that says why, and the user 98, the reason, a remedy."""
    alert, reason, remedy = _REFUSED[flaw]
    context = pki.bad[flaw].server_context()
    context.minimum_version = context.maximum_version = version
    server = Server(refusal(context))
    run(*_connect(pki, server.port)).failed(98, reason, remedy)
    assert server.result() == alert


def test_certificate_with_a_line_break_in_a_name(tmp_path: Path) -> None:
    """What a peer calls itself cannot forge lines or reach the terminal's controls."""
    name = "x\ntlsify: error: forged\x1b[31m.example"
    server = Server(refusal(_leaf_that_calls_itself(tmp_path, name).server_context()))
    outcome = run("connect", "--ca", tmp_path / "ca.pem", LOOPBACK, server.port)
    outcome.failed(98, r"dns:x\ntlsify: error: forged\x1b[31m.example")
    assert server.result() == "SSLV3_ALERT_BAD_CERTIFICATE"


def _leaf_that_calls_itself(folder: Path, name: str) -> Credentials:
    """Make a certificate, its own anchor, for a name that trustme would not accept."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    saved = Credentials(folder / "ca.pem", folder / "ca.key")
    saved.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    saved.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return saved


@pytest.mark.parametrize(
    ("limit", "reason", "words"),
    [
        pytest.param(
            only_cbc, "NO_SHARED_CIPHER", ["handshake_failure", "cipher suite"], id="suite"
        ),
        pytest.param(
            only_tls11, "UNSUPPORTED_PROTOCOL", ["protocol_version", "version"], id="version"
        ),
    ],
)
def test_nothing_in_common(
    pki: Pki, limit: Callable[[ssl.SSLContext], None], reason: str, words: list[str]
) -> None:
    """A server without suite or version in common sends an alert; 97, with what it means."""
    context = pki.good.server_context()
    limit(context)
    server = Server(refusal(context))
    run(*_connect(pki, server.port)).failed(97, *words)
    assert server.result() == reason


@pytest.mark.parametrize(
    ("version", "words"),
    [
        pytest.param(ssl.TLSVersion.TLSv1_2, ["the handshake", "handshake_failure"], id="finished"),
        pytest.param(
            ssl.TLSVersion.TLSv1_3,
            ["the connection", "certificate_required", "client certificate"],
            id="after-finished",
        ),
    ],
)
def test_server_wants_a_client_certificate(
    pki: Pki, version: ssl.TLSVersion, words: list[str]
) -> None:
    """An alert in place of Finished (1.2), and one right after ours (1.3), give 97."""
    context = pki.good.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    server = Server(refusal(context))
    run(*_connect(pki, server.port)).failed(97, *words)
    assert server.result() == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


# -- peers that do not speak TLS as they should


_STRANGERS = {
    "plain-http": (b"HTTP/1.0 400 Bad Request\r\n\r\n", 'plain text beginning "HTTP/"', 10),
    "plain-smtp": (b"220 mail.example ESMTP\r\n", "not a TLS record", 10),
    "garbage": (bytes(range(128, 228)), "not a TLS record", 10),
    "record-version": (b"\x16\x05\x03\x00\x10" + bytes(16), "version 5.3", 70),
    "oversized-record": (b"\x16\x03\x03\xff\xff" + bytes(100), "65535", 22),
    "data-first": (b"\x17\x03\x03\x00\x10" + bytes(16), "handshake failed", 10),
    "alert-first": (_HANDSHAKE_FAILURE, "alert handshake_failure", None),
}


def _talk_to_stranger(pki: Pki, sent: bytes) -> tuple[Outcome, list[bytes]]:
    """Run the command against a server that says one thing; gives also the alerts it got."""

    def misbehave(sock: socket.socket) -> list[bytes]:
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        return split_records(read_all(sock))

    server = Server(misbehave)
    outcome = run(*_connect(pki, server.port))
    return outcome, [record[5:] for record in server.result() if record[0] == ContentType.alert]


@pytest.mark.parametrize(("sent", "word", "alert"), _STRANGERS.values(), ids=_STRANGERS)
def test_strange_server(pki: Pki, sent: bytes, word: str, alert: int | None) -> None:
    """What cannot come first is named and answered with the right alert, an alert with none."""
    outcome, alerts = _talk_to_stranger(pki, sent)
    outcome.failed(97, word)
    assert alerts == ([] if alert is None else [bytes([2, alert])])


def test_reset_behind_an_alert(pki: Pki) -> None:
    """An alert is reported even if the connection is reset right behind it."""
    context = pki.good.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = Server(refusal(context, reset))
    run(*_connect(pki, server.port)).failed(97, "the handshake", "handshake_failure")
    server.result()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_end_of_stream_anywhere_in_the_handshake(pki: Pki, version: ssl.TLSVersion) -> None:
    """Wherever the server's half of the handshake is cut off, the end is 99."""
    context = pki.good.server_context()
    context.minimum_version = context.maximum_version = version
    cuts = (0, 1, 4, 5, 6, 100, 127, 128, 400, 700)
    servers = [
        Server(lambda sock, n=n: CutPeer(context, server=True).talk(sock, n))  # type: ignore[misc]
        for n in cuts
    ]
    processes = [start(*_connect(pki, server.port)) for server in servers]
    for process in processes:
        finish(process).failed(99, "closed the connection during the handshake")
    assert all(server.result() for server in servers)


def test_reset_in_the_handshake(pki: Pki) -> None:
    """A reset is named as such."""

    def cut(sock: socket.socket) -> None:
        sock.recv(5)
        reset(sock)

    server = Server(cut)
    run(*_connect(pki, server.port)).failed(99, "ECONNRESET", "cut the connection")
    server.result()


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x03\x00\x10\x02\x00"], ids=["silent", "midway"])
def test_stalled_server(pki: Pki, sent: bytes) -> None:
    """A server that goes silent during the handshake costs no more than --timeout; 106."""

    def stall(sock: socket.socket) -> None:
        sock.sendall(sent)
        read_all(sock)

    server = Server(stall)
    outcome = run(*_connect(pki, server.port, "--timeout", "0.5"))
    outcome.failed(106, "within 0.5 seconds", "may not speak TLS")
    server.result()


def test_port_closed(pki: Pki) -> None:
    """A port on which nobody listens gives 102."""
    port = free_port()
    run(*_connect(pki, port)).failed(102, f"127.0.0.1:{port}: ECONNREFUSED: Connection refused")


# -- names with several addresses, and one limit for everything


@pytest.mark.parametrize(
    ("kinds", "error", "said"),
    [
        (["dead", "refusing"], NetworkError, "Connection refused"),
        (["no-way", "dead"], DeadlineExceeded, "within 0.4 seconds: it does not answer"),
    ],
)
def test_addresses_that_are_dead(
    named: Names, kinds: list[str], error: type[Exception], said: str
) -> None:
    """One limit holds for all of them, and the error is the one that says most."""
    with ExitStack() as stack:
        named.known["several.test"] = [stack.enter_context(KINDS[kind]()) for kind in kinds]
        with pytest.raises(error, match=said):
            connect._dial(Address("several.test", 1), 0.4)


def test_address_that_is_alive(named: Names) -> None:
    """It is found beside one that is dead."""
    with dead() as first, alive() as second:
        named.known["several.test"] = [first, second]
        with connect._dial(Address("several.test", 1), PATIENCE) as sock:
            assert sock.getpeername() == second[4]


def test_resolver_that_hangs(named: Names) -> None:
    """It counts as well."""
    with pytest.raises(DeadlineExceeded, match=r"0.1 s.*: its name server does not") as caught:
        connect._dial(Address("silent.test", 1), 0.1)
    assert "resolv.conf" in caught.value.hint
    named.silence.set()


def test_one_limit() -> None:
    """What comes later gets what is left, and the user hears of the limit that was given."""
    deadline = connect._Deadline(60)
    deadline._at -= 50
    with deadline.spend("the rest did not come") as left:
        assert 0 < left <= 10

    def take_too_long() -> None:
        with deadline.spend("the rest did not come"):
            raise DeadlineExceeded("within 10 seconds", hint="ask")

    for seconds in (0, 50):
        deadline._at -= seconds
        with pytest.raises(DeadlineExceeded, match=r"^the rest did not come within 60 seconds$"):
            take_too_long()
    deadline.begin()
    with deadline.spend("nothing") as left:
        assert left > 50


def test_server_that_stalls_in_starttls(pki: Pki) -> None:
    """The limit is the same, and so is what is said of it."""

    def stall(sock: socket.socket) -> None:
        sock.sendall(b"220 hello\r\n")
        read_all(sock)

    server = Server(stall)
    words = ("--starttls", "smtp", "--timeout", "0.5")
    outcome = run(*_connect(pki, server.port, *words))
    outcome.failed(106, "starttls: no go-ahead from the server within 0.5 seconds")
    server.result()


@pytest.mark.parametrize("host", ["nonexistent.invalid", "nonexistent.invalid.", "ü.invalid"])
def test_unresolvable_host(host: str) -> None:
    """A name that does not resolve gives 102."""
    refused("connect", host, "443").failed(102, f"cannot connect to {host}:443")


@pytest.mark.parametrize("host", ["two..dots", "", "l" * 64 + ".example", "https://a.b", "i❤.ws"])
def test_no_host(host: str) -> None:
    """What cannot be a name gives 100, before anybody is asked for it."""
    refused("connect", host, "443").failed(100, host or '":443"')


@pytest.mark.usefixtures("lacks_ktls")
def test_ktls_required_without_kernel(pki: Pki) -> None:
    """Without kTLS --ktls=require gives 103 and a remedy; not one byte has been sent."""
    server = Server(read_all)
    run("--ktls=require", *_connect(pki, server.port)).failed(103, "TCP_ULP: ENOENT: ", "modprobe")
    assert server.result() == b""


# -- after the handshake


def _truncate(stream: ssl.SSLSocket) -> None:
    read_all(stream)
    stream.sendall(_noise(_MEBIBYTE))
    end_raw(stream)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_truncation(pki: Pki, carrier: str) -> None:
    """An end without close_notify gives 99; what came before is on stdout."""
    server = Server(over_tls(pki.good.server_context(), _truncate))
    outcome = run(carrier, *_connect(pki, server.port))
    outcome.failed(99, "without close_notify", "incomplete", out=_noise(_MEBIBYTE))
    server.result()


_BAD_ENDS = (
    pytest.param(
        lambda _peer: b"\x17\x03\x03\x00\x20" + bytes(32),
        [],
        AlertDescription.bad_record_mac,
        id="forged-record",
    ),
    pytest.param(
        lambda peer: peer.seal(ContentType.alert, bytes([2, AlertDescription.internal_error])),
        ["ended the connection with alert internal_error"],
        None,
        id="fatal-alert",
    ),
)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(("last", "words", "answer"), _BAD_ENDS)
def test_bad_end(
    pki: Pki,
    carrier: str,
    last: Callable[[RawPeer], bytes],
    words: list[str],
    answer: AlertDescription | None,
) -> None:
    """A fatal alert or a forged record gives 97; data in the same segment comes before it."""

    def end_badly(sock: socket.socket) -> AlertDescription | None:
        peer = RawPeer(sock, ServerConfig(key_pair=KeyPair.load(*pki.good)))
        sock.sendall(peer.data(b"good") + last(peer))
        return peer.recv_alert() if answer else None

    server = Server(end_badly)
    process = start(carrier, *_connect(pki, server.port))
    process.wait(PATIENCE)  # with stdin open: no close_notify of ours comes before the alert
    assert server.result() is answer
    finish(process).failed(97, *words, out=b"good")


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("whole", [True, False], ids=["stdin-ended", "stdin-open"])
def test_reader_of_stdout_gone(pki: Pki, carrier: str, *, whole: bool) -> None:
    """As with cat and head: no word, and SIGPIPE's status; what was cut off looks cut off."""
    gone = threading.Event()

    def insist(stream: ssl.SSLSocket) -> bool:
        assert stream.recv(100) == b"question"
        if whole:
            assert stream.recv(1) == b""
        assert gone.wait(PATIENCE)
        stream.sendall(b"too late")
        try:
            return stream.recv(1) == b""
        except (ssl.SSLEOFError, ConnectionError):
            return False

    server = Server(over_tls(pki.good.server_context(), insist))
    process = start(carrier, *_connect(pki, server.port))
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"question")
    process.stdin.flush()
    if whole:
        process.stdin.close()
        process.stdin = None
    process.stdout.close()
    process.stdout = None
    gone.set()
    assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
    assert finish(process).err == ""
    assert server.result() is whole


def test_head(pki: Pki) -> None:
    """The shell sees it as it sees every other command in front of head."""

    def talk(stream: ssl.SSLSocket) -> None:
        with suppress(OSError):
            for _ in range(1000):
                stream.sendall(b"line\n" * 1000)

    server = Server(over_tls(pki.good.server_context(), talk))
    words = shlex.join([*COMMAND, *_connect(pki, server.port)])
    done = subprocess.run(
        [find("bash"), "-c", f"{words} | head -1; echo ${{PIPESTATUS[0]}}"],
        input=b"",
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == (b"line\n141\n", b"")
    with suppress(OSError):
        server.result()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_streams_that_do_not_wait(pki: Pki, carrier: str) -> None:
    """A parent may have set O_NONBLOCK: all arrives, and the flag stays."""
    sent = _noise(_MEBIBYTE // 4)

    def echo(stream: ssl.SSLSocket) -> None:
        stream.sendall(read_all(stream))
        stream.unwrap()

    server = Server(over_tls(pki.good.server_context(), echo))
    (source, into), (out, sink) = os.pipe(), os.pipe()
    for number in (source, sink):
        os.set_blocking(number, False)
    process = start(carrier, *_connect(pki, server.port), stdin=source, stdout=sink)
    with open(into, "wb") as writing:
        for at in range(0, len(sent), 2**14):
            writing.write(sent[at : at + 2**14])
            writing.flush()
    assert not os.get_blocking(source)
    assert not os.get_blocking(sink)
    os.close(source)
    os.close(sink)
    received = b""
    with open(out, "rb") as reading:
        while more := reading.read(2**12):
            received += more
    assert received == sent
    assert finish(process).status == 0
    server.result()


def _with_redirection(redirection: str, *words: str) -> subprocess.Popen[bytes]:
    """Start the command with one of its streams closed or elsewhere."""
    script = f'exec "$@" {redirection}'
    return subprocess.Popen(
        ["sh", "-c", script, "sh", *COMMAND, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )


def test_stdin_closed(pki: Pki) -> None:
    """A closed stdin is an empty one; no connection takes its number."""
    server = Server(over_tls(pki.good.server_context(), _answer))
    process = _with_redirection("<&-", *_connect(pki, server.port))
    assert finish(process).succeeded() == b"0 bytes came"
    server.result()


@pytest.mark.parametrize(
    ("redirection", "words"),
    [
        pytest.param(">&-", ["stdout: EBADF", "open"], id="stdout-closed"),
        pytest.param(">/dev/full", ["stdout: ENOSPC", "space"], id="disk-full"),
        pytest.param("0>/dev/null", ["stdin: EBADF", "open"], id="stdin-not-for-reading"),
    ],
)
def test_unusable_stream(pki: Pki, redirection: str, words: list[str]) -> None:
    """A stream that cannot be used ends the command with 111, and what goes wrong is named."""

    def talk(stream: ssl.SSLSocket) -> None:
        read_all(stream)
        stream.sendall(b"hello")
        with suppress(ConnectionResetError):
            stream.unwrap()

    server = Server(over_tls(pki.good.server_context(), talk))
    outcome = finish(_with_redirection(redirection, *_connect(pki, server.port)))
    outcome.failed(111, *words, out=None)
    # What could not be read was not sent: that is no end.
    with pytest.raises(ssl.SSLEOFError) if "stdin: EBADF" in words else nullcontext():
        server.result()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_stdin_that_fails(pki: Pki, carrier: str) -> None:
    """A disk's or a terminal's error in the midst of the data: the server sees truncation."""

    def take(stream: ssl.SSLSocket) -> bytes:
        received = recv_exactly(stream, 100)
        with pytest.raises(ssl.SSLEOFError):
            stream.recv(1)
        return received

    server = Server(over_tls(pki.good.server_context(), take))
    # Of another process's memory the end of a mapping can be read, and what is behind it cannot.
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [[int(n, 16) for n in line.split()[0].split("-")] for line in lines if " r" in line]
    end = next(b for (_, b), (a, _) in itertools.pairwise(spans) if b != a)
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(end - 100)
        there = memory.read(100)
        memory.seek(end - 100)
        run(carrier, *_connect(pki, server.port), stdin=memory).failed(111, "stdin: EIO")
    assert server.result() == there


# -- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal(pki: Pki, number: int) -> None:
    """It closes in good order, without a word."""

    def greet(stream: ssl.SSLSocket) -> bytes:
        stream.sendall(b"hello")
        return stream.recv(1)

    server = Server(over_tls(pki.good.server_context(), greet))
    process = start(*_connect(pki, server.port))
    assert process.stdout is not None
    assert process.stdout.read(5) == b"hello"
    process.send_signal(number)
    assert process.wait(PATIENCE) == 128 + number
    assert finish(process).err == ""
    assert server.result() == b""


def test_sigint_in_the_handshake(pki: Pki) -> None:
    """SIGINT also ends a handshake that hangs."""
    started = threading.Event()

    server = Server(stalling(started))
    process = start(*_connect(pki, server.port))
    assert started.wait(PATIENCE)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 128 + signal.SIGINT
    assert finish(process).err == ""
    server.result()


# -- configuration


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["--ref-id", "bogus"], ['"bogus"', "dns:NAME"], id="ref-id-kindless"),
        pytest.param(["--ref-id", "dns:"], ['"dns:"', "dns:NAME"], id="ref-id-nameless"),
        pytest.param(["--ref-id", "ip:localhost"], ['"ip:localhost"'], id="ref-id-no-address"),
        pytest.param(["--ca", "/nonexistent"], ["/nonexistent", "permissions"], id="ca-missing"),
        pytest.param(["--ca", "/dev/null"], ["/dev/null", "BEGIN"], id="ca-empty"),
        pytest.param(["--alpn", ""], ["ALPN", "255"], id="alpn-empty"),
        pytest.param(["--alpn", "x" * 256], ["ALPN", "255"], id="alpn-long"),
        pytest.param(["--servername", "two..dots"], ["two..dots"], id="servername-no-name"),
        pytest.param(["--servername", "l" * 64], ["l" * 64], id="servername-long-label"),
    ],
)
def test_unusable_option(words: list[str], expected: list[str]) -> None:
    """An option that cannot be meant gives 100; not one byte has been sent."""
    status = 96 if "--ca" in words else 100
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.setblocking(False)
        refused("connect", *words, LOOPBACK, listener.getsockname()[1]).failed(status, *expected)
        with suppress(BlockingIOError), listener.accept()[0] as sock:
            assert sock.recv(1) == b""


def test_alpn_of_any_bytes(pki: Pki) -> None:
    """ALPN protocols are bytes (RFC 7301): what is no UTF-8 goes out as it is."""
    hello: list[bytes] = []

    def look(sock: socket.socket) -> None:
        hello.append(sock.recv(2**16))

    server = Server(look)
    word = os.fsdecode(b"\xff\xfe\xfd!")
    run(*_connect(pki, server.port, "--alpn", word)).failed(99)
    server.result()
    assert b"\x04\xff\xfe\xfd!" in hello[0]


def test_folder_of_anchors(pki: Pki, tmp_path: Path) -> None:
    """--ca takes a folder too, and refuses one without anchors."""
    refused("connect", "--ca", tmp_path, LOOPBACK, "1").failed(96, str(tmp_path), ".pem")
    (tmp_path / "one.pem").write_bytes(pki.authority.read_bytes())
    (tmp_path / "two.crt").write_bytes(trustme.CA().cert_pem.bytes())
    server = Server(over_tls(pki.good.server_context(), _answer))
    outcome = run("connect", "--ca", tmp_path, LOOPBACK, server.port)
    assert outcome.succeeded() == b"0 bytes came"


# -- sessions and ends


def _sessions(folder: Path) -> int:
    return len(list(folder.glob("*.session")))


def test_session_store(pki: Pki, tmp_path: Path) -> None:
    """A second connection resumes what the first has kept, and keeps what it is given."""
    reused: list[bool | None] = []

    def answer(stream: ssl.SSLSocket) -> None:
        reused.append(stream.session_reused)
        _answer(stream)

    serve = over_tls(pki.good.server_context(), answer)
    store = tmp_path / "store"
    with socket.create_server((LOOPBACK, 0)) as listener:
        words = _connect(pki, listener.getsockname()[1], "--session-store", str(store))
        for expected in (False, True):
            server = Endpoint(lambda: serve(listener.accept()[0]))
            assert run(*words).succeeded() == b"0 bytes came"
            server.result(PATIENCE)
            assert reused[-1] is expected
            assert _sessions(store) > 0


@pytest.mark.parametrize("flaw", ["open to others", "a link", "a file"])
def test_unusable_session_store(tmp_path: Path, flaw: str) -> None:
    """A store that is not private gives 96; not one byte has been sent."""
    store = tmp_path / "store"
    if flaw == "a file":
        store.touch()
    elif flaw == "a link":
        (tmp_path / "real").mkdir(0o700)
        store.symlink_to("real")
    else:
        store.mkdir(0o750)
    server = Server(read_all)
    outcome = run("connect", "--session-store", store, LOOPBACK, server.port)
    outcome.failed(96, "session folder", str(store))
    assert server.result() == b""


@pytest.mark.parametrize("carrier", CARRIERS)
def test_truncation_that_is_none(pki: Pki, carrier: str) -> None:
    """With --close=relaxed an end without close_notify is one like any other."""
    server = Server(over_tls(pki.good.server_context(), _truncate))
    outcome = run(carrier, *_connect(pki, server.port, "--close=relaxed"))
    assert outcome.succeeded() == _noise(_MEBIBYTE)
    server.result()


# -- STARTTLS


def _converse(sock: socket.socket, talk: tuple[tuple[bytes, bytes], ...]) -> None:
    for asked, answer in talk:
        assert sock.recv(len(asked), socket.MSG_WAITALL) == asked
        sock.sendall(answer)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_starttls(pki: Pki, carrier: str) -> None:
    """The server is asked in its own protocol; nothing that it said then comes on stdout."""
    answer = over_tls(pki.good.server_context(), _answer)

    def serve(sock: socket.socket) -> None:
        _converse(sock, CONVERSATIONS["pop3"])
        answer(sock)

    server = Server(serve)
    outcome = run(carrier, *_connect(pki, server.port, "--starttls", "pop3"), data=b"12345")
    assert outcome.succeeded() == b"5 bytes came"
    server.result()


def test_starttls_refused(pki: Pki) -> None:
    """A server without it gives 97, and nothing of stdin is sent."""
    greeting, (asked, _), *_ = CONVERSATIONS["pop3"]

    def serve(sock: socket.socket) -> bytes:
        _converse(sock, (greeting, (asked, b"+OK\r\nTOP\r\n.\r\n")))
        return read_all(sock)

    server = Server(serve)
    outcome = run(*_connect(pki, server.port, "--starttls", "pop3"), data=b"12345")
    outcome.failed(97, "starttls: the server does not offer TLS")
    assert server.result() == b""


def test_starttls_of_no_protocol(pki: Pki) -> None:
    """One that is not known gives 100, and those that are."""
    outcome = run(*_connect(pki, 1, "--starttls", "gopher"))
    outcome.failed(100, '"gopher" is none of ', "imap, ", "smtp, ")
