"""Keepalive: have TCP notice a peer that has vanished, on each connection made or accepted."""

from __future__ import annotations

import socket

# Of a peer that has said nothing for so many seconds TCP asks whether it is there, and once more
# after so many others. As many questions without an answer are the end: ETIMEDOUT, in two minutes.
IDLE, INTERVAL, COUNT = 60, 15, 4


def keep_alive(sock: socket.socket) -> None:
    """Enable keepalive: TCP probes a silent peer, and ends the connection without an answer.

    It asks where nothing is under way. What is under way TCP sends again and again, for as long as
    it tries (tcp(7) tcp_retries2), since what a send has accepted goes out when an outage ends.
    TCP_USER_TIMEOUT would cut that short. It would end connections whose peers read slowly, too.

    Args:
        sock: any. A socket that already has keepalive, is not TCP's, or has ended, stays unchanged.
    """
    try:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, COUNT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:
        return


def is_networks(level: int, option: int) -> bool:
    """Return whether an option is one of the TCP connection, wherever that is."""
    return level == socket.IPPROTO_TCP or (level, option) == (
        socket.SOL_SOCKET,
        socket.SO_KEEPALIVE,
    )
