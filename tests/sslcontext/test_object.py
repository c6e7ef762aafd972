"""Tests of object: each story is played by Python's own `ssl`, and by tlsify in either role."""

from __future__ import annotations

import gc
import ssl
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from OpenSSL import SSL

from tests.conftest import HOST
from tests.doubles import KERNEL, RELAY, Endpoint, Lab, RawPeer
from tlsify.codepoints import Aead, ContentType
from tlsify.config import KtlsPolicy
from tlsify.metrics.counters import counters
from tlsify.sslcontext.context import SSLContext
from tlsify.tls import wear
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update
from tlsify.tls.openssl import drain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import trustme

# Names that depend on OpenSSL's version.
_REASONS = {"RECORD_LAYER_FAILURE": "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"}
BIG = bytes(range(251)) * 4000


class Files:
    """Certificates, and contexts made of them."""

    def __init__(
        self, authority: trustme.CA, folder: Path, issuer: trustme.CA | None = None
    ) -> None:
        """Write them."""
        self.pair, self.ca = folder / "pair.pem", folder / "ca.pem"
        self.leaf = (issuer or authority).issue_cert(HOST, common_name="client")
        self.leaf.private_key_and_cert_chain_pem.write_to_path(self.pair)
        authority.cert_pem.write_to_path(self.ca)

    def server(self, *, ours: bool, policy: KtlsPolicy = RELAY) -> ssl.SSLContext:
        """Make a server's context."""
        if ours:
            return SSLContext.for_server(self.pair, policy=policy, alpn=["h2"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pair)
        context.set_alpn_protocols(["h2"])
        return context

    def client(self, *, ours: bool, policy: KtlsPolicy = RELAY) -> ssl.SSLContext:
        """Make a client's context."""
        if ours:
            return SSLContext.for_client(cafile=self.ca, policy=policy, alpn=["h2"])
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(["h2"])
        return context


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Files:
    """Certificates."""
    return Files(authority, tmp_path)


class Side:
    """An SSLObject and its two buffers."""

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        """Make them."""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: Any = context.wrap_bio(self.incoming, self.outgoing, **options)
        self.said: list[Any] = []

    def do(self, name: str, *arguments: Any) -> Any:
        """Call a method, and note what it gives, or its error as programs look at it."""
        try:
            said = getattr(self.tls, name)(*arguments)
        except ssl.SSLCertVerificationError as exc:
            said = (type(exc), exc.errno, exc.library, exc.reason, exc.verify_code)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError) as exc:
            said = (type(exc), exc.errno, exc.library, exc.reason)
        except ssl.SSLEOFError as exc:
            said = (type(exc), exc.errno)
        except ssl.SSLError as exc:
            assert f"[{exc.library}: {exc.reason}] " in str(exc)
            said = (type(exc), exc.errno, exc.library, _REASONS.get(exc.reason, exc.reason))
        except ValueError as exc:
            said = str(exc)
        self.said.append(said)
        return said


def carry(source: Side, sink: Side) -> bytes:
    """Carry records from one side to the other."""
    records = source.outgoing.read()
    sink.incoming.write(records)
    return records


def shake(client: Side, server: Side) -> None:
    """Do the handshake, until both sides have its result."""
    sides = [(client, server), (server, client)] * 3
    finished: set[Side] = set()
    for side, other in sides:
        if side not in finished:
            said = side.do("do_handshake")
            if not isinstance(said, tuple) or said[0] is not ssl.SSLWantReadError:
                finished.add(side)
            carry(side, other)


def _describe(client: Side, server: Side) -> None:
    for side in (client, server):
        for name in ("version", "cipher", "selected_alpn_protocol", "getpeercert", "pending"):
            side.do(name)
        side.do("getpeercert", True)
    shake(client, server)
    for side in (client, server):
        for name in ("version", "cipher", "selected_alpn_protocol", "getpeercert", "compression"):
            side.do(name)
        side.do("getpeercert", True)
        side.said += [side.tls.server_side, side.tls.session_reused]
    client.said.append(client.tls.server_hostname)


