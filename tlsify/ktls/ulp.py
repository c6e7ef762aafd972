"""The only setsockopt/sendmsg/recvmsg at SOL_TLS in the project."""

from __future__ import annotations

import errno
import socket
import sys
from typing import NamedTuple

from tlsify.codepoints import Aead, AlertDescription, CipherSuite, ContentType
from tlsify.errors import (
    SHORTAGES,
    ConfigError,
    KtlsUnavailable,
    PeerMisbehaved,
    ReasonCode,
    RekeyUnsupported,
    TlsifyError,
    errno_name,
)
from tlsify.keys import Direction, TrafficKeys, wipe
from tlsify.ktls import uapi
from tlsify.ktls.crypto_info import HEADER, LAYOUT, pack, unpack_seq

_OPTION = {Direction.TX: uapi.TLS_TX, Direction.RX: uapi.TLS_RX}
_RECORD_TYPE_SPACE = socket.CMSG_SPACE(1)

LOAD_MODULE = 'as root, run "modprobe tls" and write "tls" to /etc/modules-load.d/tls.conf'
# kernel.md 1.2: errno of TCP_ULP -> (reason code, sentence, hint)
_ATTACH_ERRORS = {
    errno.ENOENT: (
        ReasonCode.NO_TLS_ULP,
        "this kernel has no tls ULP, or this user may not load its module",
        LOAD_MODULE,
    ),
    errno.ENOTCONN: (ReasonCode.NOT_ESTABLISHED, "the socket is not in state ESTABLISHED", None),
    errno.ENOPROTOOPT: (
        ReasonCode.MPTCP,
        "a Multipath TCP socket cannot have another ULP",
        "create the socket with IPPROTO_TCP",
    ),
    errno.EOPNOTSUPP: (ReasonCode.NOT_TCP, "not a TCP socket", None),
    errno.EINVAL: (ReasonCode.NOT_AVAILABLE, "the kernel refuses the tls ULP on this socket", None),
    errno.ENOMEM: (ReasonCode.NO_MEMORY, "the kernel has no memory for the ULP", None),
    errno.EPERM: (
        ReasonCode.FORBIDDEN,
        "a security policy forbids the tls ULP",
        "allow setsockopt at SOL_TCP and SOL_TLS in the sandbox's profile",
    ),
}
# kernel.md 3.5: errno of recvmsg -> what the peer did and how to answer (as OpenSSL maps them)
_RECEIVE_ERRORS = {
    errno.EBADMSG: ("a record does not authenticate", AlertDescription.bad_record_mac),
    errno.EMSGSIZE: ("a record is too long", AlertDescription.record_overflow),
    errno.EINVAL: ("a record header is not TLS", AlertDescription.protocol_version),
}


class Record(NamedTuple):
    """Result of one receive.

    Attributes:
        content_type: any byte the peer chose.
        payload: plaintext; for a control record, of that record alone.
        complete: False if the rest of this control record comes with the next receive.
    """

    content_type: int
    payload: bytes
    complete: bool


def ulp_name(sock: socket.socket) -> str:
    """Name the socket's ULP ("tls", "mptcp", ...); empty if it has none."""
    try:
        name = sock.getsockopt(uapi.SOL_TCP, uapi.TCP_ULP, uapi.TCP_ULP_NAME_MAX)
    except OSError:
        return ""
    return name.rstrip(b"\0").decode("ascii", "replace")


def attach(sock: socket.socket) -> None:
    """Attach the tls ULP; without keys the data path stays plain TCP.

    Args:
        sock: TCP socket in state ESTABLISHED.

    Raises:
        KtlsUnavailable: the kernel cannot; its ``code`` says why.
        ConfigError: the socket already has a ULP, and perhaps keys of other code.

    Source: net/ipv4/tcp_ulp.c.
    """
    try:
        sock.setsockopt(uapi.SOL_TCP, uapi.TCP_ULP, b"tls")
    except OSError as exc:
        number = exc.errno or 0
        present = ulp_name(sock) if number == errno.EEXIST else ""
        if present == "mptcp":
            number = errno.ENOPROTOOPT
        elif present:
            raise ConfigError(
                f'TCP_ULP: EEXIST: the socket already has the ULP "{present}"',
                hint="pass a plain TCP socket, before any TLS on it",
            ) from exc
        code, sentence, hint = _ATTACH_ERRORS.get(
            number, (ReasonCode.NOT_AVAILABLE, "the kernel refuses the tls ULP", None)
        )
        raise KtlsUnavailable("TCP_ULP", number, sentence, code=code, hint=hint) from exc


