"""Servers of others under wrap: pages, files, uploads, crowds, ends, reloads."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.interop.programs import TIMEOUT
from tests.provision import GUEST, SERVERS_AT
from tests.wrap.servers.backend import Backend
from tests.wrap.servers.harness import Served
from tests.wrap.servers.table import SERVERS
from tests.wrap.servers.visits import Clients
from tests.wrap.wrapped import KERNEL, RELAY, needs_seccomp
from tlsify.ktls.diag import tls_stat
from tlsify.ktls.probe import capabilities

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Pki
    from tlsify.credentials.anchors import TrustAnchors

pytestmark = [needs_seccomp, pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

# What each server is put through where all of them are there, emulated or not; else little does.
_IS_FULL = bool(SERVERS_AT)
_MEGABYTES, _COUNT = {(True, True): (32, 200), (True, False): (4, 40)}.get(
    (_IS_FULL, GUEST in {"uml", ""}), (1, 4)
)
_EACH_KERNEL = "nginx, deferred"
# One that waits for events, and one that moves its connections to other numbers.
_ON_THE_HOST, _OCCASIONAL = {"nginx, deferred", "busybox httpd"}, pytest.mark.occasional


def _all() -> Iterator[object]:
    for name, server in SERVERS.items():
        yield pytest.param(
            name, RELAY, id=f"{name}-relay", marks=() if name in _ON_THE_HOST else _OCCASIONAL
        )
        marks = [pytest.mark.ktls]
        if not server.is_quick:
            marks.append(pytest.mark.full_run)
        if name == _EACH_KERNEL:
            marks.append(pytest.mark.each_kernel)
        yield pytest.param(name, KERNEL, id=f"{name}-kernel", marks=marks)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="tlsify-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@pytest.mark.parametrize(("name", "carrier"), [*_all()])
def test_server(pki: Pki, trust: TrustAnchors, place: Path, name: str, carrier: str) -> None:
    """Its clients get all of it, and it hears of no record that is not data."""
    server, before = SERVERS[name], tls_stat().get("TlsTxSw", 0)
    is_kernel = carrier == KERNEL
    backend = Backend(place) if server.is_proxy else nullcontext()
    with backend, Served(pki, place, server, _MEGABYTES, carrier) as served:
        clients = Clients(served, pki, trust)
        clients.prepare()
        if server.keeps_alive:
            clients.keep_alive()
        calls = megabytes = 0
        if server.talk != "echo":
            megabytes = _MEGABYTES
            clients.upload(megabytes * 2**18)
            clients.fetch("file")
            calls = served.sendfile_calls(lambda: clients.fetch("file")) if _IS_FULL else 0
        clients.come(_COUNT, served.reload if server.reload else None)
        clients.cut()
        is_answered = clients.half_close()
        has_followed = clients.update_key()
        clients.fetch("page")
        served.stop()
        served.check_log()
        assert is_answered == server.answers_half
        assert has_followed == (capabilities().rekey or not is_kernel)
        assert tls_stat().get("TlsTxSw", 0) - before >= (clients.made if is_kernel else 0)
        shown = {"half": is_answered, "key_update": has_followed, "sendfile": calls}
        shown |= {"connections": clients.made, "reload": bool(server.reload)}
        served.keep(name, carrier, megabytes=megabytes, **shown)
