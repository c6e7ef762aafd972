"""Tests of docs/agent.md: its example runs, and its tables name every number."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

from tests.agent.harness import ROOT, Agent, Files, echo, serving
from tests.doubles import Endpoint
from tlsify.agent.errors import NUMBERS
from tlsify.agent.fields import Message
from tlsify.agent.wire import MAX_REPLY, MAX_REQUEST, Kind

PAGE = (ROOT / "docs/agent.md").read_text("utf-8")


def test_example(running: Agent, files: Files) -> None:
    """A requester that knows nothing but the page talks to the agent."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

    def relay_to(listener: socket.socket) -> object:
        sock, _ = listener.accept()
        return serving(files, sock, echo).result()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Endpoint(lambda: relay_to(listener))
        port = str(listener.getsockname()[1])
        words = [sys.executable, "-c", program, running.place, "127.0.0.1", port, files.trust]
        out = subprocess.run(words, check=True, capture_output=True, text=True)
    assert out.stdout == "HELLO\nin good order\n"
    assert out.stderr == ""
    assert peer.result() == b"hello"


def test_numbers() -> None:
    """Every kind, tag and error has its row; the limits are the real ones."""
    rows = re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE)
    numbers = {int(number) for row in rows for number in row.split(",")}
    for message in Message.kinds.values():
        assert set(message.by_tag) <= numbers, message
    assert set(Kind) <= numbers
    assert set(NUMBERS) <= numbers
    assert f"{MAX_REQUEST:,} bytes, replies at most {MAX_REPLY:,}" in PAGE
