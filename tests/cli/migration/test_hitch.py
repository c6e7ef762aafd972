"""Tests of hitch's configurations."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.migration.reading import read_back
from tlsify.cli.migration import hitch
from tlsify.cli.migration.draft import Weight
from tlsify.errors import ConfigError

NOTE, LOST, SECURITY = Weight
_BASE = 'frontend = "[*]:443"\nbackend = "[127.0.0.1]:6086"\npem-file = "base"\n'


def one(text: str) -> tuple[dict[str, object], dict[str, Weight]]:
    """Translate a configuration; return its file and what is not carried over."""
    (draft,) = hitch.translate(text, "conf")
    weights = {each.setting.name: each.weight for each in draft.remarks}
    is_whole = all(each is NOTE for each in weights.values())
    return read_back(draft) if is_whole else tomllib.loads(draft.write()), weights


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ("# nothing", {}),
        ('pem-file = "a"  # comment\npem-file="b"', {"cert": ["b", "a", "base"]}),
        (
            'pem-file = {\n cert = "a"\n private-key = "k"\n ocsp-resp-file = "o" }',
            {"cert": ["a", "base"], "key": ["k", "base"], "ocsp": ["o"]},
        ),
        (
            'pem-file = { cert = "a" private-key = "k" ocsp-verify-staple = y };',
            {"cert": ["a", "base"], "key": ["k", "base"]},
        ),
        ('user = ""\nchroot = ""\nciphers = ""\nclient-verify-ca = "x"', {}),
        ("write-proxy-v2 = Y, sni-nomatch-abort = f", {"proxy-protocol": "2"}),
        ("tls-protos = TLSv1.3", {"tls-min": "1.3"}),
        ("tls-protos = TLSv1.0 TLSv1.1 TLSv1.2\nworkers = 4", {"tls-max": "1.2", "workers": "4"}),
        ('ciphers = "ECDHE+AES128+AESGCM"', {"ciphers": "aes-128-gcm"}),
        ('ciphers = "ECDHE+AESGCM"\nciphersuites = "TLS_AES_128_GCM_SHA256"\nssl-engine = ""', {
            "ciphers": "aes-128-gcm"
        }),
        ('alpn-protos = "h2, http/1.1"', {"alpn": ["h2", "http/1.1"]}),
        ("write-proxy-v2 = on", {"proxy-protocol": "2"}),
        ('ocsp-dir = "x"', {"ocsp-fetch": True}),
        ("write-proxy-v1 = on\nwrite-proxy-v2 = off", {"proxy-protocol": "1"}),
        (
            'client-verify = required\nclient-verify-ca = "ca"\nuser = "root"\ngroup = "root"',
            {"client-cert": "require", "client-ca": "ca", "user": "root:root"},
        ),
        ("client-verify = none\nsyslog = on\nlog-level = 0", {
            "syslog": True, "log-level": "error"
        }),
    ],
)  # fmt: skip
def test_settings(lines: str, options: dict[str, object]) -> None:
    """What is carried over."""
    found, _ = one(f"{_BASE}{lines}\n")
    base = {
        "verb": "forward",
        "listen": [":443"],
        "cert": ["base"],
        "operands": ["127.0.0.1:6086"],
    }
    assert found == base | options


@pytest.mark.parametrize(
    "frontend",
    [
        'frontend = "[*]:443+a.pem"',
        'frontend = { host = "*" port = "443" pem-file = "a.pem" }',
        'frontend = {\n pem-file = {\n cert = "a.pem"\n }\n sni-nomatch-abort = off\n}',
    ],
)
def test_certificate_of_the_only_frontend(frontend: str) -> None:
    """It is the service's."""
    found, _ = one(f'{frontend}\ntls-protos = TLSv1.3\nbackend = "[127.0.0.1]:80"\n')
    assert (found["listen"], found["cert"], found["tls-min"]) == ([":443"], ["a.pem"], "1.3")


def test_addresses() -> None:
    """Frontends in a line and in a block, and backends at a path."""
    found, lost = one(
        'frontend = "[::1]:1"\nfrontend = "localhost:2"\n'
        'frontend = {\n host = "*"\n port = "3"\n}\n'
        'frontend = "[*]:4+a.pem"\nfrontend = { host = "x"\nport = "5"\nciphers = "y"\n}\n'
        'frontend = ""\nbackend = "/run/b"\n'
    )
    assert found["listen"] == ["[::1]:1", "localhost:2", ":3", ":4", "x:5"]
    assert found["operands"] == ["unix:/run/b"]
    assert lost == {"pem-file": LOST, "ciphers": SECURITY}


@pytest.mark.parametrize(
    ("line", "weight"),
    [
        *((line, NOTE) for line in ("daemon = on", "write-ip = off", "ocsp-resp-tmo = 5")),
        *((line, LOST) for line in ("write-ip = on", "proxy-proxy = on")),
        *((line, LOST) for line in ('pem-dir = "x"', 'group = "x"')),
        *((line, SECURITY) for line in ("sni-nomatch-abort = Y", "client-verify = optional")),
        *((line, SECURITY) for line in ("client-verify = maybe",)),
        *((line, SECURITY) for line in ("sni-nomatch-abort = on", 'ciphers = "RC4"', "what = 1")),
        *((line, SECURITY) for line in ('ecdh-curve = "x"', "tls-protos = SSLv3")),
        ('what = "="', SECURITY),
        ('odd = "}"\npem-file = { cert = "a"\nodd = "x"\n}', SECURITY),
    ],
)
def test_what_is_not_carried_over(line: str, weight: Weight) -> None:
    """Each such line is named, and none that matters to security is a mere note."""
    _, found = one(f"{_BASE}{line}\n")
    assert found[line.partition(" ")[0]] is weight


@pytest.mark.parametrize(
    "text",
    [
        *("", "frontend", "backend =", "= x", 'backend = "nonsense"', 'frontend = "[*]:443"'),
        *("a = {", "pem-file = {", "a = { b = { c = { d = 1 } } }", f"{_BASE}syslog = perhaps"),
    ],
)
def test_no_configuration(text: str) -> None:
    """It says where it ends."""
    with pytest.raises(ConfigError) as caught:
        hitch.translate(text, "conf")
    assert str(caught.value).startswith("conf:")


@given(st.text('{}="# \n[]:*+abk1,\x01', max_size=60))
def test_any_text(text: str) -> None:
    """It is translated into TOML, or refused."""
    try:
        drafts = hitch.translate(_BASE + text, "conf")
    except ConfigError:
        return
    for draft in drafts:
        tomllib.loads(draft.write())
