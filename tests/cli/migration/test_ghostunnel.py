"""Tests of ghostunnel's flags."""

from __future__ import annotations

import tomllib

import pytest

from tests.cli.migration.reading import read_back
from tlsify.cli.migration import ghostunnel
from tlsify.cli.migration.draft import Weight
from tlsify.errors import ConfigError

NOTE, LOST, SECURITY = Weight
_ADDRESSES = ("--listen", "a:1", "--target=b:2")
_SERVER = ("server", *_ADDRESSES, "--keystore=base")


def one(*words: str) -> tuple[dict[str, object], dict[str, Weight]]:
    """Translate a command line; return its file and what is not carried over."""
    (draft,) = ghostunnel.translate(words)
    weights = {each.setting.name: each.weight for each in draft.remarks}
    is_whole = all(each is NOTE for each in weights.values())
    return read_back(draft) if is_whole else tomllib.loads(draft.write()), weights


def test_server() -> None:
    """Clients have to show a certificate, unless they need not."""
    found, lost = one(
        *(
            *("server", *_ADDRESSES),
            "--keystore",
            "s.pem",
            "--cacert",
            "ca",
            "--allow-dns",
            "x",
            "--allow-uri=u:v.example",
        ),
        *("--proxy-protocol", "--connect-timeout", "2s", "--shutdown-timeout=1m30s"),
        *("--cipher-suites", "CHACHA,AES", "--max-tls-version=TLS1.2", "--max-concurrent-conns=9"),
    )
    assert found == {
        "verb": "forward",
        "client-cert": "require",
        "client-ca": "ca",
        "listen": ["a:1"],
        "client-ref-id": ["dns:x", "uri:u:v.example"],
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
    words = ("--disable-authentication", "--cacert=ca", "--key=k", "--cert=c")
    found, lost = one("server", *_ADDRESSES, *words)
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
    words = ("--auto-acme-testca=https://test.example/", "--auto-acme-ca=https://ca.example/")
    found, _ = one(*_SERVER, "--auto-acme-cert=x.example", *words)
    assert found["acme-directory"] == "https://test.example/"


def test_client() -> None:
    """All is about the backend."""
    found, lost = one(
        *("client", "--listen=unix:/run/x", "--target", "b:2", "--cert=c", "--key=k"),
        *("--cacert=ca", "--override-server-name=n", "--verify-dns=n", "--syslog"),
    )
    assert found == {
        "verb": "forward",
        "connect": True,
        "listen": ["unix:/run/x"],
        "backend-cert": "c",
        "backend-key": "k",
        "backend-ca": "ca",
        "backend-servername": "n",
        "backend-ref-id": ["dns:n"],
        "syslog": True,
        "operands": ["b:2"],
    }
    assert lost == {}


def test_names_of_a_server() -> None:
    """They are verified besides the host's by ghostunnel, and in its place by tlsify."""
    words = ("client", "--listen=a:1", "--target=b.example:2", "--disable-authentication")
    for flag, weight in (
        ("--verify-dns=b.example", None),
        ("--verify-dns=c.example", SECURITY),
        ("--verify-ip=192.0.2.1", SECURITY),
        ("--verify-uri=spiffe://b/*", SECURITY),
    ):
        assert one(*words, flag)[1].get(flag[2:].partition("=")[0]) is weight


def test_server_that_names_no_clients() -> None:
    """Such a command does not start, so the translation must not accept all of them."""
    assert one(*_SERVER, "--allow-unsafe-cipher-suites")[1]["server"] is SECURITY


def test_switches() -> None:
    """The last of a switch and its opposite counts: no client is let in by one that is off."""
    off = ("--disable-authentication", "--no-disable-authentication", "--allow-all")
    found, lost = one(*_SERVER, *off, "--no-allow-all", "--no-proxy-protocol")
    assert (found["client-cert"], lost["server"]) == ("require", SECURITY)
    assert "proxy-protocol" not in found
    found, _ = one(*_SERVER, "--no-disable-authentication", "--disable-authentication")
    assert "client-cert" not in found
    with pytest.raises(ConfigError, match="takes no value"):
        one(*_SERVER, "--disable-authentication=false")


def test_server_without_a_certificate() -> None:
    """It may have one from its environment, which does not show."""
    assert one("server", *_ADDRESSES, "--allow-all")[1] == {"allow-all": NOTE, "keystore": LOST}


@pytest.mark.parametrize(
    ("flag", "weight"),
    [
        *((flag, NOTE) for flag in ("--allow-all", "--timed-reload=1s", "--status=:1")),
        *((flag, NOTE) for flag in ("--listen=systemd:x", "--quiet=all", "--use-landlock")),
        *((flag, LOST) for flag in ("--metrics-url=x", "--shutdown-timeout=0s")),
        *((flag, LOST) for flag in ("--target=http://x", "--connect-timeout=0us")),
        *((flag, LOST) for flag in ("--target=systemd:x", "--status=systemd:x")),
        *((flag, SECURITY) for flag in ("--allow-uri=spiffe://a/b", "--allow-dns=*.x")),
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
