"""The guest's read-only images: Debian's programs, and the project's Python environment."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lane import apt, cache, tools
from lane.cache import LaneError

PROJECT = Path(__file__).resolve().parents[2]

SELECTION = apt.Selection(
    ("trixie", "trixie-security"),
    (
        *(
            "bash",
            "dash",
            "coreutils",
            "findutils",
            "grep",
            "sed",
            "mawk",
            "tar",
            "gzip",
            "diffutils",
        ),
        *("debianutils", "util-linux", "mount", "procps", "psmisc", "iproute2", "kmod", "strace"),
        *("python3", "openssl", "gnutls-bin", "curl", "nginx-light", "git", "ca-certificates"),
        *("busybox", "openssh-client", "openssh-server", "perl"),
        *("socat", "netcat-openbsd", "ngircd", "ii", "exim4-daemon-light", "swaks"),
        *("dovecot-imapd", "fetchmail"),
        # What the benchmark measures beside these.
        *("haproxy", "hitch", "stunnel4", "ncat"),
    ),
)
UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/lib/udev")
PYTHON = "3.13"
# Where the environment appears in the guest.
ENVIRONMENT = "/opt/tlsify-env"
# Of the group "dev" only what its tests import or are run by.
TEST_TOOLS = (
    *("coverage", "hypothesis", "pytest", "pytest-timeout", "service-identity", "tlslite-ng"),
    "trustme",
)

# What the packages' maintainer scripts, which are not run, would have made.
FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
        "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        "Debian-exim:x:101:101::/nonexistent:/usr/sbin/nologin\n"
        "user:x:1000:1000:an ordinary user:/home/user:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": (
        "root:x:0:\nadm:x:4:\nwww-data:x:33:\nDebian-exim:x:101:\nuser:x:1000:\nnogroup:x:65534:\n"
    ),
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
    "etc/hostname": "guest\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
    "etc/resolv.conf": "",
    "etc/fstab": "",
}
LINKS = {"usr/bin/awk": "mawk", "usr/bin/nc": "nc.openbsd"}


@dataclass(frozen=True)
class Image:
    """One read-only part of the guest, as an image and as the folder it was made of."""

    key: str
    erofs: Path
    tree: Path


def root() -> Image:
    """Return the image of Debian's programs, built if it is not there."""
    debs = apt.select("root", SELECTION)
    key = cache.digest("root 1", debs, UNUSED, FILES, LINKS)
    folder = cache.build("root", key, "building the root image", lambda f: _root(f, debs))
    return Image(key, folder / "image.erofs", folder / "tree")


def _root(folder: Path, debs: list[str]) -> None:
    tree = folder / "tree"
    tree.mkdir()
    apt.unpack(SELECTION, debs, tree)
    for name in UNUSED:
        shutil.rmtree(tree / name, ignore_errors=True)
    for name, text in FILES.items():
        (tree / name).write_text(text)
    for name, target in LINKS.items():
        (tree / name).unlink(missing_ok=True)
        (tree / name).symlink_to(target)
    for name in ("opt", "root", "home/user", "var/log/nginx", "usr/lib/modules"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    authorities = sorted((tree / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = tree / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(path.read_text() for path in authorities))
    compile_python(tree, tree / f"usr/lib/python{PYTHON}", f"/usr/lib/python{PYTHON}")
    tools.make_erofs(folder / "image.erofs", tree)


def compile_python(root_tree: Path, folder: Path, seen_as: str) -> None:
    """Byte-compile a folder with the guest's Python, trusting that sources never change."""
    words = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    run_python(root_tree, [*words, "-s", str(folder), "-p", seen_as, str(folder)])


def run_python(root_tree: Path, arguments: list[str], data: bytes = b"") -> None:
    """Run the guest's Python on the host."""
    done = subprocess.run(
        [*python_words(root_tree), *arguments],
        env={"PYTHONHOME": str(root_tree / "usr")},
        input=data,
        capture_output=True,
        check=False,
    )
    # compileall fails for files that are of another Python's syntax, but says nothing to stderr.
    if done.returncode and done.stderr:
        raise LaneError(f"the guest's Python failed: {done.stderr.decode()}", "report it")


def python_words(root_tree: Path) -> list[str]:
    """Return the words that run the guest's Python on the host."""
    return tools.command_in(root_tree, f"python{PYTHON}")


def python_environment() -> dict[str, str]:
    """Return the variables that let the guest's Python, on the host, import what it has there."""
    packages = environment().tree / f"lib/python{PYTHON}/site-packages"
    return {"PYTHONHOME": str(root().tree / "usr"), "PYTHONPATH": str(packages)}


def requirements() -> list[str]:
    """Return what the guest's environment must have, as the project declares it."""
    declaration = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    project, groups = declaration["project"], declaration["dependency-groups"]
    declared = [
        line
        for line in groups["dev"]
        if isinstance(line, str) and line.split(";")[0].rstrip(" =<>~!.0123456789") in TEST_TOOLS
    ]
    missing = [name for name in TEST_TOOLS if not any(line.startswith(name) for line in declared)]
    servers = [*project["optional-dependencies"]["serve"], *groups["servers"]]
    return [*project["dependencies"], *servers, *declared, *missing]


def environment() -> Image:
    """Return the image of the project's Python environment, built if it is not there."""
    constraints = PROJECT / "constraints.txt"
    limits = constraints.read_text() if constraints.exists() else ""
    wanted = requirements()
    debian = root()
    key = cache.digest("environment 1", wanted, limits, debian.key, LAUNCHERS)

    def make(folder: Path) -> None:
        tree = folder / "tree"
        packages = tree / f"lib/python{PYTHON}/site-packages"
        packages.mkdir(parents=True)
        _install(packages, wanted, constraints if limits else None)
        compile_python(debian.tree, packages, f"{ENVIRONMENT}/lib/python{PYTHON}/site-packages")
        (tree / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
        (tree / "bin").mkdir()
        for name in ("python", "python3", f"python{PYTHON}"):
            (tree / "bin" / name).symlink_to(f"/usr/bin/python{PYTHON}")
        for name, module in LAUNCHERS.items():
            launcher = tree / "bin" / name
            launcher.write_text(f'#!/bin/sh\nexec {ENVIRONMENT}/bin/python -m {module} "$@"\n')
            launcher.chmod(0o755)
        tools.make_erofs(folder / "image.erofs", tree)

    folder = cache.build(
        "environment", key, "building the image of the project's environment", make
    )
    return Image(key, folder / "image.erofs", folder / "tree")


LAUNCHERS = {"tlsify": "tlsify", "pytest": "pytest", "coverage": "coverage"}


def _install(packages: Path, wanted: list[str], constraints: Path | None) -> None:
    own = PROJECT / ".venv/bin/python"
    python = sys.executable if importlib.util.find_spec("pip") else str(own)
    words = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--disable-pip-version-check",
    ]
    words += ["--target", str(packages), "--python-version", PYTHON, "--only-binary=:all:"]
    words += ["--constraint", str(constraints)] if constraints else []
    done = subprocess.run([*words, *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise LaneError(
            f"pip failed: {errors[-1] if errors else done.stderr.strip()}",
            f"do pyproject.toml and constraints.txt name wheels for Python {PYTHON}?",
        )
