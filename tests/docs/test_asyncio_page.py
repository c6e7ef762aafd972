"""Tests of docs/asyncio.md: its examples, as a reader would run them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.interop.programs import TIMEOUT, Program
from tests.ports import free_port

if TYPE_CHECKING:
    import trustme

PAGE = Path(__file__).resolve().parents[2] / "docs/asyncio.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]


@pytest.mark.parametrize("server", [0, 2], ids=["start_server", "EventLoop"])
def test_examples(tmp_path: Path, authority: trustme.CA, server: int) -> None:
    """The client gets its answer from either server."""
    port = free_port()
    issued = authority.issue_cert("localhost")
    (tmp_path / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, block in (("server.py", server), ("client.py", 1)):
        text = BLOCKS[block].replace("8443", str(port))
        (tmp_path / name).write_text(f"import os\nos.chdir({str(tmp_path)!r})\n{text}")
    with Program([sys.executable, str(tmp_path / "server.py")]) as running:
        running.await_port(port)
        with Program([sys.executable, str(tmp_path / "client.py")]) as asking:
            assert asking.status() == 0
            ktls, _, answer = asking.output().decode().partition(" ")
        assert ktls == "kernel" or "-" in ktls
        assert answer == "b'HELLO\\n'\n"
        assert "Traceback" not in running.errors()
