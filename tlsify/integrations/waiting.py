"""waiting: for servers with threads that wait by a selector for a connection's next request."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from tlsify.connection.handoff import Offload

if TYPE_CHECKING:
    from tlsify.sslcontext.socket import SSLSocket


def is_ready(sock: SSLSocket) -> bool:
    """Serve control records behind the last request; return whether data or an end is next.

    A KeyUpdate that the kernel decrypted along with the request keeps its selector silent. A
    receive that may wait does not look for one: it would be late for a server that only receives.
    """
    if sock.offload is not Offload.KERNEL:
        return False
    timeout = sock.gettimeout()
    sock.settimeout(0)  # MSG_DONTWAIT alone waits as long as the timeout, as with Python's sockets
    try:
        sock.recv(1, socket.MSG_PEEK)
    except ssl.SSLWantReadError:
        return False
    except OSError:  # the next receive finds it again
        return True
    finally:
        sock.settimeout(timeout)
    return True
