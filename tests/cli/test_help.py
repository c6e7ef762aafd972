"""Tests of help."""

from __future__ import annotations

import re

import pytest

from tests.cli.forked import refused
from tlsify.cli import pages
from tlsify.cli.help import TOPICS


@pytest.mark.parametrize("topic", ["connect", "help", "status"])
def test_verbs(topic: str) -> None:
    """A verb's help is what its --help prints; it is no matter where options of ours stand."""
    said = refused("help", topic).succeeded()
    assert said == refused(topic, "--help").succeeded() == refused("help", "-v", topic).succeeded()


def test_exit_codes() -> None:
    """They are a topic of their own."""
    said = refused("help", "exit-codes").succeeded().decode()
    assert "\n   98  the peer is not one of the accepted identities" in said


def test_pages() -> None:
    """Each is listed with its title, and shown as it is."""
    assert refused("help", "handoff").succeeded().decode() == pages.text("handoff")
    listed = refused("help", "pages").succeeded().decode().splitlines()
    shown = dict(re.split(r" +", line, maxsplit=1) for line in listed)
    assert [*shown.values()] == [*pages.titles().values()]
    assert not {*shown} & {*TOPICS}, "a verb's own name shows the verb's help"
    assert all((pages.text(name) or "").startswith(f"# {title}\n") for name, title in shown.items())
    refused("help", "handof").failed(100, "did you mean handoff?")


def test_unknown_topic() -> None:
    """The topics are listed, the one that is meant first."""
    refused("help", "exitcodes").failed(100, '"exitcodes"', "did you mean exit-codes?", *TOPICS)
