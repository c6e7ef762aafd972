"""Several servers behind haproxy, restarted one after the other while clients ask."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import ExitStack
from functools import partial
from http.client import HTTPException, HTTPSConnection
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import PROJECT
from tests.cli.conftest import Credentials, Pki
from tests.cli.forked import Forked
from tests.cli.harness import CARRIERS, LOOPBACK, PATIENCE
from tests.doubles import Endpoint, until
from tests.interop.programs import TIMEOUT, Program
from tests.ports import free_port
from tests.provision import find

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_CLIENTS = 3


class Asking:
    """Clients that ask again and again, each on a connection that it keeps for some requests."""

    def __init__(self, pki: Pki, port: int) -> None:
        """Begin."""
        self.answers = 0
        self.failures: list[Exception] = []
        self._port = port
        self._context = pki.client_context()
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [Endpoint(self._ask) for _ in range(_CLIENTS)]

    def _ask(self) -> None:
        while not self._is_over.is_set():
            client = HTTPSConnection(LOOPBACK, self._port, context=self._context, timeout=PATIENCE)
            try:
                for _ in range(5):
                    client.request("GET", "/")
                    answer = client.getresponse()
                    assert answer.read() == b"page"
                    with self._lock:
                        self.answers += 1
                    if answer.will_close:
                        break
            except (OSError, HTTPException) as exc:
                self.failures.append(exc)
            finally:
                client.close()

    def end(self) -> None:
        """Let each of them end its last request."""
        self._is_over.set()
        for thread in self._threads:
            thread.result(PATIENCE)


def _is_in_use(port: int) -> bool:
    """Return whether a server has accepted a connection."""
    with socket.create_connection((LOOPBACK, port), PATIENCE) as sock:
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        told = b"".join(iter(partial(sock.recv, 2**16), b""))
    found = re.search(rb"^tlsify_connections_accepted_total (\d+)$", told, re.MULTILINE)
    assert found is not None
    return int(found[1]) > 0


@pytest.fixture
def pki(authority: trustme.CA, tmp_path: Path) -> Pki:
    """A certificate for localhost."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf = authority.issue_cert("localhost", LOOPBACK)
    (tmp_path / "a.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(0o600)
    return Pki(tmp_path / "ca.pem", Credentials(tmp_path / "a.pem", tmp_path / "a.key"), {})


@pytest.mark.parametrize("carrier", CARRIERS)
def test_rolling_restart(pki: Pki, tmp_path: Path, carrier: str) -> None:
    """No request fails: the balancer learns of an end before it comes, and of a beginning."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www/index.html").write_text("page")
    ports = [(free_port(), free_port()) for _ in range(2)]

    def begin(number: int) -> Forked:
        port, metrics = ports[number]
        server = Forked(
            *(carrier, "serve", "--listen", f"{LOOPBACK}:{port}", "--cert", pki.good.certificate),
            *("--key", pki.good.key, "--metrics", f"{LOOPBACK}:{metrics}", "--drain-delay", "0.5"),
            *("--accept-proxy", LOOPBACK, tmp_path / "www"),
        )
        assert "serving" in server.line(), server.said()
        return server

    place = free_port()
    text = (PROJECT / "docs/examples/haproxy.cfg").read_text()
    text = text.replace("bind :443", f"bind {LOOPBACK}:{place}").replace("inter 1s", "inter 50ms")
    text = re.sub(r"(timeout \w+) .*", r"\1 60s", text)  # a busy machine is slow
    text = re.sub(r"^  server .*\n", "", text, flags=re.MULTILINE)
    for number, (port, metrics) in enumerate(ports):
        text += f"  server s{number} {LOOPBACK}:{port} port {metrics}\n"
    (tmp_path / "haproxy.cfg").write_text(text)
    with ExitStack() as stack:
        servers = [stack.enter_context(begin(number)) for number in range(2)]
        balancer = stack.enter_context(
            Program([find("haproxy"), "-db", "-q", "-f", f"{tmp_path}/haproxy.cfg"])
        )
        balancer.await_port(place)
        asking = Asking(pki, place)
        for number, server in enumerate(servers):
            server.ask_to_end()
            assert server.end() == 0, server.said()
            servers[number] = stack.enter_context(begin(number))
            # The next may go only once the balancer has this one up again.
            until(partial(_is_in_use, ports[number][1]), PATIENCE)
        asking.end()
        for server in servers:
            server.ask_to_end()
        for server in servers:
            assert server.end() == 0, server.said()
    assert asking.failures[:1] == []
    assert asking.answers > 0
