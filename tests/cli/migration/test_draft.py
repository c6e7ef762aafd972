"""Tests of drafts: the file says what was translated, and what was not."""

from __future__ import annotations

import tomllib

import pytest

from tlsify.cli.migration.draft import Draft, Setting, Weight


def test_file() -> None:
    """Values of all kinds are TOML, and what is lost is a comment that no value can end."""
    draft = Draft("a", options={"user": 'q"\\\x7f\u00e9', "idle": 5, "syslog": True})
    draft.add("listen", ":443")
    draft.add("listen", ":443")
    draft.operands = ["unix:/run/\n"]
    draft.pairs = [("a.pem", "a.pem"), ("b.pem", "b.key")]
    draft.note(Setting("pid", "x", "conf", 1), "not needed")
    draft.lose(Setting("local", "y\nverb = 1\x01", "conf", 2), "no")
    text = draft.write()
    assert tomllib.loads(text) == {
        "verb": "forward",
        "user": 'q"\\\x7f\u00e9',
        "idle": 5,
        "syslog": True,
        "listen": [":443"],
        "cert": ["a.pem", "b.pem"],
        "key": ["a.pem", "b.key"],
        "operands": ["unix:/run/\n"],
    }
    assert "# conf:2: lost: local = y\\nverb = 1\\x01: no\n" in text
    assert "pid" not in text
    assert [remark.weight for remark in draft.remarks] == [Weight.NOTE, Weight.LOST]


def test_keys_in_the_files_of_their_certificates() -> None:
    """Then there is no word about them."""
    draft = Draft("a", verb="listen", program=["prog", "-x"], pairs=[("a.pem", "a.pem")])
    assert tomllib.loads(draft.write()) == {
        "verb": "listen",
        "cert": ["a.pem"],
        "program": ["prog", "-x"],
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "sesame") for name in ("protocolPassword", "ticketKeySecret", "pkcs11-pin")),
        *((name, "sesame") for name in ("protocolPasswrd", "providerParameter", "engineCtrl")),
        ("cert", "pkcs11:token=x;pin-value=sesame?pin-value=sesame"),
        ("proxy", "http://user:sesame@proxy.example:3128"),
    ],
)
def test_secrets(name: str, value: str) -> None:
    """No password gets into a message or a file, whether it is all of a value or a part of it."""
    draft = Draft("a")
    draft.lose(Setting(name, value, "conf", 1), "why")
    assert "sesame" not in draft.write()
    assert f"{name} = " in draft.write()
    assert "***" in draft.write()
