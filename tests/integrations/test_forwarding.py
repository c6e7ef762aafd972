"""Real servers behind tlsify forward, in each of its ways."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.adopters.recipes import PROJECT
from tests.cli.conftest import Credentials, Pki
from tests.cli.front import Front
from tests.cli.harness import CARRIERS
from tests.doubles import until
from tests.interop.programs import TIMEOUT, Program, require
from tests.ports import free_port
from tests.provision import GUEST

if TYPE_CHECKING:
    from pathlib import Path

    import trustme

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

each_carrier = pytest.mark.parametrize("carrier", CARRIERS)
HERE = "127.0.0.1"
BIG = bytes(range(251)) * 12_000


@pytest.fixture
def pki(authority: trustme.CA, tmp_path: Path) -> Pki:
    """A certificate for localhost, and one for a client."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, leaf in (
        ("good", authority.issue_cert("localhost", HERE)),
        ("client", authority.issue_cert("client.example", common_name="client")),
    ):
        chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
        (tmp_path / f"{name}.pem").write_bytes(chain)
        leaf.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        (tmp_path / f"{name}.key").chmod(0o600)
    return Pki(tmp_path / "ca.pem", Credentials(tmp_path / "good.pem", tmp_path / "good.key"), {})


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder to serve."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/big").write_bytes(BIG)
    (tmp_path / "site/small").write_bytes(b"small\n")
    return tmp_path / "site"


