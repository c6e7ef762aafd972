"""Tests of the systemd units."""

from __future__ import annotations

import configparser
import re
import resource
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.cli.forked import refused
from tests.cli.harness import ENVIRONMENT, run
from tests.interop.programs import require
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ExitCode
from tlsify.serving import server, supervisor
from tlsify.serving.duty import SupervisorHooks

UNITS = Path(__file__).parents[2] / "systemd"
PARTS = sorted(UNITS.glob("tlsify@.*"))


@pytest.mark.parametrize("path", PARTS, ids=[path.suffix for path in PARTS])
def test_systemd_understands_the_unit(path: Path, tmp_path: Path) -> None:
    """It has no complaint about any line."""
    require("systemd-analyze")
    for each in PARTS:
        (tmp_path / each.name).write_text(each.read_text())
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / path.name.replace("@", "@www"))],
        capture_output=True,
        text=True,
        check=False,
    )
    about = [
        line for line in said.stderr.splitlines() if str(tmp_path) in line or "tlsify@" in line
    ]
    assert not about


_NGINX = """
[Unit]
Description=nginx, as distributions run it
[Service]
Type=forking
PIDFile=/run/nginx.pid
ExecStart=/bin/true -g 'daemon on; master_process on;'
ExecReload=/bin/true -s reload
ExecStop=-/bin/true
"""


def test_systemd_understands_the_drop_in_of_wrap(tmp_path: Path) -> None:
    """It is complete, beside a unit that forks; all that may be missing is the command."""
    require("systemd-analyze")
    (tmp_path / "nginx.service").write_text(_NGINX)
    (tmp_path / "nginx.service.d").mkdir()
    text = (UNITS.parent / "docs/examples/wrap.conf").read_text()
    (tmp_path / "nginx.service.d/wrap.conf").write_text(text)
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "nginx.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    about = [line for line in said.stderr.splitlines() if "nginx.service" in line]
    assert [line for line in about if "Command tlsify is not executable" not in line] == []
    assert "Command tlsify" in said.stderr or shutil.which("tlsify", path="/usr/local/bin:/usr/bin")


def test_the_drop_in_of_wrap_is_no_misuse() -> None:
    """Its command line is understood, and refused for what is not there."""
    text = (UNITS.parent / "docs/examples/wrap.conf").read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("ExecStart=tlsify"))
    words = shlex.split(line.partition("=")[2])
    outcome = refused(*words[1 : words.index("--")], "--", "true")
    assert outcome.status not in {0, ExitCode.USAGE}
    assert "nginx.pem" in outcome.err


def _service(drop_in: str = "") -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(drop_in or (UNITS / "tlsify@.service").read_text())
    return unit["Service"]


def _command(file: Path) -> tuple[str, list[str]]:
    """Return the variable that ExecStart sets, and the command's words, for an instance's file."""
    words = shlex.split(_service()["ExecStart"].replace("/etc/tlsify/%i.toml", str(file)))
    assert words[0] == "/usr/bin/env"
    assert words[2] == "tlsify"
    return words[1], words[3:]


def test_the_service_runs_a_file(tmp_path: Path) -> None:
    """ExecStart is the command as it stands, with the instance's file."""
    file = tmp_path / "www.toml"
    _, words = _command(file)
    run(*words).failed(96, f"cannot read configuration {file}")
    file.write_text('verb = "serve"\noperands = ["/nowhere"]\n')
    run(*words).failed(96, "cannot serve /nowhere")


