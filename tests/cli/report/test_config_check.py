"""Tests of config_check: what would keep a service from starting shows before it is started."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.certificates import DAY, certify, save
from tests.cli.forked import refused
from tests.cli.harness import run
from tlsify.logs import messages

if TYPE_CHECKING:
    from pathlib import Path

    import trustme


@pytest.fixture
def place(tmp_path: Path, authority: trustme.CA) -> Path:
    """A folder with a certificate, its key, and a folder to serve."""
    issued = authority.issue_cert("example.org", "www.example.org")
    (tmp_path / "cert.pem").touch(0o600)  # it is named as a key, once
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (tmp_path / "key.pem").touch(0o600)
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "www").mkdir()
    return tmp_path


def _write(place: Path, **values: Any) -> Path:
    pair = {"cert": str(place / "cert.pem"), "key": str(place / "key.pem")}
    path = place / "tlsify.toml"
    given = {**pair, **values}
    lines = [f"{name} = {json.dumps(value)}" for name, value in given.items() if value is not None]
    path.write_text("\n".join(lines))
    return path


VERBS = {
    "serve": {"verb": "serve", "operands": ["PLACE/www"], "listen": ["127.0.0.1:0"]},
    "forward": {"verb": "forward", "operands": ["127.0.0.1:0", "unix:/run/backend"]},
    "pass-fd": {"verb": "forward", "operands": ["127.0.0.1:0"], "pass-fd": "unix:/run/workers"},
    "listen": {"verb": "listen", "operands": ["127.0.0.1", 0], "program": ["cat"]},
    "wrap": {"verb": "wrap", "program": ["cat"]},
}


def _of(verb: str, place: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(VERBS[verb]).replace("PLACE", str(place)))
    return values


@pytest.mark.parametrize("verb", VERBS)
def test_all_is_well(place: Path, verb: str) -> None:
    """Certificates are read and named, and nothing is listened on."""
    path = _write(place, **_of(verb, place), ktls="off")
    outcome = run("check", "--config", str(path), "--json")
    found = json.loads(outcome.succeeded())["findings"]
    found = [each for each in found if each["code"] != "backend"]
    assert [each["code"] for each in found] == ["configuration", "certificate", "policy-off"]
    assert [each["ok"] for each in found] == [True, True, None]
    assert found[1]["detail"].startswith("example.org, www.example.org: ")


def test_key_beside_the_configuration(place: Path) -> None:
    """It is used where none is named, as the unit has it, and the report says so."""
    (place / "key.pem").rename(key := place / "tlsify.key")
    path = _write(place, **_of("serve", place), ktls="off", key=None)
    told = refused("check", "--config", path).succeeded().decode()
    assert f"info key                        KEYFILE={key}, as" in " ".join(told.split("\n"))
    refused("--config", path).failed(96, f"{place}/cert.pem holds no private key")


def test_certificate_that_has_expired(place: Path, authority: trustme.CA) -> None:
    """It is a finding, with the day on which it expired, and no number of days."""
    pair = certify(authority, "a.example", begin=-2 * DAY, end=-DAY)
    save(pair, place / "cert.pem", place / "key.pem")
    path = _write(place, **_of("serve", place), ktls="off")
    outcome = refused("check", "--config", path, "--json")
    (found,) = (f for f in json.loads(outcome.out)["findings"] if f["code"] == "certificate")
    assert found["detail"].startswith("a.example; the certificate expired on ")
    assert (outcome.status, found["ok"], found["remedy"]) == (0, False, "replace it")


def test_an_address_in_use_is_none_of_its_business(place: Path) -> None:
    """The service that is to be replaced is running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = [f"127.0.0.1:{taken.getsockname()[1]}"]
        path = _write(place, **_of("serve", place) | {"listen": listen})
        run("check", "--config", str(path)).succeeded()