def _read_and_write(client: Side, server: Side) -> None:
    shake(client, server)
    server.do("read")
    assert client.do("write", b"hello, world") == 12
    client.do("write", b"")
    carry(client, server)
    for size in (1, 1, 0, 3):
        server.do("read", size)
    server.do("read", -1)
    room = bytearray(4)
    server.do("read", 2, room)
    server.do("read", 0, room)
    server.said.append(bytes(room))
    server.do("pending")
    server.do("read", 100)
    client.do("write", memoryview(bytearray(b"!")))
    carry(client, server)
    server.do("read", 100)
    server.do("read", 100)


def _many_bytes(client: Side, server: Side) -> None:
    shake(client, server)
    assert client.do("write", BIG) == len(BIG)
    received = bytearray()
    records = client.outgoing.read()
    for start in range(0, len(records), 5000):
        server.incoming.write(records[start : start + 5000])
        while isinstance(more := server.do("read", 3000), bytes):
            received += more
    server.said = [bytes(received) == BIG]


def _too_early(client: Side, server: Side) -> None:
    client.do("unwrap")
    client.do("write", b"early")
    client.do("read", 10)
    server.do("write", b"early")
    carry(client, server)
    server.do("read", 10)
    carry(server, client)
    client.do("write", b"early")
    carry(client, server)
    server.do("read", 10)


def _close(client: Side, server: Side) -> None:
    shake(client, server)
    client.do("write", b"last")
    client.do("unwrap")
    client.do("write", b"late")
    carry(client, server)
    server.do("read", 2)
    server.do("read", 9)
    server.do("read", 9)
    server.do("write", b"answer")
    carry(server, client)
    client.do("read", 9)
    client.do("read", 9)
    server.do("unwrap")
    carry(server, client)
    client.do("unwrap")
    for side in (client, server):
        side.do("read", 9)
        side.do("read", 9, bytearray(1))


def _close_beside_data(client: Side, server: Side) -> None:
    shake(client, server)
    client.do("write", b"data")
    carry(client, server)
    server.do("unwrap")


def _cut(client: Side, server: Side) -> None:
    shake(client, server)
    client.do("write", b"data")
    carry(client, server)
    server.incoming.write_eof()
    client.incoming.write_eof()
    server.do("read", 9)
    server.do("read", 9)
    server.do("read", 9)
    client.do("unwrap")


def _cut_in_handshake(client: Side, server: Side) -> None:
    client.do("do_handshake")
    carry(client, server)
    client.incoming.write_eof()
    server.incoming.write_eof()
    client.do("do_handshake")
    server.do("do_handshake")


def _broken_record(client: Side, server: Side) -> None:
    shake(client, server)
    client.do("write", b"good")
    carry(client, server)
    client.do("write", b"bad")
    records = client.outgoing.read()
    server.incoming.write(records[:-1] + bytes([records[-1] ^ 1]))
    server.do("read", 9)
    server.do("read", 9)
    server.said.append(len(carry(server, client)) > 7)  # the alert
    client.do("read", 9)


def _drain(side: Side) -> None:
    """Read on while there is anything, as uvloop does: it must see an end that came with data."""
    while (side.incoming.pending or side.tls.pending()) and isinstance(side.do("read", 9), bytes):
        pass


def _end_behind_data(client: Side, server: Side) -> None:
    shake(client, server)
    client.do("write", b"data")
    client.do("unwrap")
    carry(client, server)
    _drain(server)


def _error_behind_data(client: Side, server: Side) -> None:
    shake(client, server)
    client.do("write", b"good")
    client.do("write", b"bad")
    records = client.outgoing.read()
    server.incoming.write(records[:-1] + bytes([records[-1] ^ 1]))
    _drain(server)


def _plain_text(client: Side, _: Side) -> None:
    client.do("do_handshake")
    client.incoming.write(b"220 mail.example ESMTP\r\n")
    client.do("do_handshake")


STORIES: dict[str, Callable[[Side, Side], None]] = {
    "description": _describe,
    "reading and writing": _read_and_write,
    "many bytes": _many_bytes,
    "too early": _too_early,
    "close": _close,
    "close beside data": _close_beside_data,
    "cut": _cut,
    "cut in the handshake": _cut_in_handshake,
    "broken record": _broken_record,
    "end behind data": _end_behind_data,
    "error behind data": _error_behind_data,
    "plain text": _plain_text,
}
ROLES = pytest.mark.parametrize("role", ["client", "server"])
VERSIONS = pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])


