"""Tests of ghostunnel's flags."""

from __future__ import annotations

import tomllib

import pytest

from tlsify.cli.migration import ghostunnel
from tlsify.cli.migration.draft import Weight
from tlsify.errors import ConfigError

NOTE, LOST, SECURITY = Weight
_SERVER = ("server", "--listen", "a:1", "--target=b:2")


def one(*words: str) -> tuple[dict[str, object], dict[str, Weight]]:
    """Translate a command line; return its file and what is not carried over."""
    (draft,) = ghostunnel.translate(words)
    return tomllib.loads(draft.write()), {each.setting.name: each.weight for each in draft.remarks}


def test_server() -> None:
    """Clients have to show a certificate, unless they need not."""
    found, lost = one(
        *(*_SERVER, "--keystore", "s.pem", "--cacert", "ca", "--allow-dns", "x", "--allow-uri=u:v"),
        *("--proxy-protocol", "--connect-timeout", "2s", "--shutdown-timeout=1m30s"),
        *("--cipher-suites", "CHACHA,AES", "--max-tls-version=TLS1.2", "--max-concurrent-conns=9"),
    )
    assert found == {
        "verb": "forward",
        "client-cert": "require",
        "client-ca": "ca",
        "listen": ["a:1"],
        "client-ref-id": ["dns:x", "uri:u:v"],
        "proxy-protocol": "2",
        "connect-timeout": 2.0,
        "drain": 90.0,
        "ciphers": "chacha20-poly1305,aes-128-gcm,aes-256-gcm",
        "tls-max": "1.2",
        "max-connections": "9",
        "cert": ["s.pem"],
        "operands": ["b:2"],
    }
    assert lost == {}
    found, lost = one(*_SERVER, "--disable-authentication", "--cacert=ca", "--key=k", "--cert=c")
    assert found == {
        "verb": "forward",
        "listen": ["a:1"],
        "cert": ["c"],
        "key": ["k"],
        "operands": ["b:2"],
    }
    assert lost == {"disable-authentication": NOTE, "cacert": NOTE}


def test_automatic_certificates() -> None:
    """They are so here, too."""
    found, lost = one(
        *(*_SERVER, "--auto-acme-cert=x.example", "--auto-acme-email=a@x.example"),
        *("--auto-acme-agree-to-tos", "--auto-acme-ca=https://ca.example/", "--allow-all"),
    )
    assert {name: value for name, value in found.items() if name.startswith("acme")} == {
        "acme": ["x.example"],
        "acme-email": "a@x.example",
        "acme-agree-tos": True,
        "acme-directory": "https://ca.example/",
    }
    assert lost == {"allow-all": NOTE}


def test_client() -> None:
    """All is about the backend."""
    found, lost = one(
        *("client", "--listen=unix:/run/x", "--target", "b:2", "--cert=c", "--key=k"),
        *("--cacert=ca", "--override-server-name=n", "--verify-ip=192.0.2.1", "--syslog"),
    )
    assert found == {
        "verb": "forward",
        "connect": True,
        "listen": ["unix:/run/x"],
        "backend-cert": "c",
        "backend-key": "k",
        "backend-ca": "ca",
        "backend-servername": "n",
        "backend-ref-id": ["ip:192.0.2.1"],
        "syslog": True,
        "operands": ["b:2"],
    }
    assert lost == {}


@pytest.mark.parametrize(
    ("flag", "weight"),
    [
        *((flag, NOTE) for flag in ("--allow-all", "--timed-reload=1s", "--status=:1")),
        *((flag, NOTE) for flag in ("--listen=systemd:x", "--quiet=all", "--use-landlock")),
        *((flag, LOST) for flag in ("--metrics-url=x", "--target=http://x")),
        *((flag, SECURITY) for flag in ("--allow-cn=x", "--allow-ou=x", "--allow-policy=x")),
        *((flag, SECURITY) for flag in ("--keystore=s.p12", "--storepass=x", "--what=x")),
        *((flag, SECURITY) for flag in ("--use-workload-api", "--cipher-suites=RC4")),
        ("--pkcs11-module=x", SECURITY),
    ],
)
def test_what_is_not_carried_over(flag: str, weight: Weight) -> None:
    """Each such flag is named, and none that matters to security is a mere note."""
    _, found = one(*_SERVER, flag)
    assert found[flag.removeprefix("--").partition("=")[0]] is weight


@pytest.mark.parametrize(
    "words",
    [(), ("--listen", "a:1"), ("server", "client"), ("server", "--listen"), ("other",)],
)
def test_no_command_line(words: tuple[str, ...]) -> None:
    """It says what is missing."""
    with pytest.raises(ConfigError) as caught:
        ghostunnel.translate(words)
    assert caught.value.hint
    with pytest.raises(ConfigError, match="no duration"):
        one(*_SERVER, "--shutdown-timeout=5")
