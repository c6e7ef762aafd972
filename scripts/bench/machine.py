"""What figures stand on: processor, kernel, programs. No host names, no paths."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from pathlib import Path

from scripts.bench import peers


def cores() -> tuple[int, int]:
    """Return the core for what is measured and the one for the load; the same if there is one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def facts() -> dict[str, object]:
    """Describe the machine and every program."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        # What a distribution or host adds to the version is its own affair.
        "kernel": f"Linux {platform.release().partition('-')[0]}",
        "guest": peers.IN_GUEST or None,
        "aes": _aes(),
        "versions": peers.versions(),
    }


def origin() -> dict[str, str]:
    """Return the version that figures are of, and when they were taken."""
    words = ["git", "-C", str(peers.ROOT), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, check=True)
        commit = found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or not a clone
        commit = "?"
    return {"tlsify": commit, "date": dt.datetime.now(dt.UTC).date().isoformat()}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "?"


def _aes() -> str:
    """Name the kernel's driver of gcm(aes): a generic one would make every figure a bad one."""
    best, driver, name = -1, "?", ""
    try:
        lines = Path("/proc/crypto").read_text().splitlines()
    except OSError:
        return "?"
    found: dict[str, str] = {}
    for line in [*lines, ""]:
        if line:
            key, _, value = line.partition(":")
            found[key.strip()] = value.strip()
            continue
        name, priority = found.get("name", ""), int(found.get("priority", -1))
        if name == "gcm(aes)" and priority > best:
            best, driver = priority, found.get("driver", "?")
        found = {}
    return driver
