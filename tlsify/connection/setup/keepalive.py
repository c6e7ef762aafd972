"""Keepalive: have TCP notice a peer that has vanished, on each connection made or accepted."""

from __future__ import annotations

import socket

# After 60 seconds of silence TCP probes the peer, and again every 15 seconds. Four probes without
# an answer end the connection: ETIMEDOUT, in two minutes.
IDLE, INTERVAL, COUNT = 60, 15, 4


def keep_alive(sock: socket.socket) -> None:
    """Enable keepalive: TCP probes a silent peer, and ends the connection without an answer.

    It probes only while no data is outstanding. Outstanding data TCP retransmits for as long as it
    tries (tcp(7) tcp_retries2), so accepted data still arrives after an outage. TCP_USER_TIMEOUT
    would cut that short, and would also end connections whose peers read slowly.

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
