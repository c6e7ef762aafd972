"""Suggestions for words that the command does not know."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# How alike two words have to be, from 0 to 1.
_LEAST = 0.75
# What other programs call our options, where the names are not alike.
_ELSEWHERE = {
    "-b": "--listen",
    "-p": "--listen",
    "--address": "--listen",
    "--bind": "--listen",
    "--port": "--listen",
    "-k": "--no-verify",
    "--insecure": "--no-verify",
    "--no-check-certificate": "--no-verify",
    "--cacert": "--ca",
    "-CAfile": "--ca",
    "--ca-certificate": "--ca",
    "-E": "--cert",
    "--ssl-certfile": "--cert",
    "--ssl-keyfile": "--key",
    "--private-key": "--key",
    "--sni": "--servername",
    "-servername": "--servername",
    "-starttls": "--starttls",
    "-alpn": "--alpn",
    "--processes": "--workers",
    "-w": "--workers",
    "-V": "--version",
}


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that this one is meant for, if one is alike."""
    names = list(known)
    meant = _ELSEWHERE.get(word)
    if meant in names:
        return meant
    return next(iter(get_close_matches(word, names, 1, _LEAST)), None)


def hint(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint that names the word that is meant, and where all of them are."""
    found = closest(word, known)
    return f"did you mean {found}? {otherwise}" if found is not None else otherwise
