"""One message and at most one descriptor over a local socket, bounded and close-on-exec."""

from __future__ import annotations

import array
import os
import socket
import struct

from tlsify.errors import AgentError

_ITEM = array.array("i").itemsize
# Room for exactly one descriptor. CMSG_SPACE would leave room for a second one behind it.
_ROOM = socket.CMSG_LEN(_ITEM)
# struct ucred: pid, uid, gid (unix(7) SO_PEERCRED).
_CREDENTIALS = struct.Struct("=3i")


class DescriptorLost(AgentError):
    """This process could not open the descriptor that came: it has too many open files."""


def send(channel: socket.socket, message: bytes | bytearray, descriptor: int | None = None) -> None:
    """Send one message, with one descriptor or none.

    Args:
        channel: AF_UNIX and SOCK_SEQPACKET.
        message: at least one byte: an empty one would look like the end.
        descriptor: stays open here.

    Raises:
        OSError: no receiver, or the message does not fit.
    """
    passed = [] if descriptor is None else [array.array("i", [descriptor])]
    channel.sendmsg(
        [message],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, one) for one in passed],
        socket.MSG_NOSIGNAL,
    )


def receive(channel: socket.socket, limit: int, flags: int = 0) -> tuple[bytearray, int | None]:
    """Receive one message, and the descriptor that came with it.

    Args:
        channel: AF_UNIX and SOCK_SEQPACKET; another reader must not take a message meanwhile.
        limit: most bytes that a message may have.
        flags: of ``recvmsg``; with MSG_PEEK the message stays, and the descriptor is a copy.

    Returns:
        The message, which the caller can overwrite, empty at the end; and the descriptor, which is
        the caller's to close.

    Raises:
        AgentError: as `receive_into`.
        OSError: as ``recvmsg``.
    """
    # Messages are mostly short, and room for the longest would have to be cleared each time.
    size = channel.recv_into(bytearray(1), 1, flags | socket.MSG_PEEK | socket.MSG_TRUNC)
    message = bytearray(min(max(size, 1), limit))
    size, descriptor = receive_into(channel, message, flags)
    del message[size:]
    return message, descriptor


def receive_into(channel: socket.socket, room: bytearray, flags: int = 0) -> tuple[int, int | None]:
    """Receive one message as `receive` does, on a channel that may have several readers.

    Args:
        channel: AF_UNIX and SOCK_SEQPACKET.
        room: for the message; as long as the longest may be.
        flags: as `receive`.

    Returns:
        The message's length, 0 at the end; and the descriptor, which is the caller's to close.

    Raises:
        AgentError: the message is longer, or has more than one descriptor, or its descriptor does
            not fit into this process (`DescriptorLost`); none is left open.
        OSError: as ``recvmsg``.
    """
    size, ancillary, told, _ = channel.recvmsg_into([room], _ROOM, flags | socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % _ITEM])
    if told & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > 1:
        for number in descriptors:
            os.close(number)
        if told & socket.MSG_CTRUNC and not descriptors:
            # The kernel takes as many as there is room for, and stops at the first that it cannot
            # install (net/core/scm.c, scm_detach_fds).
            raise DescriptorLost(
                "the descriptor of a message was lost: this process can open no more of them",
                untouched=False,
                hint="raise its limit on open files (ulimit -n, LimitNOFILE=)",
            )
        is_long = told & socket.MSG_TRUNC
        raise AgentError(
            f"a message with {'too many bytes' if is_long else 'too many descriptors'} came",
            untouched=False,
        )
    return size, descriptors[0] if descriptors else None


def as_socket(descriptor: int) -> socket.socket:
    """Make a socket of a descriptor that was received.

    Raises:
        AgentError: it is none; it was closed.
    """
    try:
        return socket.socket(fileno=descriptor)
    except OSError as exc:
        os.close(descriptor)
        raise AgentError("the descriptor that came is no socket", untouched=False) from exc


def peer_uid(channel: socket.socket) -> int:
    """Return the user of the process at the other end; for a listening socket, the listener's."""
    packed = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(packed)[1]
    return uid
