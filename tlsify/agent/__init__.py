"""A private process that does handshakes for others, and has the keys that they need not have."""

from tlsify.agent.client import Place, accept, connect
from tlsify.agent.remote_relay import RemoteRelay
from tlsify.agent.wire import ClientRequest, ServerRequest

__all__ = ["ClientRequest", "Place", "RemoteRelay", "ServerRequest", "accept", "connect"]
