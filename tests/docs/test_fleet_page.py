"""The page about several machines, and its examples: their options, paths and metrics exist."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.docs.examples import PROJECT
from tlsify.addresses import Address
from tlsify.cli.parser import read_words
from tlsify.metrics.exposition import About, Scrape, render
from tlsify.serving import supervisor

if TYPE_CHECKING:
    import argparse

_EXAMPLES = PROJECT / "docs/examples"
_METRIC = re.compile(r"\btlsify_[a-z_]+")
_ABOUT = About((("a", 1.0),), {"connections": 1}, {"a:1": True})


def _manifest() -> str:
    return (_EXAMPLES / "kubernetes.yaml").read_text()


def _arguments() -> argparse.Namespace:
    found = re.search(r"^ +args: (\[.*?\])", _manifest(), re.MULTILINE | re.DOTALL)
    assert found is not None
    verb, *words = json.loads(found[1])
    return read_words(verb, words)


def test_deployment() -> None:
    """The command is one; ports, probes and times fit it."""
    given, text = _arguments(), _manifest()
    ports = dict(re.findall(r"name: (\w+), containerPort: (\d+)", text))
    assert {name: int(port) for name, port in ports.items()} == {
        "https": given.listen[0].port,
        "http": given.redirect_http.port,
        "metrics": given.metrics.port,
    }
    assert all(isinstance(each, Address) for each in (given.metrics, given.redirect_http))
    paths = re.findall(r"httpGet: {path: (\S+), port: metrics}", text)
    assert paths == ["/readyz", "/livez"]
    for path in paths:
        answer = Scrape(lambda: _ABOUT)(f"GET {path} HTTP/1.1\r\n\r\n".encode(), None)
        assert answer.startswith(b"HTTP/1.1 200 ")
    found = re.search(r"terminationGracePeriodSeconds: (\d+)", text)
    assert found is not None
    assert int(found[1]) >= given.drain_delay + given.drain + supervisor._GRACE
    assert re.findall(r"targetPort: (\w+)", text) == ["https", "http"]


def test_metrics() -> None:
    """The dashboard's metrics, and those of the page's alerts, are among ours."""
    known = set(_METRIC.findall(render(_ABOUT)))
    dashboard = json.loads((_EXAMPLES / "grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for each in expressions for name in _METRIC.findall(each)}
    assert len(asked) > 20
    assert asked <= known
    assert set(_METRIC.findall((PROJECT / "docs/fleet.md").read_text())) <= known
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(each.count("(") == each.count(")") for each in expressions)
