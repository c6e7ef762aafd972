"""Fixtures of asyncio's part: loops of both kinds, and Python's own TLS as a client."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

import tlsify.connection.commit  # noqa: F401 - what it opens is no leak
from tests.doubles import check_descriptors, descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    import trustme


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    """Python's own TLS, as a client with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    authority.issue_cert("client.example", common_name="client.example").configure_cert(context)
    return context


Reports = list[dict[str, Any]]


@pytest.fixture(params=["asyncio", "uvloop"])
def reporting(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[Coroutine[Any, Any, object]], Reports]]:
    """Run a coroutine on a loop, and give what that was told of bugs; nothing may stay open."""
    uvloop.new_event_loop().close()  # the first one leaves the process's own pipe for signals
    before = descriptors()

    def run(work: Coroutine[Any, Any, object]) -> Reports:
        reports: Reports = []
        factory = asyncio.SelectorEventLoop if request.param == "asyncio" else uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(lambda _, report: reports.append(report))
            runner.run(work)
        return reports

    yield run
    check_descriptors(before)


@pytest.fixture
def run(
    reporting: Callable[[Coroutine[Any, Any, object]], Reports],
) -> Callable[[Coroutine[Any, Any, object]], None]:
    """Run a coroutine on a loop, to which nobody reports a bug."""

    def run(work: Coroutine[Any, Any, object]) -> None:
        assert not reporting(work)

    return run