@pytest.mark.parametrize(
    ("verb", "change", "status", "complaint"),
    [
        ("serve", {"operands": ["/nowhere"]}, 96, "cannot serve /nowhere"),
        ("serve", {"listen": ["nonsense"]}, 100, '"nonsense" has no port'),
        ("serve", {"metrics": "nonsense"}, 100, '"nonsense" has no port'),
        ("serve", {"key": "PLACE/cert.pem"}, 96, "key"),
        ("serve", {"cert": "/nowhere"}, 96, "/nowhere"),
        ("serve", {"alpn": ["h2"]}, 100, "alpn"),
        ("serve", {"client-cert": "require"}, 100, "no authority for clients' certificates"),
        ("forward", {"route": ["h2=127.0.0.1:1"]}, 100, "can never match"),
        ("forward", {"cert": None, "key": None}, 100, "a server needs a certificate"),
        ("pass-fd", {"pass-fd": "127.0.0.1:1"}, 100, "a descriptor cannot be sent to 127.0.0.1:1"),
        ("listen", {"program": []}, 100, "there is no program to run"),
        ("listen", {"operands": ["127.0.0.1"]}, 100, "has no port"),
        ("listen", {"program": ["nosuchprog"]}, 127, "cannot run nosuchprog: not found"),
        ("listen", {"program": ["PLACE/cert.pem"]}, 126, "cert.pem: not executable"),
        ("listen", {"listen": [":7701", "127.0.0.1:7701"]}, 100, "in each other's way"),
        ("wrap", {"program": ["nosuchprog"]}, 127, "cannot run nosuchprog: not found"),
        ("serve", {"ocsp-fetch": True, "ocsp-dir": "/nowhere/x"}, 96, "/nowhere/x: ENOENT"),
        ("serve", {"listen": [":7701"], "metrics": "127.0.0.1:7701"}, 100, "other's way"),
        ("forward", {"metrics": "[::1]:7701", "redirect-http": ":7701"}, 100, "other's way"),
        ("serve", {"write-ca": "PLACE/ca.pem"}, 100, "--write-ca saves"),
    ],
)
def test_what_is_wrong(
    place: Path, verb: str, change: dict[str, Any], status: int, complaint: str
) -> None:
    """It is the message, and the exit status, that the verb itself would end with."""
    values = json.loads(json.dumps(_of(verb, place) | change).replace("PLACE", str(place)))
    path = _write(place, **values)
    refused("check", "--config", str(path)).failed(status, complaint)
    refused("--config", str(path)).failed(status, complaint)


def test_without_syslog(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that asks for it needs one, wherever the check writes its own messages."""
    monkeypatch.setattr(messages, "_SYSLOG", "/nowhere")
    path = _write(place, **_of("serve", place), syslog=True)
    for words in (["check", "--config"], ["--config"]):
        refused(*words, path).failed(96, "syslog", "ENOENT")


def test_other_verbs(place: Path) -> None:
    """Of what is no service there is nothing to check."""
    path = _write(place, verb="status", cert=None, key=None)
    refused("check", "--config", str(path)).failed(100, "no check for status")


def test_backends(place: Path) -> None:
    """Each is connected to; one that is down is a finding, not an error."""
    with socket.create_server(("127.0.0.1", 0)) as up, socket.socket() as down:
        down.bind(("127.0.0.1", 0))
        names = [f"127.0.0.1:{each.getsockname()[1]}" for each in (up, down)]
        operands = ["127.0.0.1:0", ",".join([*names, "unix:/nowhere"])]
        path = _write(place, verb="forward", operands=operands)
        outcome = refused("check", "--config", str(path), "--json").succeeded()
    found = [each for each in json.loads(outcome)["findings"] if each["code"] == "backend"]
    assert [(each["subject"], each["ok"], each["detail"].partition(":")[0]) for each in found] == [
        (f"backend {names[0]}", True, "takes connections"),
        (f"backend {names[1]}", False, "ECONNREFUSED"),
        ("backend unix:/nowhere", False, "ENOENT"),
    ]


@pytest.mark.usefixtures("lacks_ktls")
@pytest.mark.parametrize(("mode", "status"), [("auto", 0), ("require", 103)])
def test_without_ktls(place: Path, mode: str, status: int) -> None:
    """What cannot be offloaded is told, and is an error where it is required."""
    path = _write(place, **_of("serve", place), ktls=mode)
    outcome = run("check", "--config", str(path), "--json")
    assert (outcome.status, outcome.err) == (status, "")
    offload = json.loads(outcome.out)["findings"][-1]
    is_required = mode == "require"
    assert (offload["ok"], offload["blocking"]) == (False if is_required else None, is_required)
    mark = b"NO   " if is_required else b"info "
    assert b"\n" + mark + b"offload" in run("check", "--config", str(path)).out


@pytest.mark.ktls
def test_with_ktls(place: Path) -> None:
    """With it there is nothing to complain about."""
    path = _write(place, **_of("serve", place), ktls="require")
    assert b"\nyes  offload" in run("check", "--config", str(path)).succeeded()
