"""Tests of config: what is printed, what is written, and when nothing is."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.cli.forked import refused
from tlsify.cli import parser
from tlsify.cli.migration import ghostunnel, hitch, stunnel
from tlsify.cli.options import config_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.harness import Outcome

_SERVICE = "[{name}]\naccept = {port}\nconnect = 80\ncert = c\n"
_HITCH = 'frontend = "[*]:443"\nbackend = "[::1]:80"\npem-file = "c"\n'


def _write(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines))
    return path


def _lines(outcome: Outcome) -> list[str]:
    return outcome.err.splitlines()


def test_one_service(tmp_path: Path) -> None:
    """It is printed, with remarks in the order of the lines."""
    path = _write(
        tmp_path / "stunnel.conf", "pid = x\n", _SERVICE.format(name="a", port=1), "local = y\n"
    )
    done = refused("config", "import", path)
    assert done.status == 0
    assert tomllib.loads(done.out.decode())["listen"] == ["0.0.0.0:1"]
    places = [line.partition(": ")[0] for line in _lines(done)]
    assert places == ["stunnel.conf:1", "stunnel.conf:6"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_HITCH, ()),
        (f"{_HITCH}# [section]\n", ()),
        (_HITCH, ("--from", "hitch")),
        (_SERVICE.format(name="a", port="443"), ("--from=stunnel",)),
    ],
)
def test_programs(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    """Which program's it is shows, or is said; options may stand behind the file."""
    done = refused("config", "import", _write(tmp_path / "conf", text), *words)
    assert done.status == 0, done.err
    assert tomllib.loads(done.out.decode())["verb"] == "forward"


def test_several_services(tmp_path: Path) -> None:
    """Each gets a file; nothing that is there is written over."""
    services = [_SERVICE.format(name=name, port=1) for name in ("a", "../b c", "a")]
    path = _write(tmp_path / "conf", *services)
    refused("config", "import", path).failed(100, "several services: a, ../b c, a", "--output")
    done = refused("config", "import", path, "--output", tmp_path)
    names = ("a.toml", ".._b_c.toml", "a.2.toml")
    assert done.out.decode().split() == [f"{tmp_path}/{name}" for name in names]
    (tmp_path / "a.2.toml").unlink()
    assert tomllib.loads((tmp_path / "a.toml").read_text())["operands"] == ["localhost:80"]
    (tmp_path / "a.toml").write_text("mine")
    (tmp_path / ".._b_c.toml").unlink()
    refused("config", "import", path, "--output", tmp_path).failed(96, "a.toml is there already")
    assert (tmp_path / "a.toml").read_text() == "mine"
    assert not (tmp_path / ".._b_c.toml").exists()
    too_long = _write(tmp_path / "long", *services, _SERVICE.format(name="b" * 300, port=1))
    outcome = refused("config", "import", too_long, "--output", tmp_path / "new")
    outcome.failed(96, "cannot write", "File name too long")
    assert list((tmp_path / "new").iterdir()) == []
    refused("config", "import", path, "--output", tmp_path / "new")
    assert (tmp_path / "new/a.toml").exists()
    nowhere = tmp_path / "no/where"
    refused("config", "import", path, "--output", nowhere).failed(96, "cannot make", str(nowhere))


def test_loss_of_security(tmp_path: Path) -> None:
    """Nothing is written, unless the user insists; then the file says what is lost."""
    path = _write(tmp_path / "conf", _SERVICE.format(name="a", port=1), "libwrap = yes\n")
    done = refused("config", "import", path)
    assert (done.status, done.out) == (96, b"")
    assert _lines(done)[0].startswith("conf:5: security: libwrap = yes: ")
    assert _lines(done)[1].startswith("tlsify: error: 1 ")
    done = refused("config", "import", "--lossy", path)
    assert done.status == 0
    assert done.out.startswith(b"# conf:5: security: libwrap = yes: ")


def test_what_tlsify_refuses(tmp_path: Path) -> None:
    """A file that tlsify would not read is written with that remark, and not without a word."""
    path = _write(tmp_path / "conf", _SERVICE.format(name="a", port=1), "setuid = no-such-user\n")
    done = refused("config", "import", path)
    assert done.status == 0
    remark = 'a: lost: forward refuses the file: "user": no such user or group'
    assert _lines(done)[0].startswith(remark)
    assert done.out.decode().startswith(f"# {remark}")


