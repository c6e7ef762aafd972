"""Options of `forward` for the choice among backends, and for checks of their health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlsify.cli.options import numbers
from tlsify.errors import ConfigError
from tlsify.serving.backend.health import Checks
from tlsify.serving.backend.order import Balance

if TYPE_CHECKING:
    import argparse

_CONNECT = "connect"
_DEFAULT = Checks(None)
_LEGAL = frozenset(map(chr, range(0x21, 0x7F)))


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare them."""
    group.add_argument(
        "--balance",
        choices=[each.value for each in Balance],
        default=Balance.FIRST.value,
        help="backend that is tried first: the first that is named (default), each in turn, or the "
        "one with the fewest connections; in each worker by itself",
    )
    group.add_argument(
        "--health-check",
        type=_check,
        metavar="connect|/PATH",
        help="check in each worker, again and again, whether backends take connections, or answer "
        "GET /PATH with a status from 200 to 399; default: clients find out",
    )
    group.add_argument(
        "--health-interval",
        type=numbers.seconds,
        default=_DEFAULT.interval,
        metavar="S",
        help=f"seconds between two checks of a backend; default {_DEFAULT.interval:g}",
    )
    group.add_argument(
        "--health-rise",
        type=numbers.count,
        default=_DEFAULT.rise,
        metavar="N",
        help=f"checks in a row that have a backend up again; default {_DEFAULT.rise}",
    )
    group.add_argument(
        "--health-fall",
        type=numbers.count,
        default=_DEFAULT.fall,
        metavar="N",
        help=f"failed checks in a row that have a backend down; default {_DEFAULT.fall}",
    )


def misuse(arguments: argparse.Namespace) -> str | None:
    """Return the error in how they go with others."""
    if arguments.health_check is None:
        said = (arguments.health_interval, arguments.health_rise, arguments.health_fall)
        if said != (_DEFAULT.interval, _DEFAULT.rise, _DEFAULT.fall):
            return "--health-interval, --health-rise and --health-fall need --health-check"
    elif arguments.pass_fd is not None:
        return "--health-check and --pass-fd exclude each other"
    return None


def checks(arguments: argparse.Namespace) -> Checks | None:
    """Return what to check; None if nothing is."""
    if arguments.health_check is None:
        return None
    return Checks(
        path=None if arguments.health_check == _CONNECT else arguments.health_check,
        interval=arguments.health_interval,
        rise=arguments.health_rise,
        fall=arguments.health_fall,
        seconds=arguments.connect_timeout,
    )


def _check(text: str) -> str:
    """Parse what to check, for argparse."""
    if text == _CONNECT or (text.startswith("/") and _LEGAL.issuperset(text)):
        return text
    raise ConfigError(f'"{text}" is no health check', hint=f"write {_CONNECT}, or a /PATH")