def test_key_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The credential is the key of the documented configuration, which does not name it."""
    service = _service()
    credential, _, source = service["LoadCredential"].partition(":")
    assert source == "/etc/tlsify/%i.key"
    file = tmp_path / "www.toml"
    variable, words = _command(file)
    name, _, path = variable.replace("${CREDENTIALS_DIRECTORY}", str(tmp_path)).partition("=")
    assert Path(path) == tmp_path / credential
    page = (UNITS.parent / "docs/operations.md").read_text()
    text = page.partition("in `/etc/tlsify/www.toml`:")[2].partition("```toml\n")[2]
    text = text.partition("```")[0]
    assert "key" not in text
    text = text.replace("/etc/tlsify", str(tmp_path)).replace("/srv/www", str(tmp_path))
    file.write_text(text)
    made = make_key_pair(["localhost"])
    (tmp_path / "www.pem").write_bytes(made.certificate_pem())
    key = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    Path(path).write_bytes(key)
    monkeypatch.setitem(ENVIRONMENT, name, path)
    assert run("check", *words).status == 0
    Path(path).write_text(service["SetCredential"].partition(":")[2])
    outcome = run("check", *words)
    assert outcome.status == 96
    assert "private key" in outcome.err + outcome.out.decode()


def test_the_service_finds_the_command_of_its_own_installation(tmp_path: Path) -> None:
    """It is below the prefix that pip puts the unit below, whichever that is."""
    project = tomllib.loads((UNITS.parent / "pyproject.toml").read_text())
    units = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]["systemd"]
    (tmp_path / units).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    variable, _, folders = (
        _service()["Environment"].replace("%Y", f"{tmp_path}/{units}").partition("=")
    )
    assert variable == "PATH"
    first, *others = folders.split(":")
    assert Path(first).samefile(tmp_path / "bin")
    assert others == ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"]


def test_rights_of_the_service() -> None:
    """It is not root, and may do no more than listen on any port."""
    service = _service()
    assert service["DynamicUser"] == "yes"
    assert service["User"] != "root"
    for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert service[name] == "CAP_NET_BIND_SERVICE"
    assert service["NoNewPrivileges"] == "yes"


# Where a call has no name in the C library.
_BY_NUMBER = {
    "system/sandbox.py": {
        "landlock_create_ruleset",
        "landlock_add_rule",
        "landlock_restrict_self",
    },
    "wrap/filter.py": {"seccomp"},
    "wrap/launch.py": {"pidfd_getfd"},
}
_CALLED = re.compile(r'libc\.call\(\s*"(\w+)"|\b(?:os|signal|socket|resource|fcntl)\.(\w+)\(')


def _expand(name: str, sets: dict[str, set[str]]) -> set[str]:
    """Return the calls of a set, or of a set in it."""
    if not name.startswith("@"):
        return {name}
    return {call for each in sets[name] for call in _expand(each, sets)}


def test_system_calls_of_the_service() -> None:
    """Each that a module makes by its name is allowed; two of wrap's with its drop-in only."""
    require("systemd-analyze")
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True
    )
    sets: dict[str, set[str]] = {}
    name = ""
    for line in listed.stdout.splitlines():
        if line.startswith("@"):
            name = line
            sets[name] = set()
        elif (call := line.strip()) and "#" not in line:  # those in no set are in comments
            sets[name].add(call)
    known = {call for name in sets for call in _expand(name, sets)} - {"syscall", "execv"}
    page = (UNITS.parent / "docs/operations.md").read_text()
    drop_in = _service(page.partition("```ini\n")[2].partition("```")[0])
    by_unit, by_drop_in = (
        {call for name in each["SystemCallFilter"].split() for call in _expand(name, sets)}
        for each in (_service(), drop_in)
    )
    by_number, refused_by_unit = set(), set()
    root = UNITS.parent / "tlsify"
    for path in root.rglob("*.py"):
        module = str(path.relative_to(root))
        made = {name or other for name, other in _CALLED.findall(path.read_text())}
        by_number |= {module} if "syscall" in made else set()
        made = made & known | _BY_NUMBER.get(module, set())
        assert made <= by_unit | (by_drop_in if module.startswith("wrap/") else set()), module
        refused_by_unit |= made - by_unit
    assert refused_by_unit | {"seccomp"} == by_drop_in, "some versions of systemd allow seccomp"
    assert by_number == _BY_NUMBER.keys()
    assert (drop_in["Type"], drop_in["WatchdogSec"]) == ("exec", "0")


def test_signals_of_the_service() -> None:
    """What it does is understood by systemd 247: Type=notify-reload came with 253."""
    service = _service()
    assert service["Type"] == "notify"
    # A minimal system has no program "kill".
    assert shlex.split(service["ExecReload"]) == ["/bin/sh", "-c", "kill -HUP $MAINPID"]
    assert float(service["WatchdogSec"]) > SupervisorHooks().patience, (
        "a worker that hangs is replaced first"
    )
    assert float(service["TimeoutStopSec"]) > 30 + supervisor._GRACE


def test_descriptors_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page says of them is so; threads are a few, whatever is relayed."""
    service = _service()
    hard = int(service["LimitNOFILE"])
    monkeypatch.setattr(resource, "getrlimit", lambda _: (hard, hard))
    assert server._descriptors(server._OWN_DESCRIPTORS, server._PER_INLINE, 1) == 32736
    assert int(service["TasksMax"]) == 4096