def _play(
    files: Files, story: Callable[[Side, Side], None], version: str, ours: str
) -> tuple[list[Any], list[Any]]:
    contexts = files.client(ours=ours == "client"), files.server(ours=ours == "server")
    for context in contexts:
        context.maximum_version = ssl.TLSVersion[version]
        context.set_ciphers("ECDHE+AESGCM")
    client = Side(contexts[0], server_hostname=HOST)
    server = Side(contexts[1], server_side=True)
    story(client, server)
    return client.said, server.said


@ROLES
@VERSIONS
@pytest.mark.parametrize("story", STORIES)
def test_story(files: Files, story: str, version: str, role: str) -> None:
    """Both sides give and raise what they do where both are Python's."""
    assert _play(files, STORIES[story], version, role) == _play(files, STORIES[story], version, "")


@pytest.mark.parametrize(("name", "trusts"), [("other.example", True), (HOST, False)])
def test_unwanted_peer(files: Files, name: str, *, trusts: bool) -> None:
    """A client raises what Python's raises, and the server hears the same alert."""
    said = []
    for ours in (True, False):
        context = files.client(ours=ours)
        if not trusts:
            context = SSLContext.for_client() if ours else ssl.create_default_context()
        client = Side(context, server_hostname=name)
        server = Side(files.server(ours=False), server_side=True)
        shake(client, server)
        said.append((client.said[1:], server.said))
    assert said[0] == said[1]


