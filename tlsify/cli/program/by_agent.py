"""Request the handshake from an agent, and do it here if there is none."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from tlsify.agent import client
from tlsify.agent.wire import ClientRequest, ServerRequest
from tlsify.cli.options import common as shared
from tlsify.cli.options.client import choose
from tlsify.connection.setup.dialing import closed_on_error
from tlsify.errors import AgentError, UsageError

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from tlsify.config import KtlsPolicy
    from tlsify.connection.handoff import Handoff

_log = logging.getLogger("tlsify")


def client_request(
    arguments: argparse.Namespace, host: str | None, policy: KtlsPolicy
) -> ClientRequest:
    """Return the agent request for the settings of `client.configure`.

    Raises:
        ConfigError: an agent cannot do that.
    """
    name, identities = choose(arguments, host)
    return ClientRequest(
        server_name=name,
        identities=tuple(map(str, identities)),
        verify=not arguments.no_verify,
        trust=_path(arguments.ca or shared.trust_from_environment()),
        session_store=_path(arguments.session_store),
        certificate=_path(arguments.cert),
        key=_path(arguments.key),
        pins=tuple(pin for pins in arguments.pin for pin in pins),
        **_common(arguments, policy),
    )


def server_request(arguments: argparse.Namespace, policy: KtlsPolicy) -> ServerRequest:
    """Return the agent request for the settings of `server.configure`, with the agent's key.

    Raises:
        ConfigError: an agent cannot do that.
    """
    for flag in ("key", "cert_dir", "ocsp", "resumption"):
        if getattr(arguments, flag):
            raise UsageError(
                f"--{flag.replace('_', '-')} is a setting of the agent",
                hint="start the agent with it",
            )
    if len(arguments.cert) > 1:
        raise UsageError("an agent shows one certificate", hint="give one --cert, or no --agent")
    return ServerRequest(
        key_pair=str(arguments.cert[0]) if arguments.cert else None,
        client_trust=_path(arguments.client_ca),
        client_required=arguments.client_cert == "require",
        client_identities=tuple(map(str, arguments.client_ref_id)),
        **_common(arguments, policy),
    )


def _common(arguments: argparse.Namespace, policy: KtlsPolicy) -> dict[str, Any]:
    if arguments.key_fd is not None:
        raise UsageError("--key-fd cannot be used with --agent", hint="leave one of them out")
    return {
        "alpn": tuple(arguments.alpn),
        "versions": tuple(sorted(shared.versions(arguments))),
        "aeads": tuple(aead.value for aead in shared.aeads(arguments)),
        "groups": arguments.groups,
        "timeout": arguments.timeout,
        "crls": _path(arguments.crl),
        "key_log": _path(shared.key_log(arguments)),
        "ktls": policy.mode.value,
        "rekey_required": policy.rekey_required,
        "any_kernel": policy.any_kernel,
    }


def _path(named: str | Path | None) -> str | None:
    """Spell a path so that the agent finds it, too."""
    if named is None or named == "system":
        return None
    return str(shared.path(str(named)).absolute())


def hand_over(
    place: str,
    sock: socket.socket,
    request: ClientRequest | ServerRequest,
    alone: Callable[[socket.socket], Handoff],
    again: Callable[[], socket.socket] | None,
) -> Handoff:
    """Shake hands by way of an agent.

    Args:
        place: path of the agent's socket, or the number of an inherited one.
        sock: connected.
        request: what is asked of it.
        alone: does it here, if the agent has not begun.
        again: makes another connection, if the agent died in the midst of it; None if it cannot.

    Raises:
        AgentError: it died, and there is no other connection to be had.
        TlsifyError: as `establish.connect`.
        OSError: likewise.
    """
    where = int(place) if place.isdecimal() else os.path.abspath(place)
    try:
        if isinstance(request, ClientRequest):
            return client.connect(where, sock, request)
        return client.accept(where, sock, request)
    except AgentError as exc:
        if not exc.untouched and again is None:
            raise
        _log.warning("agent unavailable, doing the handshake locally: %s", exc)
        own = sock if exc.untouched or again is None else again()
    with closed_on_error(own):  # what it takes to do it here may be missing
        return alone(own)