def install(sock: socket.socket, direction: Direction, keys: TrafficKeys) -> None:
    """Install one direction's record protection in the kernel.

    Args:
        sock: connected TCP socket with the ULP attached (`attach`).
        direction: which one.
        keys: ``seq`` is the next record's number.

    Raises:
        KtlsUnavailable: this kernel lacks the version or cipher.
        RekeyUnsupported: EBUSY; the direction is keyed and cannot be keyed again.

    Source: linux/tls.h struct tls12_crypto_info_*; net/tls/tls_main.c do_tls_setsockopt_conf.
    """
    packed = pack(keys)
    try:
        sock.setsockopt(uapi.SOL_TLS, _OPTION[direction], packed)
    except OSError as exc:
        step, number = f"TLS_{direction.value}", exc.errno or 0
        if number == errno.EBUSY:
            raise RekeyUnsupported(
                step, number, "already keyed, and this kernel cannot install a second key"
            ) from exc
        if number == errno.ENOMEM:
            raise KtlsUnavailable(
                step,
                number,
                "the kernel has no memory for the key",
                code=ReasonCode.NO_MEMORY,
                hint=SHORTAGES[number],
            ) from exc
        raise KtlsUnavailable(
            step,
            number,
            f"this kernel does not take {keys.suite.name}",
            code=ReasonCode.SUITE_UNSUPPORTED,
            hint="see which ones it takes with tlsify check",
        ) from exc
    finally:
        wipe(packed)


def next_seq(sock: socket.socket, direction: Direction, aead: Aead) -> int:
    """Read back the sequence number of the next record of a keyed direction.

    Raises:
        OSError: the direction has no key (EBUSY), or another cipher's (EINVAL).
    """
    packed = sock.getsockopt(uapi.SOL_TLS, _OPTION[direction], LAYOUT[aead].size)
    try:
        return unpack_seq(packed)
    finally:
        wipe(packed)  # the key is in it


def reinstall(sock: socket.socket, direction: Direction, aead: Aead) -> None:
    """Install a direction's current key once more, which ends the wait for another.

    Raises:
        OSError: the kernel cannot rekey (EBUSY), or the direction has no key.

    Source: net/tls/tls_main.c do_tls_setsockopt_conf.
    """
    option = _OPTION[direction]
    packed = sock.getsockopt(uapi.SOL_TLS, option, LAYOUT[aead].size)
    try:
        sock.setsockopt(uapi.SOL_TLS, option, packed)
    finally:
        wipe(packed)


def is_keyed(sock: socket.socket, direction: Direction, suite: CipherSuite | None = None) -> bool:
    """Return whether a direction has a key, of a suite's version and cipher if one is named.

    False for any socket without the ULP.
    """
    try:
        found = HEADER.unpack(sock.getsockopt(uapi.SOL_TLS, _OPTION[direction], HEADER.size))
    except OSError:
        return False
    return suite is None or found == (suite.version, LAYOUT[suite.aead].cipher_type)


def can_limit_payload(sock: socket.socket) -> bool:
    """Return whether this kernel has TLS_TX_MAX_PAYLOAD_LEN (6.19)."""
    try:
        sock.getsockopt(uapi.SOL_TLS, uapi.TLS_TX_MAX_PAYLOAD_LEN, 2)
    except OSError:
        return False
    return True


def limit_payload(sock: socket.socket, limit: int) -> None:
    """Limit the records that the kernel sends to ``limit`` bytes of plaintext.

    Raises:
        KtlsUnavailable: this kernel lacks the option.
    """
    try:
        sock.setsockopt(uapi.SOL_TLS, uapi.TLS_TX_MAX_PAYLOAD_LEN, limit.to_bytes(2, sys.byteorder))
    except OSError as exc:
        raise KtlsUnavailable(
            "TLS_TX_MAX_PAYLOAD_LEN",
            exc.errno or 0,
            f"this kernel cannot keep records below {limit} bytes, as the peer asks",
            code=ReasonCode.MAX_FRAGMENT_LENGTH,
        ) from exc


