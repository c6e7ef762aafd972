"""A process that has imported everything, and forks for each program.

A child is as a process that has just started: it leaves this module by its end, by an exception
or as it likes, and so comes to the interpreter's end, as a program does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import socket
import sys
from typing import Any

_DESCRIPTORS = 4  # of a program: its line to the test, stdin, stdout and stderr
_MAX_JOB = 2**16

_hooks: list[dict[str, Any]] = []


def _load(*, many: bool) -> None:
    """Import what programs need, and keep what is to happen at forks: ours are not theirs."""
    register = os.register_at_fork
    os.register_at_fork = lambda **hooks: _hooks.append(hooks)
    importlib.import_module(
        "tlsify.connection.ending.forks"
    )  # which would see in a child that it was forked
    importlib.import_module("tests.endings.programs")
    if many:
        import tlsify  # noqa: PLC0415 - after the hooks are caught

        for module in pkgutil.walk_packages(tlsify.__path__, "tlsify."):
            if not module.name.endswith("__main__") and ".integrations." not in module.name:
                try:
                    importlib.import_module(module.name)
                except ModuleNotFoundError as exc:  # guests lack some extras
                    if str(exc.name).startswith("tlsify"):
                        raise
        importlib.import_module("encodings.idna")
    os.register_at_fork = register


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork for each job, and tell how each child has ended; in a child, return its job."""
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    children: dict[int, int] = {}
    while True:
        for descriptor, _ in poller.poll():
            if descriptor in children:
                poller.unregister(descriptor)
                pid = children.pop(descriptor)
                os.close(descriptor)
                _tell(channel, pid=pid, status=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            message, given, _, _ = socket.recv_fds(channel, _MAX_JOB, _DESCRIPTORS)
            if not message:
                os._exit(0)  # the test has ended
            pid = os.fork()
            if pid == 0:
                for other in (channel.detach(), *children):
                    os.close(other)
                return _begin(json.loads(message), given)
            for each in given:
                os.close(each)
            child = os.pidfd_open(pid)
            children[child] = pid
            poller.register(child, select.POLLIN)
            _tell(channel, pid=pid)


def _tell(channel: socket.socket, **what: int) -> None:
    channel.send(json.dumps(what).encode())


def _begin(job: dict[str, Any], given: list[int]) -> dict[str, Any]:
    """Make a new process of a child."""
    for hooks in _hooks:
        os.register_at_fork(**hooks)
    line, *streams = given
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    return job | {"line": line}


if __name__ == "__main__":
    _load(many=sys.argv[2] == "many")
    gc.collect()
    gc.freeze()
    from tests.endings import programs

    programs.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
