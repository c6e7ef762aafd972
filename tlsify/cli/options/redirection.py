"""Options of servers for clients that speak plain HTTP: redirections to HTTPS."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from tlsify.addresses import Address, parse_port
from tlsify.cli.parser import Attached
from tlsify.errors import UsageError
from tlsify.http import plain
from tlsify.logs.messages import announce
from tlsify.serving.plain_http import PlainHttp
from tlsify.system import listening

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable, Sequence

    from tlsify.serving.reexec import Inherited

_HTTPS = 443


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare them."""
    group.add_argument(
        "--redirect-http",
        action=Attached,
        const="",
        type=_place,
        metavar="HOST:PORT",
        help="address for plain HTTP, whose clients are redirected to HTTPS, as are those that "
        "speak it on a port for TLS; without HOST:PORT only the latter, which get status 400 "
        "otherwise",
    )
    group.add_argument(
        "--redirect-port",
        type=parse_port,
        metavar="PORT",
        help="port of HTTPS in these redirections; default: that of the first address with TLS",
    )


def _place(text: str) -> Address | Literal[True]:
    """Parse the value of --redirect-http, which may be missing, for argparse."""
    return Address.to_listen(text) if text else True


def check(arguments: argparse.Namespace) -> None:
    """Check that the options go together.

    Raises:
        UsageError: they do not.
    """
    is_elsewhere = isinstance(arguments.redirect_http, Address)
    if arguments.redirect_port is not None and not is_elsewhere:
        raise UsageError(
            "--redirect-port is for redirections from another port",
            hint="name that one: --redirect-http=HOST:PORT",
        )


def stranger(arguments: argparse.Namespace) -> Callable[[bytes], bytes]:
    """Return what answers clients that speak plain HTTP on a port for TLS."""
    return partial(plain.answer, redirect=bool(arguments.redirect_http))


def listen(
    arguments: argparse.Namespace, estate: Inherited, listeners: Sequence[socket.socket]
) -> PlainHttp:
    """Listen for plain HTTP, if that is wanted.

    Args:
        arguments: parsed.
        estate: of the server.
        listeners: for TLS.

    Raises:
        UsageError: the options do not go together.
        NetworkError: the address cannot be listened on.
    """
    check(arguments)
    place = arguments.redirect_http
    if not isinstance(place, Address):
        return PlainHttp()
    names = [sock.getsockname() for sock in listeners]
    ports = [name[1] for name in names if isinstance(name, tuple)]
    port = arguments.redirect_port or (ports[0] if ports else _HTTPS)
    return PlainHttp(estate.listen("plain HTTP", place, deferred=True), port)


def tell(plan: PlainHttp) -> None:
    """Announce each address for plain HTTP."""
    for place in dict.fromkeys(map(listening.spell, plan.listeners)):
        announce(f"redirecting http://{place}/ to HTTPS on port {plan.port}")
