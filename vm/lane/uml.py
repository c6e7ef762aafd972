"""The quick lane: a user-mode Linux kernel, an ordinary process that sees the host's folders."""

from __future__ import annotations

import os
import socket
import tempfile

from lane import bytecode, image, initramfs, process, session, share, umlbuild

MEMORY = "1G"
BOOT_SECONDS = 30


def run(call: session.Call) -> int:
    """Run a command under user-mode Linux and return its exit status."""
    kernel = umlbuild.kernel()
    bytecode.put(share.sources(image.PROJECT))
    root, environment = image.root().tree, image.environment().tree
    folder = tempfile.TemporaryDirectory(prefix="tlsify-uml-")
    ours, theirs = socket.socketpair()
    console, printed = socket.socketpair()
    with (
        ours,
        theirs,
        console,
        printed,
        folder,
    ):
        words = [
            *(str(kernel), f"mem={MEMORY}", f"initrd={initramfs.make(None)}", "seccomp=on"),
            *("con=null", "con0=null,fd:1", "ssl=null", f"ssl0=fd:{theirs.fileno()}"),
            *("quiet", "panic=-1", "oops=panic", f"uml_dir={folder.name}"),
            *("lane=uml", f"host_root={root}", f"host_environment={environment}"),
        ]
        with process.started(
            words,
            output=printed.fileno(),
            inherited=(theirs.fileno(),),
            prepare=_in_child,
        ) as child:
            theirs.close()
            printed.close()
            guest = session.Guest(child, ours, console)
            guest.wait_until_ready(BOOT_SECONDS)
            # It is of no use after the start, and what is gone cannot be left behind.
            folder.cleanup()
            return session.converse(guest, call, _mounts(call), scratch="")


def _in_child() -> None:
    process.die_with_parent()
    # A guest's system call is a switch between two processes: ten times dearer across processors.
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[os.getpid() % len(processors)]})


def _mounts(call: session.Call) -> list[dict[str, object]]:
    inside = image.PROJECT / ".scratch"
    for folder in (inside, call.scratch):
        folder.mkdir(parents=True, exist_ok=True)
    steps = [
        session.mount("none", str(folder), "hostfs", session.MS_RDONLY, str(folder))
        for folder in (image.PROJECT, *call.mounts)
    ]
    steps.append(session.mount("none", str(inside), "hostfs", 0, str(call.scratch)))
    return steps
