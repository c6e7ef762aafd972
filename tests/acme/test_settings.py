"""Tests of settings."""

from __future__ import annotations

from tlsify.acme.settings import Wanted


def test_files_of_a_certificate() -> None:
    """They are called after its first name, and what is no certificate begins with a dot."""
    wanted = Wanted(("a.example", "b.example"))
    assert wanted.file == "a.example.pem"
    assert len({wanted.file, wanted.attempts, wanted.schedule}) == 3
    assert all(name.startswith(".a.example.") for name in (wanted.attempts, wanted.schedule))
