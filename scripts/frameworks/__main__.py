"""Install the frameworks, try each, and print what each showed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import trustme

from tests.ports import free_port

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
FOLDER = PROJECT / ".scratch/frameworks"
PACKAGES = (
    *("daphne", "Django", "fastapi", "Flask", "gunicorn", "h2", "httptools", "httpx", "Hypercorn"),
    *("Quart", "sanic", "starlette", "trio", "uvicorn", "uvloop"),
)
_UVICORN = "-m tlsify.integrations.uvicorn --port PORT --ssl-certfile CERT --ssl-keyfile KEY"
_HYPERCORN = "-m tlsify.integrations.hypercorn --bind localhost:PORT --certfile CERT --keyfile KEY"
_GUNICORN = "-m tlsify.integrations.gunicorn --bind localhost:PORT --certfile CERT --keyfile KEY"
_DAPHNE = "-m daphne -e tlsify:PORT:certKey=CERT:privateKey=KEY"
# Python's arguments, and how `ktls` begins as the application sees it; None where it does not.
WAYS = {
    "Django (gunicorn)": (f"{_GUNICORN} --threads 4 django_app:wsgi", "relay:"),
    "Django (gunicorn, asgi)": (f"{_GUNICORN} -k asgi django_app:asgi", ""),
    "Django (uvicorn)": (f"{_UVICORN} django_app:asgi", ""),
    "Django (Daphne)": (f"{_DAPHNE} django_app:asgi", None),
    "FastAPI (uvicorn)": (f"{_UVICORN} fastapi_app:asgi", ""),
    "FastAPI (uvicorn, 2 workers)": (f"{_UVICORN} --workers 2 fastapi_app:asgi", ""),
    "FastAPI (uvicorn, uvloop)": (f"{_UVICORN} --loop uvloop fastapi_app:asgi", ""),
    "FastAPI (hypercorn)": (f"{_HYPERCORN} fastapi_app:asgi", ""),
    "FastAPI (gunicorn, asgi)": (f"{_GUNICORN} -k asgi fastapi_app:asgi", ""),
    "Flask (gunicorn)": (f"{_GUNICORN} --threads 4 flask_app:application", "relay:"),
    "Flask (gunicorn, sync)": (f"{_GUNICORN} flask_app:application", "relay:"),
    "Flask (its own server)": ("flask_app.py", None),
    "Quart (hypercorn)": (f"{_HYPERCORN} quart_app:asgi", ""),
    "Quart (hypercorn, uvloop)": (f"{_HYPERCORN} -k uvloop quart_app:asgi", ""),
    "Sanic (tlsify's loop)": ("sanic_app.py", ""),
    "Sanic (app.run)": ("sanic_app.py run", "in-memory"),
    "Starlette (uvicorn)": (f"{_UVICORN} starlette_app:asgi", ""),
    "Starlette (hypercorn)": (f"{_HYPERCORN} starlette_app:asgi", ""),
    "Starlette (Daphne)": (f"{_DAPHNE} starlette_app:asgi", None),
}
PATIENCE = 60


def install() -> Path:
    """Install the frameworks and this tlsify, unless they are there; return the interpreter."""
    python = FOLDER / "venv/bin/python"
    if not python.exists():
        venv.create(FOLDER / "venv", with_pip=True)
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--editable", PROJECT]
    subprocess.run([*command, *PACKAGES], check=True)
    return python


def ask(port: int, context: ssl.SSLContext, path: str) -> bytes:
    """Ask for a page, on a connection of its own."""
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=PATIENCE)
    connection.request("GET", path)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    assert response.status == 200, (path, response.status, content)
    return content


def ask_first(port: int, context: ssl.SSLContext, process: subprocess.Popen[bytes]) -> Any:
    """Ask for the front page, as soon as the server listens."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return json.loads(ask(port, context, "/"))
        except ConnectionRefusedError:
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < until, "it does not listen"
            time.sleep(0.1)


def try_one(python: Path, name: str, *, clients: bool) -> str:
    """Serve one way; return what came of it."""
    words, expected = WAYS[name]
    port = str(free_port())
    files = {name: str(FOLDER / f"{name.lower()}.pem") for name in ("CERT", "KEY", "CA")}
    files["FILE"] = str(FOLDER / "file")
    for word, value in (files | {"PORT": port}).items():
        words = words.replace(word, value)
    environment = os.environ | files | {"PORT": port, "PYTHONPATH": str(HERE)}
    context = ssl.create_default_context(cafile=files["CA"])
    with (FOLDER / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, *words.split()], cwd=HERE, env=environment, stdout=log, stderr=log
        )
        try:
            said = ask_first(int(port), context, process)
            assert said["secure"] is True, said
            assert expected is None or str(said["ktls"]).startswith(expected), said
            assert (said["ktls"] == "in-memory") == (expected == "in-memory"), said
            assert ask(int(port), context, "/file") == Path(files["FILE"]).read_bytes()
            if clients:
                subprocess.run([python, "clients.py"], cwd=HERE, env=environment, check=True)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
    assert "Traceback" not in (FOLDER / "log").read_text()
    return f"ok, {said['ktls'] or 'not shown to the application'}"


def main() -> int:
    """Try all; return whether one failed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    python = install()
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(FOLDER / "key.pem")
    (FOLDER / "cert.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(FOLDER / "ca.pem")
    (FOLDER / "file").write_bytes(os.urandom(3_000_000))
    failed = 0
    for number, name in enumerate(sys.argv[1:] or WAYS):
        try:
            print(f"{name:32}{try_one(python, name, clients=number == 0)}", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError) as exc:
            failed += 1
            print(f"{name:32}FAILED: {exc}\n{(FOLDER / 'log').read_text()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
