"""Tests of stunnel's configurations."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.migration.reading import read_back
from tlsify.cli.migration import stunnel
from tlsify.cli.migration.draft import Weight
from tlsify.errors import ConfigError

if TYPE_CHECKING:
    from tests.cli.conftest import Pki

NOTE, LOST, SECURITY = Weight
_SERVER = "[s]\naccept = 443\nconnect = 80\n"
_CLIENT = "[s]\nclient = yes\naccept = ::1:143\nconnect = mail.example:993\n"


def one(text: str) -> tuple[dict[str, object], dict[str, Weight]]:
    """Translate a configuration with one service; return its file and what is not carried over."""
    (draft,) = stunnel.translate(text, "conf")
    weights = {each.setting.name: each.weight for each in draft.remarks}
    is_whole = all(each is NOTE for each in weights.values())
    return read_back(draft) if is_whole else tomllib.loads(draft.write()), weights


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ("", {}),
        ("cert = a.pem", {"cert": ["a.pem"]}),
        ("cert = a.pem\nkey = a.key", {"cert": ["a.pem"], "key": ["a.key"]}),
        ("protocol = proxy", {"proxy-protocol": "1"}),
        (
            "verifyChain = yes\nCAfile = ca.pem\nCRLfile = crl.pem\ncheckHost = a\ncheckHost = b",
            {
                "client-cert": "require",
                "client-ca": "ca.pem",
                "crl": "crl.pem",
                "client-ref-id": ["dns:a", "dns:b"],
            },
        ),
        ("verify = 2\nCApath = cas", {"client-cert": "require", "client-ca": "cas"}),
        ("verify = 1\nCAfile = ca", {"client-cert": "request", "client-ca": "ca"}),
        ("ciphersuites = TLS_AES_128_GCM_SHA256", {"ciphers": "aes-128-gcm"}),
        ("curves = X25519", {"groups": "x25519"}),
        ("sslVersion = TLSv1.3", {"tls-min": "1.3"}),
        ("sslVersionMin = TLSv1.2\nsslVersionMax = TLSv1.2", {"tls-max": "1.2"}),
        ("options = NO_TLSv1.2", {"tls-min": "1.3"}),
        ("setuid = root\nsetgid = root\nsyslog = yes\ndebug = daemon.7", {
            "user": "root:root", "syslog": True, "log-level": "debug"
        }),
        ("debug = err\nTIMEOUTidle = 60\nTIMEOUTbusy = 9\nTIMEOUTconnect = 3", {
            "log-level": "error", "idle": 60, "timeout": 9, "connect-timeout": 3
        }),
    ],
)  # fmt: skip
def test_server(lines: str, options: dict[str, object]) -> None:
    """What is carried over, in front of the service or in it."""
    for text in (f"{lines}\n{_SERVER}", f"{_SERVER}{lines}\n"):
        found, _ = one(text)
        base = {"verb": "forward", "listen": ["0.0.0.0:443"], "operands": ["localhost:80"]}
        assert found == base | options


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ("", {}),
        ("sni = b.example", {"backend-servername": "b.example"}),
        ("cert = c.pem", {"backend-cert": "c.pem", "backend-key": "c.pem"}),
        (
            "verifyChain = yes\nCAfile = ca\ncheckIP = 192.0.2.1",
            {"backend-ca": "ca", "backend-ref-id": ["ip:192.0.2.1"]},
        ),
        ("protocol = pgsql\nsslVersion = TLSv1.3", {
            "backend-starttls": "postgres", "backend-tls-min": "1.3"
        }),
    ],
)  # fmt: skip
def test_client(lines: str, options: dict[str, object]) -> None:
    """A client's settings are about its backend."""
    found, _ = one(f"{_CLIENT}{lines}\n")
    base = {
        "verb": "forward",
        "connect": True,
        "listen": ["[::1]:143"],
        "operands": ["mail.example:993"],
    }
    assert found == base | options


# Of stunnel's manual: each may stand in a service, whatever it says there.
_ALL = """
accept CApath CAfile cert checkEmail checkHost checkIP chroot ciphers ciphersuites client
compression config connect CRLfile CRLpath curves debug delay EGD engine engineCtrl
engineDefault engineId engineNum exec execArgs fips foreground iconActive ident include key
libwrap local log logId OCSP OCSPaia OCSPflag OCSPnonce OCSPrequire options output pid protocol
protocolAuthentication protocolDomain protocolHeader protocolHost protocolPassword
protocolUsername PSKidentity PSKsecrets pty redirect renegotiation requireCert reset retry
RNDbytes RNDfile RNDoverwrite securityLevel service sessiond sessionCacheSize
sessionCacheTimeout sessionResume setgid setuid sni socket sslVersion sslVersionMax
sslVersionMin stack syslog ticketKeySecret ticketMacSecret TIMEOUTbusy TIMEOUTclose
TIMEOUTconnect TIMEOUTidle TIMEOUTocsp transparent verify verifyChain verifyPeer
"""


@pytest.mark.parametrize("base", [_SERVER, _CLIENT])
def test_no_line_is_passed_over(base: str) -> None:
    """Each is in the file that is written, or named."""
    before, number = stunnel.translate(base, "conf")[0].write(), base.count("\n") + 1
    for name in _ALL.split():
        if name == "sni" and base is _SERVER:
            continue
        (draft,) = stunnel.translate(f"{base}{name} = yes\n", "conf")
        named = {each.setting.number for each in draft.remarks}
        assert number in named or draft.write() != before, name