def test_client_without_a_certificate(files: Files) -> None:
    """A server that requires one raises what Python's raises."""
    said = []
    for ours in (True, False):
        context = files.server(ours=ours)
        context.load_verify_locations(files.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        server = Side(context, server_side=True)
        client = Side(files.client(ours=False), server_hostname=HOST)
        shake(client, server)
        client.do("read", 9)
        said.append((client.said, server.said))
    assert said[0] == said[1]


def test_what_it_is(files: Files) -> None:
    """It says who encrypts, and the rest as the sockets do."""
    client = Side(files.client(ours=True), server_hostname=HOST)
    server = Side(files.server(ours=True), server_side=True)
    shake(client, server)
    for side in (client, server):
        assert side.tls.ktls == "policy-off"
        assert side.tls.session is None
    assert server.tls.server_hostname == HOST
    with pytest.raises(NotImplementedError, match="resumption"):
        client.tls.session = None
    with pytest.raises(ValueError, match="tls-unique"):
        client.tls.get_channel_binding()


class Attended(Side):
    """A server's SSLObject with a peer made by hand, which builds its records itself."""

    def __init__(self, lab: Lab, files: Files) -> None:
        """Do the handshake."""
        super().__init__(files.server(ours=True), server_side=True)
        self._sock, theirs = lab.tcp()
        client = files.client(ours=True)
        assert isinstance(client, SSLContext)
        connecting = Endpoint(lambda: RawPeer(theirs, client.client_config(HOST)))
        while self.do("do_handshake") is not None:
            self.flush()
            self.incoming.write(self._sock.recv(2**16))
        self.flush()  # tickets
        self.peer = connecting.result()

    def flush(self) -> bool:
        """Send the peer what there is for it; return whether there was anything."""
        records = self.outgoing.read()
        self._sock.sendall(records)
        return bool(records)


def test_key_update(lab: Lab, files: Files) -> None:
    """A peer's new key is followed, and answered with the next data."""
    ours = Attended(lab, files)
    peer = ours.peer
    ours.incoming.write(peer.key_update(KeyUpdateRequest.update_requested) + peer.data(b"new"))
    assert ours.do("read", 9) == b"new"
    assert ours.do("write", b"answer") == 6
    assert ours.flush()
    answer = encode_key_update(KeyUpdateRequest.update_not_requested)
    assert peer.recv() == (ContentType.handshake, answer)
    peer.follow_key_update()
    assert peer.recv_data(6) == b"answer"


def test_key_that_wears_out(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object fails before a key has protected too much."""
    before = counters()["key_limit_reached"]
    monkeypatch.setattr(Aead, "record_limit", property(lambda _: 2 + wear._SPARE))
    client = Side(files.client(ours=True), server_hostname=HOST)
    server = Side(files.server(ours=False), server_side=True)
    shake(client, server)
    full = bytes(2**14)
    assert client.do("write", full) == client.do("write", full) == 2**14
    for call in (("write", b"x"), ("write", b"x"), ("unwrap",)):
        with pytest.raises(ssl.SSLError, match="could not be changed"):
            getattr(client.tls, call[0])(*call[1:])
    assert counters()["key_limit_reached"] == before + 1
    carry(client, server)
    assert server.do("read", 2**14) == full


def test_half_a_message(lab: Lab, files: Files) -> None:
    """While a message of the peer's is not complete, data waits for it, and none is lost."""
    ours = Attended(lab, files)
    peer, update = ours.peer, encode_key_update(KeyUpdateRequest.update_not_requested)
    ours.incoming.write(peer.seal(ContentType.handshake, update[:4]))
    wants = (ssl.SSLWantReadError, ssl.SSL_ERROR_WANT_READ, None, None)
    assert ours.do("read", 9) == wants
    assert ours.do("write", b"first ") == 6
    assert ours.do("write", b"second") == wants  # so it does not pile up
    assert not ours.flush()
    ours.incoming.write(peer.seal(ContentType.handshake, update[4:]))
    assert ours.do("read", 9) == wants
    assert ours.do("write", b"second") == 6
    assert ours.flush()
    assert peer.recv_data(12) == b"first second"


def test_renegotiation(files: Files) -> None:
    """It is refused, and the connection goes on."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    theirs = SSL.Connection(context, None)
    theirs.set_connect_state()
    ours = Side(files.server(ours=True), server_side=True)
    for _ in range(3):
        with suppress(SSL.WantReadError):
            theirs.do_handshake()
        ours.incoming.write(drain(theirs))
        ours.do("do_handshake")
        if records := ours.outgoing.read():
            theirs.bio_write(records)
    assert theirs.renegotiate()
    with suppress(SSL.WantReadError):
        theirs.do_handshake()
    ours.incoming.write(drain(theirs))
    assert ours.do("read", 9)[0] is ssl.SSLWantReadError
    theirs.bio_write(ours.outgoing.read())
    with pytest.raises(SSL.Error, match="no renegotiation"):
        theirs.do_handshake()
    assert ours.do("write", b"still there") == 11


def test_policy(
    files: Files, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the true one; where the kernel is required, that is said, and once."""
    client = Side(files.client(ours=True, policy=KtlsPolicy()), server_hostname=HOST)
    shake(client, Side(files.server(ours=False), server_side=True))
    assert client.tls.ktls == "in-memory"
    monkeypatch.setenv("TLSIFY_KTLS", "off")
    client = Side(files.client(ours=True, policy=KtlsPolicy()), server_hostname=HOST)
    shake(client, Side(files.server(ours=False), server_side=True))
    assert client.tls.ktls == "switched-off"
    monkeypatch.delenv("TLSIFY_KTLS")
    with pytest.raises(ssl.SSLError, match="without a socket"):
        Side(files.client(ours=True, policy=KERNEL), server_hostname=HOST)
    assert not caplog.records  # it was raised
    context = files.server(ours=True, policy=KERNEL)
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match="without a socket"):
            Side(context, server_side=True)
    assert len(caplog.records) == 1  # loops drop it


def test_arguments(files: Files) -> None:
    """Those that contradict each other are refused, as `ssl` refuses them."""
    with pytest.raises(ValueError, match="check_hostname"):
        Side(files.client(ours=True))
    with pytest.raises(ValueError, match="client mode"):
        Side(files.server(ours=True), server_side=True, server_hostname=HOST)
    with pytest.raises(NotImplementedError, match="resumption"):
        Side(files.client(ours=True), server_hostname=HOST, session=object())


def test_key_log(files: Files, tmp_path: Path) -> None:
    """It is written, as by connections with a socket."""
    context = files.client(ours=True)
    context.keylog_filename = str(tmp_path / "keys")
    shake(Side(context, server_hostname=HOST), Side(files.server(ours=True), server_side=True))
    assert "CLIENT_TRAFFIC_SECRET_0" in (tmp_path / "keys").read_text()


def test_resumption(files: Files) -> None:
    """A server's tickets reach its clients."""
    server, client = files.server(ours=True), files.client(ours=False)
    assert isinstance(server, SSLContext)
    server.resumption = True
    session = None
    for resumed in (False, True):
        ours = Side(server, server_side=True)
        theirs = Side(client, server_hostname=HOST, session=session)
        shake(theirs, ours)
        theirs.do("read", 1)
        session = theirs.tls.session
        assert ours.tls.session_reused is theirs.tls.session_reused is resumed


def test_buffer_that_cannot_be_written(files: Files) -> None:
    """Nothing is taken for it."""
    client = Side(files.client(ours=True), server_hostname=HOST)
    server = Side(files.server(ours=True), server_side=True)
    shake(client, server)
    server.tls.write(b"hello")
    client.incoming.write(server.outgoing.read())
    with pytest.raises(TypeError):
        client.tls.read(5, b"12345")
    assert client.tls.read(5) == b"hello"


def test_nothing_is_left(files: Files) -> None:
    """OpenSSL's memory goes with the object, whatever came of it, before garbage is looked for."""
    gc.disable()
    try:
        for rounds in (0, 1, 3):
            client = Side(files.client(ours=True), server_hostname=HOST)
            server = Side(files.server(ours=True), server_side=True)
            left = weakref.ref(client.tls)
            engine = weakref.ref(client.tls._engine._connection)
            for _ in range(rounds):
                shake(client, server)
            del client
            assert left() is None
            assert engine() is None
        broken = Side(files.client(ours=True), server_hostname=HOST)
        broken.incoming.write(b"220 no TLS here\r\n")
        for _ in range(2):
            with pytest.raises(ssl.SSLError):
                broken.tls.do_handshake()
        left = weakref.ref(broken.tls)
        del broken
        assert left() is None
    finally:
        gc.enable()


def _chains(side: Side, *, ours: bool) -> list[list[bytes]]:
    """Return what the peer has shown, and what was verified; of `ssl`'s before Python 3.13, too."""
    names = ("get_unverified_chain", "get_verified_chain")
    if ours:
        return [getattr(side.tls, name)() for name in names]
    found = [getattr(side.tls._sslobj, name)() or [] for name in names]
    return [[each.public_bytes(2) for each in chain] for chain in found]  # 2: DER


@VERSIONS
@ROLES
def test_chains(authority: trustme.CA, tmp_path: Path, role: str, version: str) -> None:
    """Both sides find the peer's chain as `ssl` does; after a resumption its own certificate."""
    files = Files(authority, tmp_path, authority.create_child_ca())
    is_client = role == "client"
    contexts = files.client(ours=is_client), files.server(ours=not is_client)
    for context in contexts:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    contexts[0].load_cert_chain(files.pair)
    contexts[1].load_verify_locations(files.ca)
    contexts[1].verify_mode = ssl.CERT_REQUIRED
    if not is_client:
        contexts[1].resumption = True  # type: ignore[attr-defined]
    shown, (root,) = (
        [ssl.PEM_cert_to_DER_cert(pem.bytes().decode()) for pem in pems]
        for pems in (files.leaf.cert_chain_pems, [authority.cert_pem])
    )
    session = None
    for _ in range(1 if is_client else 2):
        resume: dict[str, Any] = {} if session is None else {"session": session}
        client = Side(contexts[0], server_hostname=HOST, **resume)
        server = Side(contexts[1], server_side=True)
        assert _chains(client, ours=is_client) == [[], []]
        shake(client, server)
        server.do("write", b"with the tickets")
        carry(server, client)
        client.do("read", 100)
        session = None if is_client else client.tls.session
        found = _chains(client, ours=is_client), _chains(server, ours=not is_client)
        if client.tls.session_reused:
            assert found[1] == [shown[:1], shown[:1]]
        else:
            assert len(shown) == 2
            assert found == ([shown, [*shown, root]], [shown, [*shown, root]])
    assert is_client or client.tls.session_reused
