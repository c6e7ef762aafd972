"""Git clones and pushes over tlsify, to a git daemon that knows nothing of TLS either."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import pytest

from tests.adopters.recipes import recipe
from tests.doubles import Endpoint
from tests.interop.programs import PATIENCE, TIMEOUT, require

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import trustme

    from tests.adopters.recipes import Place

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

_FILES, _SIZE = 8, 2**19  # of noise, which git cannot make smaller: 4 MiB
# A server whose program has ended by then is not told of the cut, and says nothing.
_WHATEVER = ".*"
_IDENTITY = "-c user.name=A -c user.email=a@example.org"


def _fill(place: Place, folder: str, seed: int) -> None:
    noise = random.Random(seed)
    for number in range(_FILES):
        path = place.folder / folder / f"{seed}-{number}"
        path.write_bytes(noise.randbytes(_SIZE))
    place.succeed(f"git add . && git {_IDENTITY} commit --quiet -m {seed}", folder)


def _objects(place: Place, repository: str) -> list[str]:
    """Name all that a repository has on its main branch, with a check of each one's content."""
    place.succeed("git fsck --strict", repository)
    return sorted(place.succeed("git rev-list --objects main", repository).splitlines())


@pytest.fixture
def project(place: Place) -> Place:
    """A place where srv/project.git is to be served, with a commit of some megabytes."""
    require("git")
    place.succeed("git init --quiet --bare -b main srv/project.git && git init -q -b main first")
    _fill(place, "first", 1)
    place.succeed("git push --quiet ../srv/project.git main", "first")
    return place


class Cut:
    """A way to a port of this host that ends after so many bytes: no close_notify comes through."""

    def __init__(self, port: int, up: int = 2**40, down: int = 2**40) -> None:
        """Wait for one connection, in a thread.

        Args:
            port: where the way leads.
            up: bytes towards it.
            down: bytes from it.
        """
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self._target, self._up, self._down = port, up, down
        self._endpoint = Endpoint(self._carry)

    def _carry(self) -> None:
        with self._listener:
            client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        with client, server:
            upwards = Endpoint(lambda: self._copy(client, server, self._up))
            self._copy(server, client, self._down)
            upwards.result(PATIENCE)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket, budget: int) -> None:
        with suppress(OSError):
            while data := source.recv(min(2**16, budget)):
                sink.sendall(data)
                budget -= len(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        """Carry."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the end."""
        self._endpoint.result(PATIENCE)


def _serving(place: Place, said: str = "") -> AbstractContextManager[int]:
    own = {"0.0.0.0:9419": "127.0.0.1:0", "/srv/git": f"{place.folder}/srv"}
    return place.serving(recipe("git-serve", own), said)


def _here(port: int, host: str = "git.example.org") -> dict[str, object]:
    return {host: "localhost", "9419": port}


def test_proxy(project: Place) -> None:
    """A git:// address is cloned from and pushed to through a script that git calls."""
    project.write_script("git-over-tls")
    with _serving(project) as port, project.carried(connections=2):
        project.succeed(recipe("git-proxy-clone", _here(port)))
        assert len(_objects(project, "project")) > _FILES
        assert _objects(project, "project") == _objects(project, "srv/project.git")
        _fill(project, "project", 2)
        project.succeed(recipe("git-proxy-push", _here(port)), "project")
    assert len(_objects(project, "project")) > 2 * _FILES
    assert _objects(project, "project") == _objects(project, "srv/project.git")


@pytest.mark.full_run
def test_ext(project: Place) -> None:
    """An ext:: address, which needs no script, likewise."""
    with _serving(project) as port, project.carried(connections=2):
        project.succeed(recipe("git-ext-clone", _here(port)))
        assert _objects(project, "project") == _objects(project, "srv/project.git")
        _fill(project, "project", 2)
        project.succeed(recipe("git-ext-push", {}), "project")
    assert len(_objects(project, "project")) > 2 * _FILES
    assert _objects(project, "project") == _objects(project, "srv/project.git")


@pytest.mark.full_run
@pytest.mark.parametrize("way", ["git-proxy-clone", "git-ext-clone"])
def test_refused_server(project: Place, way: str, authority: trustme.CA) -> None:
    """Git fails, and leaves nothing behind, where the certificate names somebody else."""
    project.write_script("git-over-tls")
    project.certify(authority.issue_cert("elsewhere.example"))
    with _serving(project, said=".* alert bad_certificate.*") as port:
        done = project.run(recipe(way, _here(port)))
    assert done.returncode != 0
    assert "tlsify: error: " in done.stdout
    assert "elsewhere.example" in done.stdout
    assert not (project.folder / "project").exists()


@pytest.mark.full_run
@pytest.mark.parametrize("way", ["git-proxy-clone", "git-ext-clone"])
def test_cut_clone(project: Place, way: str) -> None:
    """Git fails, and leaves nothing behind, where the stream is cut in the middle."""
    project.write_script("git-over-tls")
    with _serving(project, said=_WHATEVER) as port, Cut(port, down=_SIZE) as cut:
        done = project.run(recipe(way, _here(cut.port)))
    assert done.returncode != 0
    assert ": the connection ended without close_notify" in done.stdout
    assert not (project.folder / "project").exists()


@pytest.mark.full_run
def test_cut_push(project: Place) -> None:
    """Git fails, and the server has none of it, where a push is cut in the middle."""
    with _serving(project, said=_WHATEVER) as port:
        project.succeed(recipe("git-ext-clone", _here(port)))
        before = _objects(project, "srv/project.git")
        _fill(project, "project", 2)
        with Cut(port, up=_SIZE) as cut:
            url = project.succeed("git remote get-url origin", "project").strip()
            project.succeed(
                f"git remote set-url origin '{url.replace(str(port), str(cut.port))}'", "project"
            )
            done = project.run(recipe("git-ext-push", {}), "project")
    assert done.returncode != 0
    assert _objects(project, "srv/project.git") == before