def test_ghostunnel() -> None:
    """Its flags stand behind two dashes."""
    words = ("server", "--listen", "a:1", "--target", "b:2", "--cert", "x", "--allow-all")
    done = refused("config", "import", "--from", "ghostunnel", "--", *words)
    assert done.status == 0
    assert tomllib.loads(done.out.decode())["client-cert"] == "require"


_ALL_OF_STUNNEL = """
debug = 5
setuid = nobody
[s]
{mode}
accept = 127.0.0.1:1
connect = localhost:80
connect = 81
cert = a.pem
verifyChain = yes
CAfile = ca.pem
CRLfile = crl.pem
checkHost = a.example
ciphers = ECDHE+AES128
curves = X25519
sslVersion = TLSv1.3
TIMEOUTidle = 60
TIMEOUTconnect = 3
"""
_ALL_OF_HITCH = """
frontend = "[*]:443"
backend = "[::1]:80"
pem-file = { cert = "a" private-key = "k" ocsp-resp-file = "o" }
pem-dir = "certs"
ocsp-dir = "x"
workers = 2
user = "nobody"
tls-protos = TLSv1.2
ciphers = "ECDHE+AES128"
ecdh-curve = "X25519"
alpn-protos = "h2, http/1.1"
client-verify = required
client-verify-ca = "ca.pem"
write-proxy-v1 = on
syslog = on
log-level = 1
backend-connect-timeout = 3
ssl-handshake-timeout = 9
"""
_ALL_OF_GHOSTUNNEL = {
    "server": (
        "--keystore=s.pem",
        "--allow-dns=x",
        "--proxy-protocol",
        "--auto-acme-cert=x.example",
    ),
    "client": ("--cert=c", "--key=k", "--override-server-name=x", "--verify-uri=spiffe:x.example"),
}
_DRAFTS = {
    "server-of-stunnel": stunnel.translate(_ALL_OF_STUNNEL.format(mode="protocol = proxy"), "x"),
    "client-of-stunnel": stunnel.translate(_ALL_OF_STUNNEL.format(mode="client = yes"), "x"),
    "program-of-stunnel": stunnel.translate("[s]\naccept = 1\nexec = /bin/cat\ncert = a\n", "x"),
    "hitch": hitch.translate(_ALL_OF_HITCH, "x"),
    **{
        f"{mode}-of-ghostunnel": ghostunnel.translate(
            [
                *(mode, "--listen=127.0.0.1:1", "--target=localhost:2", "--cacert=ca", *words),
                *("--connect-timeout=2s", "--max-concurrent-conns=9", "--status=127.0.0.1:3"),
                *("--shutdown-timeout=1m", "--cipher-suites=AES", "--syslog"),
            ]
        )
        for mode, words in _ALL_OF_GHOSTUNNEL.items()
    },
}


@pytest.mark.parametrize("name", _DRAFTS)
def test_options_exist(tmp_path: Path, name: str) -> None:
    """What is written is what the verb reads."""
    (draft,) = _DRAFTS[name]
    words = config_file.read(_write(tmp_path / "a.toml", draft.write()))
    ours, rest = parser.divide(words.spell([], []))
    verb, _ = parser.read_options(ours)
    given = parser.read_words(verb, rest)
    assert verb == draft.verb
    assert given.listen


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("export", "x"), 100),
        (("import",), 100),
        (("import", "x", "--from", "ghostunnel"), 100),
        (("import", "x", "--from", "haproxy"), 100),
        (("import", "/nowhere"), 96),
        (("import", "/dev/null"), 96),
    ],
)
def test_misuse(words: tuple[str, ...], status: int) -> None:
    """Each is an error and a hint."""
    refused("config", *words).failed(status)


def test_text_of_no_encoding(tmp_path: Path) -> None:
    """It is refused; and control characters of one that has an encoding reach no terminal."""
    path = tmp_path / "conf"
    path.write_bytes(b"[a]\naccept = 1\nconnect = 2\ncert = \xff\n")
    refused("config", "import", path).failed(96, "no text", "UTF-8")
    path.write_bytes(b"[a]\naccept = 1\nconnect = 2\npid = \x1b[31m\n")
    done = refused("config", "import", path)
    assert done.status == 0
    assert "pid = \\x1b[31m" in done.err