class Browser:
    """curl, with a certificate of its own."""

    def __init__(self, front: Front, pki: Pki) -> None:
        """Store the address to ask."""
        require("curl")
        folder = pki.authority.parent
        self._words: list[str | Path] = ["curl", "-sS", "--cacert", pki.authority]
        self._words += ["--cert", folder / "client.pem", "--key", folder / "client.key"]
        self._url = f"https://localhost:{front.port}"

    def get(self, *paths: str, more: tuple[str, ...] = ()) -> bytes:
        """Fetch pages over one connection."""
        urls = [f"{self._url}/{path}" for path in paths]
        done = subprocess.run([*self._words, *more, *urls], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    def attempt(self, path: str) -> bytes:
        """Fetch a page; on a busy machine the server may take it too late, and nothing comes."""
        words = [*self._words, f"{self._url}/{path}"]
        return subprocess.run(words, capture_output=True, check=False).stdout


def asking(pki: Pki) -> tuple[str | Path, ...]:
    """Ask clients for certificates."""
    return ("--client-cert", "request", "--client-ca", pki.authority)


def judge(browser: Browser) -> None:
    """Expect what every server of the folder has to do."""
    assert browser.get("small", "small") == b"small\nsmall\n"
    assert browser.get("big") == BIG


# -- plaintext, with a PROXY header

_NGINX = """
{user}
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; sendfile on;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen {where} proxy_protocol;
    location / {{ root {folder}/site; }}
    location /told {{ return 200 "{variables}"; }}
  }}
}}
"""


@each_carrier
@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("is_path", [False, True])
def test_nginx(pki: Pki, tmp_path: Path, carrier: str, *, is_path: bool) -> None:
    """The header is read, and nginx tells what is in it."""
    require("nginx")
    names = ["proxy_protocol_addr", "proxy_protocol_port", "proxy_protocol_server_port"]
    names += [f"proxy_protocol_tlv_{name}" for name in ("alpn", "authority", "ssl_version")]
    names += [f"proxy_protocol_tlv_{name}" for name in ("ssl_cn", "ssl_cipher", "ssl_verify")]
    port = free_port()
    where = f"unix:{tmp_path}/nginx.sock" if is_path else f"{HERE}:{port}"
    text = _NGINX.format(
        folder=tmp_path,
        where=where,
        variables=" ".join(f"${name}" for name in names),
        user="user root;" if tmp_path.owner() == "root" else "",
    )
    (tmp_path / "nginx.conf").write_text(text)
    server = Program(["nginx", "-c", f"{tmp_path}/nginx.conf", "-e", f"{tmp_path}/early.log"])
    words = (*asking(pki), "--alpn", "http/1.1", "--proxy-protocol", f"{HERE}:0", where)
    with server, Front(pki, *words, carrier=carrier) as front:
        if is_path:
            until((tmp_path / "nginx.sock").exists)
        else:
            server.await_port(port)
        browser = Browser(front, pki)
        judge(browser)
        told = browser.get("told", more=("-w", " %{local_port}")).decode().split()
        assert told[:3] == [HERE, told[-1], str(front.port)]
        assert told[3:6] == ["http/1.1", "localhost", "TLSv1.3"]
        assert told[6] == "client"
        assert told[7].startswith("TLS_AES")
        assert told[8] == "0"


_HAPROXY = """
defaults
  mode http
  timeout client 10s
  timeout connect 10s
  timeout server 10s
frontend front
  bind {where} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] {more}"
"""


def test_haproxy(pki: Pki, tmp_path: Path) -> None:
    """So does haproxy, where the protocol comes from."""
    require("haproxy")
    port = free_port()
    where = f"{HERE}:{port}"
    text = _HAPROXY.format(where=where, more="%[fc_pp_authority] %[fc_rcvd_proxy]")
    (tmp_path / "haproxy.cfg").write_text(text)
    server = Program(["haproxy", "-db", "-q", "-f", f"{tmp_path}/haproxy.cfg"])
    with server, Front(pki, "--proxy-protocol", f"{HERE}:0", where) as front:
        server.await_port(port)
        told = Browser(front, pki).get("", more=("-w", " %{local_port}")).decode().split()
    assert told == [HERE, told[-1], "localhost", "1", told[-1]]


_BALANCER = """
defaults
  mode tcp
  timeout client 30s
  timeout connect 30s
  timeout server 30s
listen front
  bind {place}
  server tlsify {front} {sends} check
"""


@each_carrier
@pytest.mark.parametrize("sends", ["send-proxy", "send-proxy-v2"])
@pytest.mark.usefixtures("site")
def test_behind_haproxy(pki: Pki, tmp_path: Path, carrier: str, sends: str) -> None:
    """The client's address passes through: from haproxy's header to the log, and to nginx."""
    backend, log = free_port(), tmp_path / "access"
    where = f"{HERE}:{backend}"
    (tmp_path / "nginx.conf").write_text(
        _NGINX.format(
            folder=tmp_path,
            where=where,
            variables="$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port",
            user="user root;" if tmp_path.owner() == "root" else "",
        )
    )
    for name in ("nginx", "haproxy"):
        require(name)
    server = Program(["nginx", "-c", f"{tmp_path}/nginx.conf", "-e", f"{tmp_path}/early.log"])
    version = "2" if sends.endswith("v2") else "1"
    words = ("--accept-proxy", HERE, f"--access-log={log}", f"--proxy-protocol={version}")
    with server, Front(pki, *words, f"{HERE}:0", where, carrier=carrier) as front:
        server.await_port(backend)
        port = free_port()
        place = f"{HERE}:{port}"
        text = _BALANCER.format(place=place, front=f"{HERE}:{front.port}", sends=sends)
        (tmp_path / "haproxy.cfg").write_text(text)
        with Program(["haproxy", "-db", "-q", "-f", f"{tmp_path}/haproxy.cfg"]) as balancer:
            balancer.await_port(port)
            front.port = port
            browser = Browser(front, pki)
            judge(browser)
            told = browser.get("told", more=("-w", " %{local_port}")).decode().split()
        assert told == [HERE, told[-1], str(port), told[-1]]
    assert f" connection client={HERE} port={told[-1]} " in log.read_text()


def test_lighttpd(pki: Pki, site: Path, tmp_path: Path) -> None:
    """lighttpd, too, reads the header."""
    require("lighttpd")
    port = free_port()
    (tmp_path / "lighttpd.conf").write_text(
        f'server.document-root = "{site}"\nserver.bind = "{HERE}"\nserver.port = {port}\n'
        'server.modules = ("mod_extforward")\nextforward.hap-PROXY = "enable"\n'
        f'extforward.forwarder = ("{HERE}" => "trust")\n'
    )
    server = Program(["lighttpd", "-D", "-f", f"{tmp_path}/lighttpd.conf"])
    words = ("--proxy-protocol", f"{HERE}:0", f"{HERE}:{port}")
    with server, Front(pki, *words) as front:
        server.await_port(port)
        judge(Browser(front, pki))


# -- routes

_H2C = """
import asyncio, sys
from hypercorn.asyncio import serve
from hypercorn.config import Config

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = scope["http_version"].encode() + b" " + sys.argv[2].encode()
    await send({"type": "http.response.body", "body": body})

config = Config()
config.bind = [f"127.0.0.1:{sys.argv[1]}"]
asyncio.run(serve(application, config))
"""


@each_carrier
def test_http2_to_a_backend_of_its_own(pki: Pki, carrier: str) -> None:
    """By ALPN a server without TLS gets HTTP/2 in plain text, and another one the rest."""
    pytest.importorskip("hypercorn")
    ports = [free_port(), free_port()]
    words = ["--alpn", "h2", "--alpn", "http/1.1", "--route", f"h2={HERE}:{ports[0]}"]
    two, one = (
        Program([sys.executable, "-c", _H2C, str(port), name])
        for port, name in zip(ports, ("two", "one"), strict=True)
    )
    with two, one, Front(pki, *words, f"{HERE}:0", f"{HERE}:{ports[1]}", carrier=carrier) as front:
        for server, port in zip((two, one), ports, strict=True):
            server.await_port(port)
        browser = Browser(front, pki)
        assert browser.get("", more=("--http2",)) == b"2 two"
        assert browser.get("", more=("--http1.1",)) == b"1.1 one"


# -- descriptors


# Guests have no compiler: there a file that was made outside of them, with -static, is run.
_MADE = os.environ.get("TLSIFY_C_SERVER")
_C_CARRIERS = CARRIERS if _MADE or not GUEST else CARRIERS[:1]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The C server; nothing in it may look suspicious to the compiler or to the sanitizers."""
    if _MADE is not None:
        return _MADE
    require("gcc")
    made = str(tmp_path_factory.mktemp("c") / "files")
    sources = [str(PROJECT / "docs/examples" / name) for name in ("files.c", "receiver.c")]
    words = ["gcc", "-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror"]
    words += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([*words, "-o", made, *sources], check=True)
    return made


@pytest.mark.parametrize("carrier", _C_CARRIERS)
@pytest.mark.parametrize("aware", [(), ("--aware",)], ids=["carried", "aware"])
def test_c_server_with_sendfile(
    compiled: str, pki: Pki, site: Path, tmp_path: Path, *, carrier: str, aware: tuple[str, ...]
) -> None:
    """A server in C, which knows no TLS, sends files, and knows who asks."""
    path = tmp_path / "socket"
    words = (*asking(pki), f"{HERE}:0", "--pass-fd", f"unix:{path}", *aware)
    server = Program([compiled, str(path), str(site)])
    offload = "relay" if carrier == "--ktls=off" else "kernel"
    with server, Front(pki, *words, carrier=carrier) as front:
        until(path.exists)
        judge(browser := Browser(front, pki))
        head = browser.get("small", more=("-i",)).decode()
        assert f"X-Peer: {HERE}\r\n" in head
        assert re.search(rf"X-TLS: TLSv1.3 TLS_\S+ {offload}\r\n", head)
        assert "X-Name: localhost\r\n" in head
        assert re.search(r"X-Client: [0-9a-f]{64} CN=client,", head)
        with front.connect() as client:  # it has to end in good order
            client.sendall(b"GET /small HTTP/1.1\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\nsmall\n"):
                answer += client.recv(2**16)
            client.unwrap().close()
        assert front.stop().status == 0
        assert server.errors() == ""


@each_carrier
@pytest.mark.parametrize("aware", [(), ("--aware",)], ids=["carried", "aware"])
def test_aiohttp_worker(
    pki: Pki, site: Path, tmp_path: Path, carrier: str, aware: tuple[str, ...]
) -> None:
    """An aiohttp application gets its connections from elsewhere, and notices nothing."""
    path = tmp_path / "socket"
    words = (f"{HERE}:0", "--pass-fd", f"unix:{path}", *aware)
    worker = Program(
        [sys.executable, str(PROJECT / "docs/examples/worker.py"), str(path), str(site)]
    )
    with worker, Front(pki, *words, carrier=carrier) as front:
        until(path.exists)
        browser = Browser(front, pki)
        judge(browser)
        how = "policy-off" if carrier == "--ktls=off" else "kernel" if aware else "carried"
        assert browser.get("hello").decode() == f"https {HERE} TLSv1.3 localhost {how}\n"
        assert front.stop().succeeded() == b""
        assert worker.errors() == ""


@each_carrier
@pytest.mark.parametrize("name", ["plain.py", "aware.py"])
def test_examples_of_the_page(pki: Pki, tmp_path: Path, carrier: str, name: str) -> None:
    """The programs in docs/passing.md do what they say."""
    page = (PROJECT / "docs/passing.md").read_text()
    found = re.search(rf"^```python {name}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found
    (tmp_path / name).write_text(found[1])
    path = tmp_path / "socket"
    words = [f"{HERE}:0", "--pass-fd", f"unix:{path}"]
    words += ["--aware"] if name == "aware.py" else []
    worker = Program([sys.executable, str(tmp_path / name), str(path)])
    with worker, Front(pki, *words, carrier=carrier) as front:
        until(path.exists)
        offload = "relay" if carrier == "--ktls=off" else "kernel"
        told = f" {HERE}, TLSv1.3, {offload}" if name == "aware.py" else ""
        for _ in range(3):
            assert Browser(front, pki).get("").decode() == f"hello{told}\n"
        assert worker.errors() == ""


def test_c_in_the_page_is_that_of_the_header() -> None:
    """What the page calls there is."""
    header = (PROJECT / "docs/examples/receiver.h").read_text()
    for name in re.findall(r"passed_\w+(?=\()", (PROJECT / "docs/passing.md").read_text()):
        assert name in header


@pytest.mark.parametrize("carrier", _C_CARRIERS)
@pytest.mark.parametrize("aware", [(), ("--aware",)], ids=["carried", "aware"])
@pytest.mark.usefixtures("site")
def test_c_server_that_hangs_for_a_while(
    compiled: str, pki: Pki, tmp_path: Path, *, carrier: str, aware: tuple[str, ...]
) -> None:
    """What it finds too late it passes over, and goes on with the next."""
    path = tmp_path / "socket"
    words = (f"{HERE}:0", "--pass-fd", f"unix:{path}", "--connect-timeout", "0.3", *aware)
    server = Program([compiled, str(path), str(tmp_path / "site")])
    with server, Front(pki, *words, carrier=carrier) as front:
        until(path.exists)
        server.process.send_signal(signal.SIGSTOP)
        with front.connect() as client, pytest.raises((ssl.SSLEOFError, ConnectionError)):
            client.recv(1)
        server.process.send_signal(signal.SIGCONT)
        until(lambda: Browser(front, pki).attempt("small") == b"small\n")
        assert server.errors() == ""
