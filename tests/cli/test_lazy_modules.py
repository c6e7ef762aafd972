"""Tests of late loading, and of what a client has loaded when it says hello."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import LOOPBACK, Server, over_tls
from tlsify.cli import lazy_modules

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from tests.cli.conftest import Pki

# -- one module


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that tells when it is loaded, takes its time for it, and was found only."""
    (tmp_path / "slow_one.py").write_text(
        "import slow_one, time\n"
        "early = getattr(slow_one, 'value', 'not yet')\n"
        "loads = []\n"
        "time.sleep(0.05)\n"
        "loads.append(True)\n"
        "value = 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow_one", raising=False)
    lazy_modules.load_late("slow_one")
    return sys.modules["slow_one"]


def test_use_loads(found: ModuleType) -> None:
    """An import alone does not; what then is missing is missing as ever."""
    assert __import__("slow_one") is found
    assert "value" not in vars(found)
    assert not hasattr(found, "__path__")
    assert "value" not in vars(found)
    assert found.value == 1
    assert found.early == "not yet"  # its own code found nothing, and did not begin anew
    assert type(found) is type(sys)
    with pytest.raises(AttributeError, match="nothing"):
        _ = found.nothing


def test_threads_wait(found: ModuleType) -> None:
    """Nobody sees half a module, and it is loaded once."""
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.append(found.value)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 4
    assert found.loads == [True]


def test_what_is_loaded_stays(found: ModuleType) -> None:
    """And what is not there is for who uses it to miss."""
    lazy_modules.load_late("slow_one")
    assert sys.modules["slow_one"] is found
    lazy_modules.load_late("no_such_module")
    assert "no_such_module" not in sys.modules


def test_loading_all(found: ModuleType) -> None:
    """Who gives up rights has it all."""
    lazy_modules.load_now()
    assert vars(found)["value"] == 1


def test_stand_in() -> None:
    """A part that is known is had without the module, and is the module's own once it is loaded."""
    program = (
        "from tlsify.cli.lazy_modules import load_late; load_late('colorsys', ONE_SIXTH='known');"
        "from colorsys import ONE_SIXTH; import colorsys;"
        "print(ONE_SIXTH, 'hls_to_rgb' in vars(colorsys));"
        "print(colorsys.hls_to_rgb(0, 0, 0), colorsys.ONE_SIXTH == 1 / 6)"
    )
    assert _run(program) == "known False\n(0, 0, 0) True\n"


def test_part_of_a_package() -> None:
    """It is found by way of its package, too."""
    program = (
        "import sys; from tlsify.cli.lazy_modules import load_late; load_late('xml.dom');"
        "from xml import dom; before = 'Node' in vars(dom); dom.Node; print(before)"
    )
    assert _run(program) == "False\n"


# -- all of them


# Ends the command where its first message is about to be sent, and prints what it has loaded.
_TO_THE_HELLO = """
import os, socket, sys
from tlsify.cli import lazy_modules, main

class Socket(socket.socket):
    def sendall(self, *_):
        late, found = lazy_modules._Late, sys.modules.items()
        print(*(name for name, module in found if not isinstance(module, late)), flush=True)
        raise SystemExit
    sendmsg = sendall

real = os.write
os.write = lambda number, data: (Socket.sendall if data[:1] == b"\\x16" else real)(number, data)
socket.socket = Socket
main()
"""
# The same, where it has ended.
_TO_THE_END = """
import sys
from tlsify.cli import lazy_modules, main

assert main() == 0
print(*(name for name, it in sys.modules.items() if not isinstance(it, lazy_modules._Late)))
"""
# What takes its time to load, and a client does without up to its hello.
_HEAVY = {
    *("asyncio", "calendar", "cryptography.x509", "datetime", "encodings.idna"),
    *("hashlib", "importlib.metadata", "ipaddress", "json", "pathlib", "psutil", "pyroute2"),
    *("random", "service_identity", "shutil", "subprocess", "textwrap", "tokenize", "traceback"),
    *(
        "urllib.parse",
        "tlsify.ktls.probe",
        "tlsify.connection.relay.pump",
        "tlsify.connection.stream",
        "tlsify.connection.commit",
    ),
}


def _run(program: str, *words: str) -> str:
    fresh = {k: v for k, v in os.environ.items() if k not in {"CAFILE", "CADIR"}}
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        env=fresh,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("mode", "more"), [("--ktls=off", set()), ("--ktls", {"tlsify.ktls.probe"})]
)
def test_until_the_client_says_hello(mode: str, more: set[str]) -> None:
    """By itself it needs OpenSSL, the kernel's probe where that may be used, and little else."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = str(listener.getsockname()[1])
        loaded = set(_run(_TO_THE_HELLO, mode, "connect", "localhost", port).split())
    assert "OpenSSL.SSL" in loaded
    assert loaded & _HEAVY == more


def test_until_a_connection_has_ended(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relayed one needs no X.509 objects, no keys and nothing of what serves the kernel's."""
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.authority))
    server = Server(over_tls(pki.good.server_context(), ssl.SSLSocket.unwrap))
    port = str(server.port)
    loaded = set(_run(_TO_THE_END, "--ktls=off", "connect", "localhost", port).split())
    server.result().close()
    assert {"tlsify.connection.relay.pump", "tlsify.tls.conclusion"} <= loaded
    unwanted = {
        *("cryptography.x509", "hashlib", "idna", "ipaddress", "pathlib", "typing_extensions"),
        *("tlsify.connection.control", "tlsify.connection.setup.session_store"),
        *("tlsify.ktls.probe", "tlsify.tls.handshake_keys", "tlsify.tls.session"),
    }
    assert not loaded & unwanted, loaded & unwanted


def test_until_an_agent_is_asked(tmp_path: Path) -> None:
    """Not even that."""
    place = tmp_path / "agent"
    with (
        socket.create_server((LOOPBACK, 0)) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent,
    ):
        agent.bind(str(place))
        agent.listen()
        port = str(listener.getsockname()[1])
        words = ("connect", "--agent", str(place), "localhost", port)
        loaded = set(_run(_TO_THE_HELLO, *words).split())
    assert "tlsify.agent.client" in loaded
    heavy = _HEAVY | {"OpenSSL", "cryptography.hazmat", "tlsify.connection.establish"}
    if sys.version_info < (3, 13):  # whose dataclasses use it
        heavy.add("inspect")
    assert not loaded & heavy
