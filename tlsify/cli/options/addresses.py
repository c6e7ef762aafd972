"""Addresses among the words of a verb: operands in one word or two, --listen, paths."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, TypeVar

from tlsify.addresses import Address, is_whole, overlap
from tlsify.errors import ConfigError, UsageError
from tlsify.names import is_ip_address

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def address(host: str, port: str | None, parse: Callable[[str], Address]) -> Address:
    """Parse an address in one word, or in two, as nc and tcpserver have it.

    Raises:
        UsageError: it is none.
    """
    if port is not None and is_whole(host):
        raise UsageError(
            f'"{port}" is one word too many', hint=f'put "--" in front of a program: -- {port}'
        )
    if port is not None and is_whole(port):
        raise UsageError(
            f'"{host}" in front of {port} is one word too many',
            hint="write HOST:PORT alone; if it is the value of an option, --OPTION=VALUE",
        )
    is_bare = ":" in host and is_ip_address(host)
    text = host if port is None else f"[{host}]:{port}" if is_bare else f"{host}:{port}"
    return reading(parse, text)


def reading(parse: Callable[[str], T], word: str) -> T:
    """Parse an operand.

    Raises:
        UsageError: it cannot be.
    """
    try:
        return parse(word)
    except ConfigError as exc:
        raise UsageError(str(exc), hint=exc.hint) from exc


def add_listen(parser: argparse.ArgumentParser | argparse._ArgumentGroup, otherwise: str) -> None:
    """Declare --listen; ``otherwise`` says what there is without any."""
    parser.add_argument(
        "--listen",
        action="append",
        type=Address.to_listen,
        default=[],
        metavar="HOST:PORT",
        help="address to listen on: HOST:PORT, [ADDR]:PORT, :PORT for every interface, or "
        f"unix:PATH; may be repeated; default: {otherwise}",
    )


def check_apart(listeners: Sequence[tuple[str, Address]], *, reuse_port: bool = False) -> None:
    """Check that no listener is in the way of another; one that is named twice is not.

    Args:
        listeners: addresses, each with the option that names it.
        reuse_port: whether those of the same option may share a port.

    Raises:
        UsageError: two of them cannot both be listened on.
    """
    for one, other in combinations(dict.fromkeys(listeners), 2):
        if overlap(one[1], other[1]) and not (reuse_port and one[0] == other[0]):
            raise UsageError(
                f"{one[0]} {one[1]} and {other[0]} {other[1]} are in each other's way",
                hint="choose another port for one of them",
            )


def local_path(text: str) -> str:
    """Return the path of a local socket, which may be spelled ``unix:PATH``."""
    return text.removeprefix("unix:")
