"""Tests of twisted: its web server, unmodified, and an endpoint in words."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import twisted.plugins
from twisted.internet.endpoints import serverFromString

from tests.doubles import backlog, until
from tests.integrations.harness import Served, arrange
from tests.integrations.trials import Server, trials
from tlsify.errors import ConfigError
from tlsify.integrations.twisted import Endpoint

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

test_what_it_shows, test_what_it_endures = trials(Server("Twisted", "twisted_web", "Twisted"))

PLUGIN = """
from tlsify.integrations.twisted import EndpointParser

parser = EndpointParser()
"""


@pytest.mark.interop
def test_places_for_handshakes(tmp_path: Path, authority: trustme.CA) -> None:
    """Where they are taken newcomers wait in the kernel, and descriptors are left for others."""
    task = arrange(tmp_path, authority, "off", descriptors="40")
    with Served("twisted_web", task, authority) as served, ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", task.port)))
        until(lambda: backlog(task.port))
        assert served.ask_anew(served.context(), "/scheme") == b"https"
        assert served.program.errors() == ""


def test_endpoint_in_words(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twisted finds the plugin that the page shows, and makes tlsify's endpoint of a string."""
    task = arrange(tmp_path, authority, "off")
    (tmp_path / "tlsify_endpoint.py").write_text(PLUGIN)
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__, str(tmp_path)])
    words = f"tlsify:8443:certKey={task.cert}:privateKey={task.key}:cafile={task.ca}"
    reactor = object()
    made = serverFromString(reactor, f"{words}:alpn=h2,http/1.1:interface=127.0.0.1")  # type: ignore[no-untyped-call]
    assert isinstance(made, Endpoint)
    given, port, context, interface, backlog = made._arguments
    assert (given, port, interface, backlog) == (reactor, 8443, "127.0.0.1", 50)
    assert context.server_config().alpn == (b"h2", b"http/1.1")
    assert context.server_config().client_trust is not None
    with pytest.raises(ConfigError, match="nowhere"):
        serverFromString(reactor, "tlsify:8443:certKey=/nowhere")  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigError, match="has no colour"):
        serverFromString(reactor, f"{words}:colour=blue")  # type: ignore[no-untyped-call]
