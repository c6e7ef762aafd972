"""Parsers and state machines that strangers feed, each with what may come of any bytes.

A target returns, or raises what its function documents, which is told apart here; anything else is
a finding. So is a result that breaks what is promised of it, and an input that takes too long.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import tempfile
from dataclasses import replace
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import trustme

from tests.certificates import certify, raw, respond
from tests.conversations import CONVERSATIONS, OWN, SERVER, follow
from tests.doubles import EnginePair, emitted
from tlsify import names
from tlsify.agent import fields, wire
from tlsify.cli.options import config_file
from tlsify.codepoints import CipherSuite, ContentType, ProtocolVersion
from tlsify.config import ClientConfig, ServerConfig
from tlsify.connection.setup import session_store
from tlsify.credentials import der, ocsp, presented, traefik
from tlsify.credentials.parse import encoded, parse_certificates, parse_crls
from tlsify.credentials.pem import read_pem
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import AgentError, ConfigError, HandshakeError, NetworkError, PeerMisbehaved
from tlsify.http import endpoint
from tlsify.http.request import BadRequest, Reader
from tlsify.ktls import diag
from tlsify.passing import proxy_protocol, proxy_text
from tlsify.passing.metadata import ConnectionInfo
from tlsify.renewal import staples, web
from tlsify.starttls.dialogues import DIALOGUES
from tlsify.static import codings, media_types, preconditions, ranges
from tlsify.static.target import Target as PathTarget
from tlsify.static.validators import Validators
from tlsify.status import entries
from tlsify.tls import serialize
from tlsify.tls.client_hello import HelloCollector, decode_client_hello
from tlsify.tls.engine import Engine
from tlsify.tls.messages import decode_alert, decode_handshake, decode_new_session_ticket
from tlsify.tls.protection import seal_record
from tlsify.tls.record import HEADER_LENGTH, Framer, split_records
from tlsify.tls.room import RecordBuffer
from tlsify.tls.session import Fail, Session
from tlsify.tls.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlsify.credentials.key_pair import KeyPair

_LIMIT = 64  # bytes of a handshake message, so that inputs need not be long


class Target(NamedTuple):
    """One of them.

    Attributes:
        feed: takes any bytes.
        seeds: what a friend would send.
    """

    feed: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS: dict[str, Target] = {}


def _target(
    *documented: type[Exception], seeds: Callable[[], list[bytes]] = list
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Put a function into the table; what it may raise is named."""

    def add(function: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def feed(data: bytes) -> None:
            with contextlib.suppress(*documented):
                function(data)

        TARGETS[function.__name__] = Target(feed, seeds)
        return function

    return add


# -- what samples are made of


@cache
def _pair() -> KeyPair:
    return make_key_pair(["example.org"])


@cache
def _client() -> ClientConfig:
    return ClientConfig(verify=False, server_name="example.org", alpn=(b"h2",))


@cache
def _server() -> ServerConfig:
    return ServerConfig(key_pair=_pair(), alpn=(b"h2",))


@cache
def _pem() -> bytes:
    return _pair().certificate_pem()


def _pieces(data: bytes) -> Iterator[bytes]:
    """Divide: a byte says how long the next piece is."""
    at = 0
    while at < len(data):
        length = data[at]
        yield data[at + 1 : at + 1 + length]
        at += 1 + length


def _hello() -> bytes:
    return Engine(_client()).output()


def _flights(version: ProtocolVersion) -> tuple[bytes, bytes]:
    """Shake hands between a client and a server; return all that each has sent."""
    only = frozenset({version})
    sides = Engine(replace(_client(), versions=only)), Engine(replace(_server(), versions=only))
    sent = bytearray(), bytearray()
    while True:
        outputs = [side.output() for side in sides]
        if not any(outputs):
            return bytes(sent[0]), bytes(sent[1])
        for index, output in enumerate(outputs):
            sent[index].extend(output)
            for record in split_records(output):
                sides[1 - index].feed(record)


# -- TLS, before and after the handshake


@_target(PeerMisbehaved, seeds=lambda: [_hello()[HEADER_LENGTH:]])
def client_hello(data: bytes) -> None:
    """Read a ClientHello."""
    decode_client_hello(data)


@_target(PeerMisbehaved, seeds=lambda: [b"".join(bytes([200]) + _hello()[5:][:200] for _ in "ab")])
def hello_fragments(data: bytes) -> None:
    """Put one together from fragments."""
    collector = HelloCollector()
    for piece in _pieces(data):
        collector.feed(piece)


@_target(PeerMisbehaved, seeds=lambda: [b"\x18\0\0\1\0", b"\x04\0\0\x02ab"])
def handshake_messages(data: bytes) -> None:
    """Split messages off a buffer, which each of them shortens."""
    buffer = bytearray(data)
    before = len(buffer)
    while decode_handshake(buffer, limit=_LIMIT) is not None:
        assert len(buffer) < before
        before = len(buffer)


@_target(PeerMisbehaved, seeds=lambda: [b"\x01\0", b"\x02\x28"])
def alert(data: bytes) -> None:
    """Read an alert."""
    found = decode_alert(data)
    assert bytes([found.level, found.description]) == data


@_target(PeerMisbehaved, seeds=lambda: [bytes(8) + b"\x01n\0\x01t\0\0"])
def session_ticket(data: bytes) -> None:
    """Read a NewSessionTicket."""
    ticket = decode_new_session_ticket(data)
    assert ticket.ticket
    assert ticket.ticket in data


@_target(PeerMisbehaved, seeds=lambda: [_hello()])
def framer(data: bytes) -> None:
    """Cut a stream into records: whatever is in them comes out, and nothing twice."""
    found, cut = Framer(), b""
    rest = data
    while rest:
        need = found.need()
        assert need > 0
        piece, rest = rest[:need], rest[need:]
        cut += found.feed(piece)
    assert cut + found.pending == data


def _control(data: bytes, *, can_rekey: bool) -> None:
    sessions = (
        Session(_TLS12, is_client=False),
        Session(
            CipherSuite.TLS_AES_128_GCM_SHA256,
            is_client=True,
            can_rekey=can_rekey,
            tx_secret=bytearray(32),
            rx_secret=bytearray(32),
        ),
    )
    for session in sessions:
        for piece in _pieces(data):
            if not piece or piece[0] == ContentType.application_data:
                continue  # data is not the session's
            actions = session.receive(piece[0], piece[1:])
            if actions and isinstance(actions[-1], Fail):
                break


_TLS12 = next(suite for suite in CipherSuite if suite.version is ProtocolVersion.TLSv1_2)


@_target(seeds=lambda: [b"\x06\x16\x18\0\0\1\1\x03\x15\x01\0"])
def control_records(data: bytes) -> None:
    """Receive control records, on a kernel that can rekey."""
    _control(data, can_rekey=True)


@_target(seeds=lambda: [b"\x06\x16\x18\0\0\1\0\x03\x15\x02\x28"])
def control_records_without_rekey(data: bytes) -> None:
    """Receive them on one that cannot."""
    _control(data, can_rekey=False)


def _handshake(engine: Engine, data: bytes) -> None:
    """Feed a stream, as a relay would; the right alert goes out with the error."""
    engine.output()
    while data and engine.result() is None:
        need = engine.need()
        piece, data = data[:need], data[need:]
        engine.feed(piece)


@_target(HandshakeError, seeds=lambda: [_flights(version)[0] for version in ProtocolVersion])
def server_handshake(data: bytes) -> None:
    """Be a server, and hear anything."""
    _handshake(Engine(_server()), data)


@_target(HandshakeError, seeds=lambda: [_flights(version)[1] for version in ProtocolVersion])
def client_handshake(data: bytes) -> None:
    """Be a client, and hear anything."""
    _handshake(Engine(_client()), data)


@_target(HandshakeError, seeds=lambda: [b"\x05\x17data\x02\x15\x01\0", b"\x06\x16\x18\0\0\1\1"])
def relayed_records(data: bytes) -> None:
    """Carry whatever a peer seals who has the keys, in both versions."""
    for version in ProtocolVersion:
        pair = EnginePair(replace(_client(), versions=frozenset({version})), _server())
        pair.run()
        tx = pair.keys[0].tx
        tunnel, room = Tunnel(pair.server), RecordBuffer(2**16)
        for number, piece in enumerate(_pieces(data)):
            if piece:
                kind = cast("ContentType", piece[0])
                record = seal_record(tx, tx.seq + number, kind, piece[1:])
                tunnel.receive(record, room)
                emitted(tunnel)


# -- files, and what is beside TLS


@_target(ValueError, seeds=lambda: [bytes.fromhex("3006020101040161")])
def der_elements(data: bytes) -> None:
    """Read DER."""
    found = list(der.elements(data))
    assert sum(2 + len(content) for _, content in found) <= len(data)


@_target(ConfigError, seeds=lambda: [_pem()])
def pem(data: bytes) -> None:
    """Read certificates."""
    assert read_pem(data, "it")


@_target(ConfigError)
def crl(data: bytes) -> None:
    """Read revocation lists."""
    parse_crls(data, "it")


@_target()
def ocsp_response(data: bytes) -> None:
    """Judge an OCSP response."""
    certificate = _pair().chain[0]
    found = ocsp.objection(data, certificate, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    assert found is None or found
    ocsp.belongs(data, certificate)


@_target(
    HTTPException,
    ValueError,
    seeds=lambda: [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def authoritys_answer(data: bytes) -> None:
    """Read an authority's answer."""
    for method in ("GET", "HEAD"):
        answer = web._parse(data, method, is_cut=True)
        assert len(answer.content) <= len(data)


@_target(web.WebError, seeds=lambda: [b"https://host:1/path?query", b"http://[::1]/"])
def url(data: bytes) -> None:
    """Read a URL from an authority."""
    place = web.Place.parse(data.decode("latin-1"))
    assert " " not in place.target
    assert place.target.isprintable()


@cache
def _issued() -> tuple[staples.Subject, bytes]:
    authority = trustme.CA()
    pair = certify(authority, "example.org")
    issuer = parse_certificates(authority.cert_pem.bytes(), "the authority")[0]
    return staples.Subject(pair.chain[0], issuer, ()), respond(authority, pair)


@_target(NetworkError, seeds=lambda: [_issued()[1]])
def responders_answer(data: bytes) -> None:
    """Judge a response that was fetched."""
    staples._check(data, _issued()[0], "it")


@_target(ConfigError, seeds=lambda: [b'{"a": {"Certificates": []}}'])
def traefik_store(data: bytes) -> None:
    """Read Traefik's file."""
    assert isinstance(traefik._parse(data, "it"), dict)


@_target(
    seeds=lambda: [session_store.encode(bytes(32), session_store.StoredSession(b"session", 1, 2))]
)
def kept_ticket(data: bytes) -> None:
    """Read what a ticket store has kept."""
    session_store.decode(bytes(32), data)


@_target(ConfigError)
def state(data: bytes) -> None:
    """Restore a connection that was handed away."""
    serialize.restore(bytearray(data), can_rekey=True)


@_target(ConfigError, seeds=lambda: [b'verb = "serve"\nworkers = 2\noperands = ["x"]\n'])
def configuration(data: bytes) -> None:
    """Read a configuration file."""
    with tempfile.NamedTemporaryFile() as file:
        os.write(file.fileno(), data)
        config_file.read(Path(file.name))


# -- other processes


def _requests() -> list[bytes]:
    return [wire.encode_request(wire.ServerRequest(key_pair="k", alpn=(b"h2",), timeout=9))]


@_target(AgentError, seeds=_requests)
def agent_request(data: bytes) -> None:
    """Read what somebody asks of an agent."""
    request = wire.decode_request(data)
    assert wire.decode_request(wire.encode_request(request)) == request


@_target(AgentError)
def agent_answer(data: bytes) -> None:
    """Read what an agent says."""
    fields.decode(bytearray(data), wire.Kernel, wire.Relayed, wire.Failed, wire.Ended)


@_target(ValueError, seeds=lambda: [b"PROXY TCP4 192.0.2.1 198.51.100.2 1 443\r\n"])
def proxy_line(data: bytes) -> None:
    """Read a PROXY protocol header that is a line of text."""
    found = proxy_text.decode(data)
    assert proxy_text.decode(proxy_text.encode(found)) == found


@_target(ValueError, seeds=lambda: [proxy_protocol.SIGNATURE + bytes.fromhex("20000000")])
def proxy_header(data: bytes) -> None:
    """Read a PROXY header; it says how long it is, which is not longer than what there is."""
    _, length = proxy_protocol.decode(data)
    assert 16 <= length <= len(data)


@_target(ValueError)
def passed_connection(data: bytes) -> None:
    """Read what comes with a descriptor."""
    ConnectionInfo.decode(data)


@_target(ValueError, seeds=lambda: [entries.write_head(entries.Head(1, 0)).encode()])
def roster_head(data: bytes) -> None:
    """Read the first line of a roster."""
    entries.read_head(data)


@_target(ValueError, seeds=lambda: [json.dumps([]).encode()])
def roster_rows(data: bytes) -> None:
    """Read its rows: what is sound among them can be shown."""
    found, odd = entries.read_rows(data)
    assert odd >= 0
    json.dumps([entries.row(each) for each in found], allow_nan=False)


@_target()
def tcp_info(data: bytes) -> None:
    """Read the kernel's tcp_info."""
    diag.parse_traffic(data)


# -- HTTP, and what servers say before TLS


@_target(seeds=lambda: [b"GET /metrics HTTP/1.1"])
def request_line(data: bytes) -> None:
    """Read a request line."""
    method, target, version = endpoint.request_line(data)
    assert version in {"", "HTTP/1.0", "HTTP/1.1"}
    assert version or (method, target) == ("", "")


@_target(
    BadRequest,
    seeds=lambda: [
        b"\x10GET / HTTP/1.1\r\n\x0bHost: x\r\n\r\n",
        b"\x40POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ],
)
def http_requests(data: bytes) -> None:
    """Requests of a connection, in pieces."""
    reader = Reader()
    for piece in _pieces(data):
        reader.feed(piece)
        if any(not each.persists for each in reader.found):
            return
        for each in reader.found:
            assert each.path is not None
            assert each.is_whole or each is reader.found[-1]


@_target(ValueError, seeds=lambda: [b"/a/%2e%2e/b?x", b"/"])
def request_target(data: bytes) -> None:
    """Read a path: no name in it leads out of the folder."""
    found = PathTarget.parse(data.decode("latin-1"))
    if found is not None:
        assert not any(name in {b"", b".", b".."} or {0, 47} & set(name) for name in found.names)
        assert found.reference().isascii()
        media_types.media_type(b"/".join(found.names))


@_target(ranges.Unsatisfiable, seeds=lambda: [b"bytes=0-1", b"bytes=-5", b"bytes=3-"])
def range_field(data: bytes) -> None:
    """Read a range: what it asks for is in the file."""
    size = 100
    found = ranges.parse(data.decode("latin-1"), size)
    if found is not None:
        first, length = found
        assert 0 <= first < size
        assert 0 < length <= size - first


@_target(seeds=lambda: [b'"a"', b'W/"a", "b"', b"*", b"Sun, 29 Nov 2026 19:00:00 GMT"])
def condition(data: bytes) -> None:
    """Judge conditional requests."""
    text = data.decode("latin-1")
    codings.wanted(text)
    validators = Validators("a", True, 1_700_000_000, True)
    for wanted in ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"):
        preconditions.judge({wanted: text}.get, validators)
    preconditions.range_is_wanted(lambda _: text, validators)


@_target(
    HandshakeError,
    seeds=lambda: [
        bytes([number]) + b"".join(said for _, said in CONVERSATIONS[name])
        for number, name in enumerate(sorted(DIALOGUES))
    ],
)
def starttls(data: bytes) -> None:
    """Hear a server that is asked to change to TLS; the first byte chooses the protocol."""
    protocols = sorted(DIALOGUES)
    if data:
        protocol = protocols[data[0] % len(protocols)]
        follow(DIALOGUES[protocol](SERVER, OWN), data[1:])


@_target(ConfigError, seeds=lambda: [b"www.example.org", "b\xfccher.example".encode("latin-1")])
def host_name(data: bytes) -> None:
    """Read a name: its canonical form is its own."""
    found = names.canonical(data.decode("latin-1"))
    assert names.canonical(found) == found


@_target(seeds=lambda: [b"\x30\x03\x82\x01a"])
def alternative_names(data: bytes) -> None:
    """Show the names that a certificate presents, and what is none."""
    for certificate in (encoded(raw(data)), data):
        assert all(each.text.isprintable() for each in presented.read(certificate))
