"""Tests of check."""

from __future__ import annotations

import json
import sys

import pytest

from tests.cli.forked import refused
from tests.cli.harness import run
from tlsify import __version__
from tlsify.cli import main
from tlsify.codepoints import Aead

_FINDING: dict[str, type | tuple[type, ...]] = {
    "code": str,
    "subject": str,
    "ok": (bool, type(None)),
    "detail": str,
    "remedy": (str, type(None)),
    "blocking": bool,
}


def _check_schema(printed: bytes, *, usable: bool) -> dict[str, bool | None]:
    """Expect the documented keys and types and no others; gives code -> ok."""
    report = json.loads(printed)
    assert list(report) == ["tlsify", "usable", "findings"]
    assert report["tlsify"] == __version__
    assert report["usable"] is usable
    for finding in report["findings"]:
        assert list(finding) == list(_FINDING)
        assert all(isinstance(finding[key], kind) for key, kind in _FINDING.items())
        assert finding["ok"] is None or finding["ok"] is (finding["remedy"] is None)
    return {finding["code"]: finding["ok"] for finding in report["findings"]}


@pytest.mark.usefixtures("lacks_ktls")
def test_json_without_ktls() -> None:
    """Without kTLS the exit status is 103, and one finding says what blocks everything."""
    outcome = run("check", "--json")
    assert (outcome.status, outcome.err) == (103, "")
    _check_schema(outcome.out, usable=False)
    (blocking,) = (f for f in json.loads(outcome.out)["findings"] if f["blocking"])
    assert blocking["subject"] == "tls ULP"
    assert blocking["code"].startswith(("no-tls-", "tls-module-"))


@pytest.mark.each_kernel
@pytest.mark.ktls
def test_json_with_ktls(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """With kTLS the exit status is 0, nothing blocks, and every suite is there."""
    monkeypatch.setattr("tlsify.cli.command._protect_process", lambda: None)
    assert main(["check", "--json"]) == 0
    printed = capfdbinary.readouterr()
    assert printed.err == b""
    findings = _check_schema(printed.out, usable=True)
    assert findings["tls-ulp"] is True
    assert findings["suite"]
    reported = [f["subject"] for f in json.loads(printed.out)["findings"] if f["code"] == "suite"]
    assert {f"TLSv1.3 {aead.value}" for aead in Aead} <= {*reported}


@pytest.mark.usefixtures("lacks_ktls")
def test_table_without_ktls() -> None:
    """The table marks what is missing, says what would help, and ends with the verdict."""
    outcome = run("check")
    assert (outcome.status, outcome.err) == (103, "")
    lines = outcome.out.decode().splitlines()
    (loud,) = (line for line in lines if line.startswith("NO"))
    assert loud.startswith("NO   tls ULP")
    (remedy,) = (line.lstrip()[3:] for line in lines if line.lstrip().startswith("-> "))
    assert lines[-2:] == ["tlsify relays TLS 1.3 with AES-GCM here", f"to improve that: {remedy}"]
    assert not [line for line in lines if "kernel encrypts" in line]


@pytest.mark.usefixtures("lacks_ktls")
def test_without_pyroute2(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it would show is unknown, and all else is reported."""
    monkeypatch.setitem(sys.modules, "pyroute2.ethtool", None)
    outcome = refused("check")
    assert (outcome.status, outcome.err) == (103, "")
    assert b"info NIC offload                unknown: the package pyroute2" in outcome.out


@pytest.mark.parametrize("option", ["--ktls=off", "--ktls=require", "--ktls-any-kernel"])
@pytest.mark.usefixtures("lacks_ktls")
def test_options_do_not_change_the_verdict(option: str) -> None:
    """What is asked of tlsify does not change what the host can do."""
    assert run(option, "check").status == 103
