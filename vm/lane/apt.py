"""Debian packages by a private apt, which installs nothing and reads no setting but the mirrors."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from lane import cache
from lane.cache import LaneError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = ("bookworm", "bookworm-security", "trixie", "trixie-security", "trixie-backports")
LISTS_FRESH_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Selection:
    """Packages to take from some suites, with all that they depend on.

    With several suites the last one is preferred, as `apt-get -t` does. `only` keeps those whose
    names begin so; without it the whole dependency closure is taken.
    """

    suites: tuple[str, ...]
    packages: tuple[str, ...]
    only: str = ""


def _mirrors() -> tuple[str, str]:
    """Return the addresses of Debian's main and security archives that this machine uses."""
    main = os.environ.get("TLSIFY_DEBIAN_MIRROR", "")
    security = os.environ.get("TLSIFY_DEBIAN_SECURITY_MIRROR", "")
    for address, suites in _machine_sources():
        for suite in suites:
            if re.fullmatch(r"(bookworm|trixie|forky|stable|testing|sid)-security", suite):
                security = security or address
            elif re.fullmatch(r"(bookworm|trixie|forky|stable|testing|sid)", suite):
                main = main or address
    if not main or not security:
        raise LaneError(
            "this machine's apt sources name no Debian mirror",
            "set TLSIFY_DEBIAN_MIRROR and TLSIFY_DEBIAN_SECURITY_MIRROR to the archives' addresses",
        )
    return main, security


def _machine_sources() -> list[tuple[str, list[str]]]:
    """Return (address, suites) of every binary source in either of apt's two formats."""
    etc = Path("/etc/apt")
    found = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else []:
            match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", line)
            if match:
                found.append((match[1], [match[2]]))
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = {
                name.lower(): value.split()
                for name, value in re.findall(
                    r"^([\w-]+):((?:.*)(?:\n[ \t]+.*)*)", stanza, re.MULTILINE
                )
            }
            if "deb" in fields.get("types", []) and fields.get("enabled", [""]) != ["no"]:
                found += [(address, fields.get("suites", [])) for address in fields.get("uris", [])]
    return found


def _sources(suites: tuple[str, ...]) -> str:
    main, security = _mirrors()
    return "\n".join(
        f"Types: deb\nURIs: {security if suite.endswith('-security') else main}\n"
        f"Suites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
        for suite in suites
    )


def _apt(command: str, suites: tuple[str, ...], *arguments: str, cwd: Path | None = None) -> str:
    home = cache.home() / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    # With no package recorded as installed, a dependency closure is complete.
    (home / "status").touch()
    sources = home / f"{'+'.join(suites)}.sources"
    sources.write_text(_sources(suites))
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": home,
        "Dir::State::lists": home / "lists",
        "Dir::State::status": home / "status",
        "Dir::Cache": home,
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Install-Recommends": "false",
        # apt's own unprivileged user may not enter the cache's folder.
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    try:
        done = subprocess.run(
            [command, "-qq", *words, *arguments],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise LaneError(
            f"{command} is not on this machine", "the lane needs a Debian host"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise LaneError(
            f"apt-get failed: {reason[-1] if reason else done.returncode}",
            "is the Debian mirror reachable? vm/run --setup takes what the suites have now",
        )
    return done.stdout


def refresh(*, force: bool = False) -> None:
    """Fetch the suites' package lists, unless those at hand are of today."""
    stamp = cache.home() / "apt" / "refreshed"
    if not force and stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_FRESH_SECONDS:
        return
    if not KEYRING.exists():
        raise LaneError(f"{KEYRING} is missing", "apt-get install debian-archive-keyring")
    cache.about_to("fetching Debian's package lists")
    with cache.lock("apt"):
        _apt("apt-get", SUITES, "update")
        stamp.touch()


def resolve(selection: Selection) -> list[str]:
    """Return the .deb files, as apt names them, that make up the selection now."""
    with cache.lock("apt"):
        listing = _apt(
            "apt-get",
            selection.suites,
            "install",
            "--print-uris",
            "-y",
            *(("-t", selection.suites[-1]) if selection.suites[-1].endswith("-backports") else ()),
            *selection.packages,
        )
    names = re.findall(r"^'[^']+' (\S+\.deb) ", listing, re.MULTILINE)
    return sorted(name for name in names if name.startswith(selection.only))


def unpack(selection: Selection, debs: list[str], tree: Path) -> None:
    """Download the .deb files and unpack them into `tree`, running none of their scripts."""
    downloads = tree.with_name(tree.name + ".debs")
    downloads.mkdir()
    try:
        exact = []
        for deb in debs:
            name, version, _architecture = urllib.parse.unquote(deb).split("_")
            exact.append(f"{name}={version}")
        with cache.lock("apt"):
            _apt("apt-get", selection.suites, "download", *exact, cwd=downloads)
        _make_merged_usr(tree)
        for path in sorted(downloads.iterdir()):
            _unpack_one(path, tree)
    finally:
        shutil.rmtree(downloads)


def _make_merged_usr(tree: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / "usr" / name).mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(f"usr/{name}")


def _unpack_one(deb: Path, tree: Path) -> None:
    extract = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(tree)]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as read:
        tar = subprocess.run(extract, stdin=read.stdout, check=False)
    if read.returncode or tar.returncode:
        raise LaneError(f"cannot unpack {deb.name}", "is the disk full?")


def select(kind: str, selection: Selection) -> list[str]:
    """Return the .deb files that this kind of build uses, asking the mirror only the first time."""
    record = cache.home() / "chosen" / f"{kind}.json"
    if record.exists():
        chosen = json.loads(record.read_text())
        if chosen["selection"] == cache.digest(selection):
            return list(chosen["debs"])
    cache.about_to(f"choosing Debian's packages for {kind}")
    refresh()
    return choose(kind, selection)


def choose(kind: str, selection: Selection) -> list[str]:
    """Resolve the selection by the package lists at hand, and remember the result."""
    debs = resolve(selection)
    record = cache.home() / "chosen" / f"{kind}.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps({"selection": cache.digest(selection), "debs": debs}, indent=1))
    return debs
