"""Attacks on a server of TLS: what a connection does, how many do it, and how much they send."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple

from tests.doubles import keys_of
from tlsify.codepoints import ContentType
from tlsify.config import ClientConfig
from tlsify.connection.setup import handshake
from tlsify.errors import TlsifyError
from tlsify.tls.engine import Engine
from tlsify.tls.messages import KeyUpdateRequest, encode_key_update
from tlsify.tls.protection import seal_record
from tlsify.tls.record import encode_record
from tlsify.tls.schedule import next_secret, traffic_keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tlsify.codepoints import CipherSuite
    from tlsify.keys import Keys

    Act = Callable[[int, float], Awaitable[None]]

_HOST = "127.0.0.1"
_PIECE = 4096
_PADDING = 60_000
_RECORDS = 2000
_UPDATES = 400
# Seconds between two bytes of those who take their time.
_PAUSE = 1.5
# For each connection, of those who come and go.
_VISITS_PER_SECOND = 12.5

_STRANGER = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
_REQUEST = b"GET /page HTTP/1.1\r\nHost: localhost\r\n"


def _hello(padding: int) -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\0\0\2\x13\1\1\0" + (padding + 4).to_bytes(2, "big")
    body += b"\0\x15" + padding.to_bytes(2, "big") + bytes(padding)
    return b"\x01" + len(body).to_bytes(3, "big") + body


def _in_records(message: bytes, size: int) -> bytes:
    pieces = (message[start : start + size] for start in range(0, len(message), size))
    return b"".join(encode_record(ContentType.handshake, piece) for piece in pieces)


# -- before and in a handshake


@contextlib.asynccontextmanager
async def _connected(
    port: int, *, tls: bool = False
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(_HOST, port, ssl=_client() if tls else None)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def _send(writer: asyncio.StreamWriter, data: bytes, rate: float) -> None:
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(len(piece) / rate)


async def _dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        with contextlib.suppress(TimeoutError):
            if not await asyncio.wait_for(reader.read(1), _PAUSE):
                return


def _hellos(record: int) -> Act:
    data = _in_records(_hello(_PADDING), record)

    async def act(port: int, rate: float) -> None:
        async with _connected(port) as (reader, writer):
            await _send(writer, data, rate)
            await reader.read()

    return act


async def _slow_hello(port: int, _: float) -> None:
    async with _connected(port) as (reader, writer):
        await _dribble(reader, writer, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03")


async def _silence(port: int, _: float) -> None:
    async with _connected(port) as (reader, _writer):
        await reader.read()


async def _no_finish(port: int, _: float) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _client().wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    async with _connected(port) as (reader, writer):
        writer.write(outgoing.read())
        while await reader.read(_PIECE):
            pass


async def _strangers(port: int, _: float) -> None:
    async with _connected(port) as (reader, writer):
        writer.write(_STRANGER)
        await reader.read()
    await asyncio.sleep(1 / _VISITS_PER_SECOND)


async def _refused_data(port: int, rate: float) -> None:
    async with _connected(port) as (_, writer):
        await _send(writer, _STRANGER + bytes(2**18), rate)


async def _handshakes(port: int, _: float) -> None:
    async with _connected(port, tls=True):
        pass
    await asyncio.sleep(1 / _VISITS_PER_SECOND)


# -- on a connection


def _sealed(make: Callable[[CipherSuite, Keys], bytes], *, stays: bool = False) -> Act:
    """Return what sends records that no library would."""

    async def act(port: int, rate: float) -> None:
        loop = asyncio.get_running_loop()
        with socket.create_connection((_HOST, port)) as sock:
            engine = Engine(ClientConfig(server_name="localhost", verify=False))
            await loop.run_in_executor(None, handshake.run, sock, engine, 30.0)
            if (outcome := engine.result()) is None:
                return
            sock.settimeout(0)
            data = make(outcome.suite, keys_of(engine))
            for start in range(0, len(data), _PIECE):
                await loop.sock_sendall(sock, data[start : start + _PIECE])
                await asyncio.sleep(_PIECE / rate)
            while await loop.sock_recv(sock, _PIECE) and stays:
                pass

    return act


def _key_updates(suite: CipherSuite, own: Keys) -> bytes:
    keys, secret, seq = own.tx, bytes(own.tx_secret), own.tx.seq
    update = encode_key_update(KeyUpdateRequest.update_not_requested)
    data = b""
    for _ in range(_UPDATES):
        data += seal_record(keys, seq, ContentType.handshake, update)
        secret = bytes(next_secret(suite, secret))
        keys = traffic_keys(suite, secret)
        for seq in range(4):
            data += seal_record(keys, seq, ContentType.application_data, b"x")
        seq = 4
    return data


def _empty_records(_: CipherSuite, own: Keys) -> bytes:
    first = own.tx.seq
    return b"".join(
        seal_record(own.tx, seq, ContentType.application_data, b"")
        for seq in range(first, first + _RECORDS)
    )


def _half_a_message(_: CipherSuite, own: Keys) -> bytes:
    return seal_record(own.tx, own.tx.seq, ContentType.handshake, b"\x18\0\0")


# -- requests


def _requests(data: bytes) -> Act:
    async def act(port: int, rate: float) -> None:
        async with _connected(port, tls=True) as (reader, writer):
            answers = asyncio.create_task(_read_all(reader))
            await _send(writer, data, rate)
            await asyncio.wait([answers], timeout=10)
            answers.cancel()

    return act


async def _read_all(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(2**16):
            pass


async def _slow_request(port: int, _: float) -> None:
    async with _connected(port, tls=True) as (reader, writer):
        await _dribble(reader, writer, _REQUEST + b"X: " + bytes(b"x" * 1000))


async def _unread_answer(port: int, _: float) -> None:
    async with _connected(port, tls=True) as (_reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(_REQUEST.replace(b"page", b"big") + b"\r\n")
        await asyncio.sleep(60)


_RANGES = b",".join(b"%d-%d" % (2 * each, 2 * each) for each in range(1000))
_IN_RANGES = _REQUEST.replace(b"page", b"big") + b"Range: bytes=" + _RANGES + b"\r\n\r\n"


class Attack(NamedTuple):
    """What attackers do.

    Attributes:
        act: what one connection does, and does again; takes port and bytes per second.
        attackers: how many at a time.
        rate: bytes per second of all of them together, where they send much.
    """

    act: Act
    attackers: int
    rate: float = 1e6


ATTACKS = {
    "none": Attack(_silence, 0),
    "silence": Attack(_silence, 1200),
    "ClientHellos by a byte each 1.5 s": Attack(_slow_hello, 1200),
    "ClientHellos in records of a byte, 300 kB/s": Attack(_hellos(1), 2, 3e5),
    "ClientHellos in records of a byte, 1 MB/s": Attack(_hellos(1), 8),
    "ClientHellos of 60 kB, 1 MB/s": Attack(_hellos(2**14), 8),
    "ClientHellos, then nothing": Attack(_no_finish, 1200),
    "strangers who speak HTTP, 100/s": Attack(_strangers, 8),
    "256 KiB behind what is refused, 1 MB/s": Attack(_refused_data, 8),
    "handshakes and no request, 100/s": Attack(_handshakes, 8),
    "KeyUpdates and tiny records, 1 MB/s": Attack(_sealed(_key_updates), 8),
    "empty records, 1 MB/s": Attack(_sealed(_empty_records), 8),
    "half a KeyUpdate, then nothing": Attack(_sealed(_half_a_message, stays=True), 100),
    "requests by a byte each 1.5 s": Attack(_slow_request, 200),
    "requests in one piece, 1 MB/s": Attack(_requests((_REQUEST + b"\r\n") * 1000), 8),
    "header sections without end, 1 MB/s": Attack(_requests(_REQUEST + b"X: x\r\n" * 20_000), 8),
    "a thousand ranges, 1 MB/s": Attack(
        _requests(
            (_REQUEST.replace(b"page", b"big") + b"Range: bytes=" + _RANGES + b"\r\n\r\n") * 8
        ),
        8,
    ),
    "answers of 8 MB that nobody reads": Attack(_unread_answer, 100),
}


async def go_on(attack: Attack, port: int) -> None:
    """Attack a server until cancelled, each attacker with one connection after the other."""

    async def attacker() -> None:
        while True:
            with contextlib.suppress(OSError, TlsifyError):
                await attack.act(port, attack.rate / attack.attackers)
            await asyncio.sleep(0)

    await asyncio.gather(asyncio.Event().wait(), *(attacker() for _ in range(attack.attackers)))
