"""Tests of command, and of the servers' own commands with tlsify."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from tests.integrations.harness import Served, arrange
from tests.interop.programs import TIMEOUT
from tlsify.errors import ConfigError
from tlsify.integrations.command import reported, require_certificate

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

APP = "tests.integrations.programs.command_app"
_BIND = ["--certfile", "CERT", "--keyfile", "KEY", "--bind", "127.0.0.1:PORT"]
_UVICORN = ["--ssl-certfile", "CERT", "--ssl-keyfile", "KEY", "--port", "PORT"]
COMMANDS = {
    "uvicorn": ["uvicorn", f"{APP}:asgi_application", *_UVICORN, "--workers", "2"],
    "hypercorn": ["hypercorn", f"{APP}:asgi_application", *_BIND],
    "gunicorn": ["gunicorn", f"{APP}:wsgi_application", *_BIND, "--no-control-socket"],
}


@pytest.mark.interop
@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("name", COMMANDS)
def test_command(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The server's command serves by tlsify, with its own options, in each of its processes."""
    task = arrange(tmp_path, authority, "auto")
    monkeypatch.setenv("TASK", json.dumps(asdict(task)))
    given = {"CERT": task.cert, "KEY": task.key, "127.0.0.1:PORT": f"127.0.0.1:{task.port}"}
    given["PORT"] = str(task.port)
    module, *words = COMMANDS[name]
    command = ["-m", f"tlsify.integrations.{module}", *(given.get(word, word) for word in words)]
    with Served(name, task, authority, command) as served:
        context = served.context()
        offload = served.ask_anew(context, "/offload").decode()
        assert offload == "kernel" or offload.startswith("relay:")
        assert served.ask_anew(context, "/scheme") == b"https"
        assert "Traceback" not in served.program.errors()


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("uvicorn", ["no:app"], "--ssl-certfile"),
        ("uvicorn", ["no:app", "--ssl-certfile", "/nowhere"], "/nowhere: ENOENT: No such"),
        ("hypercorn", ["no:app"], "--certfile and --keyfile"),
        (
            "hypercorn",
            ["no:app", "--certfile", "/nowhere", "--keyfile", "/no"],
            "/nowhere: ENOENT: No such",
        ),
        ("gunicorn", ["no:app"], "--certfile and --keyfile"),
        ("gunicorn", ["no:app", "--certfile", "/a", "-k", "gevent"], "use sync, gthread, asgi"),
    ],
)
def test_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    words: list[str],
    said: str,
) -> None:
    """What is wrong is said before anything starts, and nothing is served in plain text."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"tlsify.integrations.{name}").main()
    assert ended.value.code == ConfigError.exit_code
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("tlsify: error: ")
    assert hint.startswith("tlsify: hint: ")
    assert said in error + hint


def test_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """Tlsify's are two lines and a status; others are left alone."""
    require_certificate("cert.pem", "--cert")
    with pytest.raises(SystemExit) as ended, reported():
        require_certificate(None, "--cert")
    assert ended.value.code == ConfigError.exit_code
    assert capsys.readouterr().err == (
        "tlsify: error: there is no certificate for TLS\ntlsify: hint: give --cert\n"
    )
    with pytest.raises(ValueError, match="other"), reported():
        raise ValueError("other")
