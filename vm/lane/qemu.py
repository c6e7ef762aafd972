"""The proof lane: one of Debian's kernels under QEMU, restored from a snapshot for every call."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lane import cache, image, initramfs, kernel, process, session, share, tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QEMU_MODULES = "usr/lib/x86_64-linux-gnu/qemu"
MEMORY = "1G"
BOOT_SECONDS = 240
TRIAL_SECONDS = 2.0


@dataclass(frozen=True)
class Machine:
    """All that a guest's hardware and software consist of, apart from what one call brings."""

    name: str
    files: kernel.Files
    initramfs: Path
    root: image.Image
    environment: image.Image
    accelerator: str

    @property
    def key(self) -> str:
        """Return what a snapshot of this machine is known by: any change makes it another."""
        inputs = (self.initramfs, self.files.key, self.root.key, self.environment.key, _host())
        return cache.digest(inputs, self.words(Path("ram"), shared=True))

    def words(self, ram: Path, *, shared: bool) -> list[str]:
        """Return QEMU's command line, without the devices that lead to this process."""
        tree = tools.tree()
        sharing = "on" if shared else "off"
        accelerators = {
            "kvm": ["-accel", "kvm", "-cpu", "host"],
            "tcg": ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"],
        }
        words = [
            *tools.command_in(tree, "qemu-system-x86_64"),
            *("-L", str(tree / "usr/share/qemu"), "-L", str(tree / "usr/share/seabios")),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", "q35,memory-backend=ram", "-smp", "2", "-m", MEMORY),
            *accelerators[self.accelerator],
            # The snapshot's memory is a file that every restored guest maps for itself: nothing
            # is copied, and only the pages that a call touches are read.
            "-object",
            f"memory-backend-file,id=ram,size={MEMORY},mem-path={ram},share={sharing}",
            *("-kernel", str(self.files.vmlinuz), "-initrd", str(self.initramfs)),
            "-append",
            "console=ttyS0 quiet panic=-1 oops=panic mitigations=off lane=qemu",
        ]
        for name, path in (
            ("root", self.root.erofs),
            ("environment", self.environment.erofs),
            ("modules", self.files.modules),
        ):
            words += _disk(name, str(path))
        return words


def _disk(name: str, path: str) -> list[str]:
    options = f"file={path},format=raw,if=none,readonly=on,cache=unsafe,file.locking=off"
    return ["-drive", f"id={name},{options}", "-device", f"virtio-blk-pci,drive={name}"]


def _host() -> tuple[str, ...]:
    model = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model", "flags"))
    ]
    return (platform.release(), *sorted(set(model)))


def machine(wanted: kernel.Kernel) -> Machine:
    """Return the machine for a kernel; what it is made of is built if it is not there."""
    files = kernel.files(wanted)
    return Machine(
        name=wanted.name,
        files=files,
        initramfs=initramfs.make(files.boot_modules),
        root=image.root(),
        environment=image.environment(),
        accelerator=_accelerator(files),
    )


