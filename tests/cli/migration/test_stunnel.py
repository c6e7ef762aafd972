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
    from pathlib import Path

    from tests.cli.conftest import Pki

NOTE, LOST, SECURITY = Weight
_SERVER = "cert = s.pem\n[s]\naccept = 443\nconnect = 80\n"
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
        ("key = a.key", {"key": ["a.key"]}),
        ("key =\nCAfile =", {}),
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
        ("verifyChain = YES\nCAfile = ca\nrequireCert = no", {
            "client-cert": "request", "client-ca": "ca"
        }),
        ("chroot = /jail\nverifyChain = yes\nCApath = /cas\nchroot = no", {
            "client-cert": "require", "client-ca": "no/cas"
        }),
        ("verify = 1\nCAfile = ca", {"client-cert": "request", "client-ca": "ca"}),
        ("ciphersuites = TLS_AES_128_GCM_SHA256", {"ciphers": "aes-128-gcm"}),
        ("curves = X25519", {"groups": "x25519"}),
        ("sslVersion = TLSv1.3", {"tls-min": "1.3"}),
        ("sslVersionMin = TLSv1.2\nsslVersionMax = TLSv1.2", {"tls-max": "1.2"}),
        ("sslversion = tlsv1.3", {"tls-min": "1.3"}),
        ("options = NO_TLSv1.2", {"tls-min": "1.3"}),
        ("options = no_tlsv1_2\noptions = no_sslv3\noptions = ALL", {"tls-min": "1.3"}),
        ("options = -NO_TLSv1_3\noptions = NO_TLSv1.3", {}),
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
        base = {
            "verb": "forward",
            "listen": ["0.0.0.0:443"],
            "cert": ["s.pem"],
            "operands": ["localhost:80"],
        }
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
        ("protocol = ldap", {"backend-starttls": "ldap"}),
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
        try:
            (draft,) = stunnel.translate(f"{base}{name} = yes\n", "conf")
        except ConfigError as exc:  # an address
            assert str(exc).startswith(f"conf:{number}: ")
            continue
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
        *(
            (line, LOST)
            for line in ("exec = /bin/x\nclient = yes", "local = 192.0.2.1", "setgid = x")
        ),
        *((line, LOST) for line in ("CApath = x\nCAfile = y\nverifyChain = yes", "execArgs = x y")),
        *((line, LOST) for line in ("socket = l:IP_TOS=8", "key = x\ncert =")),
        *((line, NOTE) for line in ("socket = l:TCP_NODELAY=1", "options = -NO_SSLv3")),
        *((line, SECURITY) for line in ("include = /nowhere", "requireCert = yes", "CRLpath = x")),
        *((line, SECURITY) for line in ("socket = a:SO_BINDTODEVICE=eth0",)),
        *((line, SECURITY) for line in ("libwrap = yes", "PSKsecrets = x", "fips = yes")),
        *((line, SECURITY) for line in ("verifyPeer = yes", "OCSP = http://x", "checkEmail = x")),
        *((line, SECURITY) for line in ("options = ODD", "securityLevel = 3", "config = X:y")),
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
    found, lost = one(
        "cert = c\nTIMEOUTidle = 5\nprotocol = proxy\n"
        "[s]\naccept = 1\nexec = /bin/p\nexecArgs = p -a b\n"
    )
    assert found == {
        "verb": "listen",
        "listen": ["0.0.0.0:1"],
        "cert": ["c"],
        "program": ["/bin/p", "-a", "b"],
    }
    assert lost == {"TIMEOUTidle": LOST, "protocol": LOST}


def test_sections_of_one_name() -> None:
    """Each is a service, as in stunnel."""
    drafts = stunnel.translate(f"{_SERVER}[s]\naccept = 444\nconnect = 81\n", "conf")
    assert [draft.options["listen"] for draft in drafts] == [["0.0.0.0:443"], ["0.0.0.0:444"]]


def test_what_is_missing() -> None:
    """A service that lacks what tlsify cannot do without is named."""
    for text, missing in {
        "[s]\nconnect = 80\ncert = c\n": "accept",
        "[s]\naccept = 80\ncert = c\n": "connect",
        "[s]\naccept = 80\nconnect = 81\n": "cert",
    }.items():
        (draft,) = stunnel.translate(text, "conf")
        assert [str(remark).split(": ")[:3] for remark in draft.remarks] == [["s", "lost", missing]]


@pytest.mark.parametrize(
    "line",
    [
        "accept = *:443",
        "accept = 1 ; comment",
        "connect = HOST:PORT",
        "connect =",
    ],
)
def test_no_address(line: str) -> None:
    """The line is named, whatever stunnel makes of it."""
    with pytest.raises(ConfigError, match=r"^conf:5: ") as caught:
        one(f"{_SERVER}{line}\n")
    assert caught.value.hint


def test_pins(pki: Pki, tmp_path: Path) -> None:
    """A peer that is known by its certificate is known by its key, if that has a right name."""
    known = tmp_path / "known.pem"
    known.write_bytes(pki.good.certificate.read_bytes())
    client = f"{_CLIENT}verifyPeer = yes\n"
    for name in ("", "checkHost = localhost\n"):
        found, lost = one(f"{client}CAfile = {known}\n{name}")
        assert found["backend-no-verify"] is True
        assert "backend-ref-id" not in found  # it would not be looked at
        pins = found["backend-pin"]
        assert isinstance(pins, list)
        assert all(str(pin).startswith("sha256//") for pin in pins)
        assert lost == {"CAfile": NOTE}
    for lines in (
        "",
        "CAfile = /nowhere\n",
        f"CAfile = {known}\ncheckHost = another.example\n",
        f"CAfile = {known}\ncheckHost = .example\n",
        f"CAfile = {known}\nCRLfile = x\ncheckHost = another.example\n",
    ):
        found, lost = one(f"{client}{lines}")
        assert SECURITY in lost.values()
        assert "backend-no-verify" not in found  # not even by --lossy
    _, lost = one(f"{client}CAfile = {known}\nCRLfile = x\n")
    assert lost["CRLfile"] is SECURITY


@pytest.mark.parametrize("text", ["", "accept = 1\n", "[s]\nnonsense\n"])
def test_no_configuration(text: str) -> None:
    """It says what is missing."""
    with pytest.raises(ConfigError) as caught:
        stunnel.translate(text, "conf")
    assert str(caught.value).startswith("conf:")
    assert caught.value.hint


@given(st.text("[]=;#\n s:/1axy\x01", max_size=60))
def test_any_text(text: str) -> None:
    """It is translated into TOML, or refused."""
    try:
        drafts = stunnel.translate(text, "conf")
    except ConfigError:
        return
    for draft in drafts:
        tomllib.loads(draft.write())
