"""Tests of machine."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.surveys import (
    BARE,
    BUSY,
    COUNTERS,
    HIDDEN,
    NOTHING,
    OFFLOADED,
    OWN,
    REASON,
    RELAYED,
    SEEN,
)
from tlsify import __version__
from tlsify.cli.report import machine
from tlsify.connection.handoff import Reason
from tlsify.status.sockets import Unseen

if TYPE_CHECKING:
    from tlsify.status.sockets import Survey

_KEYS = ["tlsify", "available", "sockets", "fallbacks", "devices", "counters", "unseen"]

_SOCKET_KEYS = [
    "processes",
    "uid",
    "user",
    "local",
    "peer",
    "inode",
    "version",
    "cipher",
    "tx",
    "rx",
    "bytes_sent",
    "bytes_acknowledged",
    "bytes_received",
    "idle_seconds",
    "tlsify",
]
_METRIC = re.compile(r'(\w+)(?:\{((?:\w+="(?:[^"\\]|\\.)*",?)+)\})? (\d+)')


# -- JSON


def test_json() -> None:
    """The documented keys, and no others, on one line."""
    printed = machine.as_json(SEEN)
    assert "\n" not in printed
    report = json.loads(printed)
    assert list(report) == _KEYS
    assert (report["devices"], report["fallbacks"]) == (None, [])
    assert (report["tlsify"], report["available"]) == (__version__, True)
    assert report["counters"] == COUNTERS
    assert report["unseen"] == [dataclasses.asdict(HIDDEN)]
    busy, bare = report["sockets"]
    assert list(busy) == list(bare) == _SOCKET_KEYS
    assert busy["processes"] == [{"pid": 17, "command": "nginx"}, {"pid": 18, "command": "nginx"}]
    assert busy["peer"] == {"address": "192.0.2.7", "port": 50000}
    assert (busy["version"], busy["cipher"], busy["tx"]) == ("TLSv1.3", "AES_GCM_256", "device")
    assert (busy["bytes_acknowledged"], busy["idle_seconds"]) == (3_400_000, 0.25)
    assert [key for key, value in bare.items() if value is None] == [
        *("version", "cipher", "bytes_sent", "bytes_acknowledged", "bytes_received"),
        *("idle_seconds", "tlsify"),
    ]


def test_json_of_our_own() -> None:
    """What tlsify knows of a connection stands apart, and so do the reasons to relay."""
    report = json.loads(machine.as_json(OWN))
    foreign, offloaded, relayed = (each["tlsify"] for each in report["sockets"])
    assert foreign is None
    assert offloaded == {
        "server_name": "example.org",
        "alpn": "h2",
        "suite": "TLS_AES_256_GCM_SHA384",
        "group": "X25519MLKEM768",
        "resumed": True,
        "age_seconds": 4000,
        "rekeys": {"sent": 2, "received": 1},
        "records": {"sent": 12, "received": 7},
        "reason": None,
        "sandbox": {"landlock": 7, "seccomp": True},
    }
    assert list(relayed) == list(offloaded)
    assert (relayed["server_name"], relayed["group"], relayed["rekeys"]) == (None, None, None)
    assert relayed["reason"] == "no-tls-ulp"
    code, sentence, hint = REASON
    assert report["fallbacks"] == [
        {"code": code, "sentence": sentence, "hint": hint, "connections": 1}
    ]
    features = {"tls-hw-tx-offload": "on", "tls-hw-rx-offload": "off", "tls-hw-record": "none"}
    assert report["devices"] == [{"name": "eth0", **features}]


def test_json_with_rates() -> None:
    """Rates are there where they were asked for, and null where they are not known."""
    rates = {BUSY.identity: (2048.0, 50.0)}
    busy, bare = json.loads(machine.as_json(SEEN, rates))["sockets"]
    assert (busy["sent_per_second"], busy["received_per_second"]) == (2048, 50)
    assert (bare["sent_per_second"], bare["received_per_second"]) == (None, None)


# -- Prometheus


def _read(seen: Survey) -> tuple[dict[str, str], dict[tuple[str, str | None], int]]:
    """Read metrics as Prometheus does: kinds, and values by name and labels."""
    found, types = {}, {}
    for line in "".join(machine.metrics(seen)).splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            types[name] = kind
        elif not line.startswith("# HELP "):
            match = _METRIC.fullmatch(line)
            assert match is not None, line
            assert match[1] in types
            found[match[1], match[2]] = int(match[3])
    return types, found


def test_prometheus() -> None:
    """Each family has its type, and each line is one that Prometheus reads."""
    twin = BUSY._replace(inode=7)
    types, found = _read(dataclasses.replace(SEEN, sockets=(BUSY, BARE, twin)))
    assert types == {
        "tlsify_ktls_available": "gauge",
        "tlsify_sockets_hidden": "gauge",
        "tlsify_sockets_incomplete": "gauge",
        "tlsify_sockets": "gauge",
        "tlsify_sockets_own": "gauge",
        "tlsify_sockets_relayed": "gauge",
        "tlsify_sockets_rekeys": "gauge",
        "tlsify_tls_stat_current": "gauge",
        "tlsify_tls_stat": "counter",
    }
    assert found == {
        ("tlsify_ktls_available", None): 1,
        ("tlsify_sockets_hidden", None): 0,
        ("tlsify_sockets_incomplete", None): 0,
        ("tlsify_sockets_rekeys", 'direction="sent"'): 0,
        ("tlsify_sockets_rekeys", 'direction="received"'): 0,
        ("tlsify_sockets", 'tx="device",rx="kernel",version="TLSv1.3",cipher="AES_GCM_256"'): 2,
        ("tlsify_sockets", 'tx="none",rx="none",version="none",cipher="none"'): 1,
        ("tlsify_tls_stat_current", 'counter="TlsCurrTxSw"'): 0,
        ("tlsify_tls_stat_current", 'counter="TlsCurrTxDevice"'): 1,
        ("tlsify_tls_stat", 'counter="TlsTxDevice"'): 9,
        ("tlsify_tls_stat", 'counter="TlsDecryptError"'): 0,
    }


def test_prometheus_of_our_own() -> None:
    """Connections by what was agreed on, not by name; reasons to relay; devices."""
    _, found = _read(OWN)
    own = 'offload="kernel",alpn="h2",group="X25519MLKEM768",resumed="yes"'
    assert found["tlsify_sockets_own", own] == 1
    assert found["tlsify_sockets_relayed", 'reason="no-tls-ulp"'] == 1
    assert found["tlsify_sockets_rekeys", 'direction="sent"'] == 2
    assert found["tlsify_sockets_rekeys", 'direction="received"'] == 1
    assert found["tlsify_device", 'device="eth0",feature="tls-hw-rx-offload",state="off"'] == 1
    assert not [labels for _, labels in found if labels is not None and "example" in labels]


def test_hidden_sockets() -> None:
    """It says so where the kernel hides sockets."""
    hidden = Unseen("sockets", "all", "root")
    _, found = _read(dataclasses.replace(NOTHING, unseen=(hidden,)))
    assert found["tlsify_sockets_hidden", None] == 1


@pytest.mark.parametrize("code", ["rosters", "answers"])
def test_untold(code: str) -> None:
    """It says so where a process did not tell all."""
    _, found = _read(dataclasses.replace(NOTHING, unseen=(Unseen(code, "some", "look"),)))
    assert found["tlsify_sockets_incomplete", None] == 1


def test_one_series_for_each_reason() -> None:
    """Whatever is said of a reason besides, Prometheus takes no series twice."""
    assert RELAYED.entry is not None
    told = [
        RELAYED._replace(entry=RELAYED.entry._replace(reason=Reason("odd", sentence, None)))
        for sentence in ("one", "another")
    ]
    text = "".join(machine.metrics(dataclasses.replace(OWN, sockets=tuple(told))))
    assert text.count("tlsify_sockets_relayed{") == 1
    assert 'tlsify_sockets_relayed{reason="odd"} 2\n' in text


def test_so_many_series() -> None:
    """Who makes up names makes so many series and no more, and hides none that counts."""
    assert RELAYED.entry is not None
    told = [RELAYED, RELAYED]
    for number in range(1000):
        reason = Reason(f"odd-{number}", "", None)
        entry = RELAYED.entry._replace(alpn=str(number), reason=reason)
        told.append(RELAYED._replace(entry=entry))
    _, found = _read(dataclasses.replace(OWN, sockets=tuple(told)))
    for name in ("tlsify_sockets_own", "tlsify_sockets_relayed"):
        assert len([each for each, _ in found if each == name]) == 256
    assert found["tlsify_sockets_relayed", 'reason="no-tls-ulp"'] == 2


@given(st.text(), st.text())
def test_labels(first: str, second: str) -> None:
    """Whatever a peer has chosen, a label stays one."""
    entry = OFFLOADED.entry
    assert entry is not None
    odd = OFFLOADED._replace(entry=entry._replace(alpn=first, group=second))
    lines = "".join(machine.metrics(dataclasses.replace(OWN, sockets=(odd,)))).split("\n")
    (line,) = (each for each in lines if each.startswith("tlsify_sockets_own{"))
    assert line.isprintable()
    label = r'"((?:[^"\\]|\\["\\])*)"'
    assert re.fullmatch(
        rf'tlsify_sockets_own{{offload="kernel",alpn={label},group={label},resumed="yes"}} 1', line
    )