def _accelerator(files: kernel.Files) -> str:
    """Return "kvm" where a guest boots with it, else "tcg"; the trial's answer is kept.

    That /dev/kvm exists proves nothing: inside some virtual machines a guest just hangs.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    answer = cache.home() / f"accelerator-{cache.digest(_host(), tools.tree().name)}"
    if not answer.exists():
        cache.about_to("trying KVM")
        answer.write_text("kvm" if _kvm_boots(files) else "tcg")
    return answer.read_text()


def _kvm_boots(files: kernel.Files) -> bool:
    tree = tools.tree()
    words = [
        *tools.command_in(tree, "qemu-system-x86_64"),
        *("-L", str(tree / "usr/share/qemu"), "-L", str(tree / "usr/share/seabios")),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"),
        *("-accel", "kvm", "-cpu", "host", "-m", "256M", "-serial", "stdio"),
        *("-kernel", str(files.vmlinuz), "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"),
    ]
    output = subprocess.PIPE
    with process.started(words, output=output, errors=subprocess.DEVNULL) as trial:
        try:
            printed, _ = trial.communicate(timeout=TRIAL_SECONDS)
        except subprocess.TimeoutExpired as late:
            printed = late.stdout or b""
    return b"Linux version" in printed


@contextlib.contextmanager
def _started(words: list[str], device: IO[bytes]) -> Iterator[tuple[session.Guest, _Monitor]]:
    """Start QEMU with the devices that lead to this process; kill it at the end.

    They are sockets without names, so there is nothing to clean up.
    """
    ours: dict[str, socket.socket] = {}
    theirs: dict[str, socket.socket] = {}
    for name in ("channel", "console", "monitor"):
        ours[name], theirs[name] = socket.socketpair()
    with contextlib.ExitStack() as stack:
        for end in (*ours.values(), *theirs.values()):
            stack.enter_context(end)
        for name, end in theirs.items():
            words = [*words, "-chardev", f"socket,id={name},fd={end.fileno()}"]
        readable = os.open(f"/proc/self/fd/{device.fileno()}", os.O_RDONLY)
        stack.callback(os.close, readable)
        words += [
            *("-serial", "chardev:console", "-mon", "chardev=monitor,mode=control"),
            *(
                "-device",
                "virtio-serial-pci",
                "-device",
                "virtserialport,chardev=channel,name=tlsify",
            ),
            *("-add-fd", f"fd={readable},set=1", *_disk("share", "/dev/fdset/1")),
        ]
        child = stack.enter_context(
            process.started(
                words,
                output=theirs["console"].fileno(),
                inherited=(readable, *(end.fileno() for end in theirs.values())),
                environment={**os.environ, "QEMU_MODULE_DIR": str(tools.tree() / QEMU_MODULES)},
            )
        )
        for end in theirs.values():
            end.close()
        guest = session.Guest(child, ours["channel"], ours["console"])
        yield guest, _Monitor(guest, ours["monitor"])


class _Monitor:
    """QEMU's own control socket."""

    def __init__(self, guest: session.Guest, connection: socket.socket) -> None:
        self.guest = guest
        self.lines = connection.makefile("rwb")

    def command(self, name: str, **arguments: object) -> None:
        """Send a command and wait for its answer."""
        self.lines.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        self.lines.flush()
        self._wait_for(lambda message: "return" in message)

    def wait_for_migration(self) -> None:
        """Wait until the guest's state has been written, or read, completely."""
        self._wait_for(lambda message: message.get("data", {}).get("status") == "completed")

    def _wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        while line := self.lines.readline():
            message = json.loads(line)
            if wanted(message):
                return
            if "error" in message or message.get("data", {}).get("status") == "failed":
                self.guest.log += line
                break
        raise self.guest.lost()


def snapshot(wanted: Machine) -> Path:
    """Return the folder of this machine's snapshot, made if it is not there."""

    def make(folder: Path) -> None:
        words = wanted.words(folder / "ram", shared=True)
        with share.empty() as device, _started(words, device) as (guest, monitor):
            guest.wait_until_ready(BOOT_SECONDS)
            monitor.command("qmp_capabilities")
            monitor.command("stop")
            _prepare_migration(monitor)
            monitor.command("migrate", uri=f"file:{folder / 'state'}")
            monitor.wait_for_migration()

    what = f"booting kernel {wanted.name} for its snapshot ({wanted.accelerator})"
    return cache.build(f"snapshot-{wanted.name}", wanted.key, what, make)


def ready_snapshot(wanted: kernel.Kernel) -> Path:
    """Return the snapshot for a kernel; whatever it takes is built if it is not there."""
    return snapshot(machine(wanted))


def _prepare_migration(monitor: _Monitor) -> None:
    names = ("events", "x-ignore-shared")
    monitor.command(
        "migrate-set-capabilities",
        capabilities=[{"capability": name, "state": True} for name in names],
    )


def run(wanted: kernel.Kernel, call: session.Call) -> int:
    """Run a command under this kernel and return its exit status."""
    ready = machine(wanted)
    saved = snapshot(ready)
    words = [*ready.words(saved / "ram", shared=False), "-incoming", "defer"]
    with (
        share.filled(image.PROJECT, call.mounts) as device,
        _started(words, device) as (guest, monitor),
    ):
        monitor.command("qmp_capabilities")
        _prepare_migration(monitor)
        monitor.command("migrate-incoming", uri=f"file:{saved / 'state'}")
        monitor.wait_for_migration()
        monitor.command("cont")
        scratch = str(image.PROJECT / ".scratch")
        return session.converse(guest, call, _mounts(call, scratch), scratch)


def _mounts(call: session.Call, scratch: str) -> list[dict[str, object]]:
    steps = [session.mount("/dev/vdd", "/run/host", "erofs", session.MS_RDONLY)]
    for number, folder in enumerate((image.PROJECT, *call.mounts)):
        steps.append(session.mount(f"/run/host/{number}", str(folder), "none", session.MS_BIND))
    steps.append(session.mount("scratch", scratch, "tmpfs", data="mode=755"))
    return steps
