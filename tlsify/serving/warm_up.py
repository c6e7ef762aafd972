"""A first handshake in memory, so that workers share its modules and no client waits."""

from __future__ import annotations

import tlsify.connection.commit  # noqa: F401 - what follows a handshake
from tlsify.config import ClientConfig, ServerConfig
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.self_signed import make_key_pair
from tlsify.ktls.probe import capabilities
from tlsify.names import ReferenceIdentifier
from tlsify.tls.engine import Engine
from tlsify.tls.record import split_records

_NAME = "localhost"
# More than OpenSSL and we allocate in one piece for records.
_PIECE = 2**20


def rehearse() -> None:
    """Probe the kernel and do a handshake in memory, so that all modules are loaded."""
    capabilities()
    _keep_memory()
    pair = make_key_pair([_NAME])
    identities = (ReferenceIdentifier.for_host(_NAME),)
    client = Engine(ClientConfig(identities=identities, trust=TrustAnchors(pair.chain)))
    server = Engine(ServerConfig(key_pair=pair))
    while client.result() is None or server.result() is None:
        for source, sink in ((client, server), (server, client)):
            for record in split_records(source.output()):
                if sink.result() is None:
                    sink.feed(record)
    for engine in (client, server):
        engine.release()
    # A codec is loaded for the first address, be it numeric, from files that --user may not read.
    _NAME.encode("idna")


def _keep_memory() -> None:
    """Make malloc keep memory of the size of pieces, rather than return it after each record.

    glibc does so once a piece of this size has come and gone (mallopt(3), M_MMAP_THRESHOLD).
    Otherwise a relay that moves much spends up to a quarter of its time on the same pages.
    """
    bytes(_PIECE)