@pytest.mark.parametrize(
    ("line", "weight"),
    [
        *((line, NOTE) for line in ("pid = x", "foreground = yes", "options = NO_SSLv3")),
        *((line, NOTE) for line in ("libwrap = no", "TIMEOUTclose = 0", "renegotiation = no")),
        *((line, NOTE) for line in ("options = NO_SSLv2\noptions = NO_SSLv3",)),
        *(
            (line, SECURITY)
            for line in ("checkHost = .example.org\nverifyChain = yes\nCAfile = x",)
        ),
        *((line, LOST) for line in ("protocolHost = x:1", "protocolPassword = x")),
        *((line, NOTE) for line in ("securityLevel = 2", "CAfile = x", "checkHost = x")),
        *((line, LOST) for line in ("chroot = /x", "transparent = source", "protocol = smtp")),
        *((line, LOST) for line in ("include = conf.d", "local = 192.0.2.1", "setgid = x")),
        *((line, SECURITY) for line in ("libwrap = yes", "PSKsecrets = x", "fips = yes")),
        *((line, SECURITY) for line in ("verifyPeer = yes", "OCSP = http://x", "checkEmail = x")),
        *((line, SECURITY) for line in ("options = ALL", "securityLevel = 3", "config = X:y")),
        *((line, SECURITY) for line in ("ciphers = RC4", "curve = sect163k1", "whatever = x")),
        *((line, SECURITY) for line in ("cert = pkcs11:x", "cert = a.p12", "verifyChain = yes")),
        *((line, SECURITY) for line in ("verify = 5",)),
        *((line, SECURITY) for line in ("sslVersion = TLSv1", "sslVersionMax = TLSv9")),
    ],
)
def test_what_is_not_carried_over(line: str, weight: Weight) -> None:
    """Each such line is named, and none that matters to security is a mere note."""
    _, found = one(f"{_SERVER}{line}\n")
    assert found[line.partition(" ")[0]] is weight


def test_client_without_verification() -> None:
    """Tlsify verifies all the same, and says how to go without."""
    (draft,) = stunnel.translate(_CLIENT, "conf")
    (remark,) = draft.remarks
    assert str(remark).startswith("conf:2: note: client = yes: ")
    assert "backend-no-verify = true" in remark.why


def test_addresses() -> None:
    """They are what they are in stunnel: a port alone is for IPv4, and the backend is localhost."""
    text = (
        "[s]\naccept = :::443\naccept = /run/s\naccept = a:1\nconnect = /run/b\nconnect = ::1:2\n"
    )
    found, _ = one(f"{text}failover = prio\n")
    assert found["listen"] == [":443", "unix:/run/s", "a:1"]
    assert found["operands"] == ["unix:/run/b,[::1]:2"]
    assert "balance" not in found
    assert one(text)[0]["balance"] == "round-robin"


def test_program() -> None:
    """It is run by `listen`; its first argument is its name there."""
    found, lost = one("TIMEOUTidle = 5\n[s]\naccept = 1\nexec = /bin/p\nexecArgs = p -a b\n")
    assert found == {"verb": "listen", "listen": ["0.0.0.0:1"], "program": ["/bin/p", "-a", "b"]}
    assert lost == {"TIMEOUTidle": LOST}


def test_names() -> None:
    """A service for a name becomes a route, if all else that is about TLS is the same."""
    master = f"cert = a\n{_SERVER}cert = b\n"
    found, lost = one(f"{master}[t]\nsni = s:*.t.example\nsni = s:t\ncert = c\nconnect = 81\n")
    assert found["cert"] == ["b", "c"]
    assert found["route"] == ["sni:*.t.example=localhost:81", "sni:t=localhost:81"]
    assert lost == {}
    _, lost = one(f"{master}[t]\nsni = s:t\nverifyChain = yes\nCAfile = x\nconnect = 81\n")
    assert lost == {"sni": SECURITY}
    with pytest.raises(ConfigError, match=r"no service \[x\]"):
        one(f"{master}[t]\nsni = x:t\nconnect = 1\n")


def test_pins(pki: Pki) -> None:
    """A peer that is known by its certificate is known by its key."""
    found, lost = one(f"{_CLIENT}verifyPeer = yes\nCAfile = {pki.good.certificate}\n")
    assert found["backend-no-verify"] is True
    pins = found["backend-pin"]
    assert isinstance(pins, list)
    assert all(str(pin).startswith("sha256//") for pin in pins)
    assert lost == {"CAfile": NOTE}
    for file in ("", "CAfile = /nowhere\n"):
        _, lost = one(f"{_CLIENT}verifyPeer = yes\n{file}")
        assert SECURITY in lost.values()


@pytest.mark.parametrize("text", ["", "accept = 1\n", "[s]\nnonsense\n"])
def test_no_configuration(text: str) -> None:
    """It says what is missing."""
    with pytest.raises(ConfigError) as caught:
        stunnel.translate(text, "conf")
    assert str(caught.value).startswith("conf:")
    assert caught.value.hint


@given(st.text("[]=;#\n s:/1axy", max_size=60))
def test_any_text(text: str) -> None:
    """It is translated into TOML, or refused."""
    try:
        drafts = stunnel.translate(text, "conf")
    except ConfigError:
        return
    for draft in drafts:
        tomllib.loads(draft.write())