def send_record(
    sock: socket.socket, content_type: ContentType, payload: bytes, flags: int = 0
) -> None:
    """Send one control record; data still open in the kernel goes out before it.

    Args:
        sock: keyed for TX.
        content_type: of the record.
        payload: 1 to 2**14 bytes.
        flags: as for ``sendmsg``.

    Raises:
        OSError: as ``sendmsg``; BlockingIOError leaves nothing sent.
    """
    control = [(uapi.SOL_TLS, uapi.TLS_SET_RECORD_TYPE, bytes([content_type]))]
    sock.sendmsg([payload], control, flags)


def recv_record(sock: socket.socket, size: int, flags: int = 0) -> Record | None:
    """Receive data, or one control record.

    Args:
        sock: keyed for RX.
        size: most bytes to take; what is left of a record comes with the next call.
        flags: as for ``recvmsg``.

    Returns:
        None at the end of the TCP stream.

    Raises:
        PeerMisbehaved: EBADMSG, EMSGSIZE or EINVAL; ``alert`` says how to answer.
        TlsifyError: EKEYEXPIRED; a KeyUpdate was read and not acted on.
        OSError: anything else, as ``recvmsg``; BlockingIOError if nothing is there.
    """
    try:
        payload, control, msg_flags, _ = sock.recvmsg(size, _RECORD_TYPE_SPACE, flags)
    except OSError as exc:
        _refuse_record(sock, exc)
        raise
    content_type = record_type(control)
    if content_type is None:
        return None
    return Record(content_type, payload, bool(msg_flags & socket.MSG_EOR))


def recv_record_into(
    sock: socket.socket, buffer: memoryview, flags: int = 0
) -> tuple[int | None, int, bool]:
    """Receive as `recv_record`, into the caller's buffer.

    Returns:
        Content type (None at the end of the stream), bytes written, whether it is complete.
    """
    try:
        count, control, msg_flags, _ = sock.recvmsg_into([buffer], _RECORD_TYPE_SPACE, flags)
    except OSError as exc:
        _refuse_record(sock, exc)
        raise
    return record_type(control), count, bool(msg_flags & socket.MSG_EOR)


def record_type(control: list[tuple[int, int, bytes]]) -> int | None:
    """Find the content type among ancillary data; None at the end of the stream."""
    for level, kind, data in control:
        if level == uapi.SOL_TLS and kind == uapi.TLS_GET_RECORD_TYPE and data:
            return data[0]
    return None


def bad_record(number: int | None) -> PeerMisbehaved | None:
    """Return what the peer did, by the errno of a call that was not a receive, or None."""
    if number not in _RECEIVE_ERRORS or number == errno.EINVAL:  # which says too many other things
        return None
    what, alert = _RECEIVE_ERRORS[number]
    return PeerMisbehaved(f"recvmsg: {errno_name(number)}: {what}", alert=alert)


def bad_header() -> PeerMisbehaved:
    """Return what the peer did, by EINVAL of a call that has no other reason for it."""
    what, alert = _RECEIVE_ERRORS[errno.EINVAL]
    return PeerMisbehaved(f"recvmsg: EINVAL: {what}", alert=alert)


def _refuse_record(sock: socket.socket, exc: OSError) -> None:
    """Raise what an error of receiving means; return if it is the caller's to raise.

    Raised here, its traceback would have this frame, which has the error: a ring that keeps the
    caller's buffer.
    """
    number = exc.errno or 0
    if number in _RECEIVE_ERRORS:
        # Until it is read, the pending error makes the alert's sendmsg fail too (net/tls/tls_sw.c
        # tls_err_abort).
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        what, alert = _RECEIVE_ERRORS[number]
        raise PeerMisbehaved(f"recvmsg: {errno_name(number)}: {what}", alert=alert) from exc
    if number == uapi.EKEYEXPIRED:
        raise TlsifyError("recvmsg: EKEYEXPIRED: a KeyUpdate was not acted on") from exc
