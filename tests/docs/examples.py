"""The examples on the command's pages, and a place where they run one after the other."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.doubles import until
from tests.interop.programs import PATIENCE, Program, require
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.adopters.recipes import Place

PROJECT = Path(__file__).resolve().parents[2]
OVERVIEW = PROJECT / "docs/cli.md"
PAGES = [OVERVIEW, *sorted((PROJECT / "docs/cli").glob("*.md"))]
_SECTIONS = {"tutorial.md": "Steps"}
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What goes on until it is ended, as its first words show; all else is run to its end.
_SERVER = re.compile(
    r"tlsify (?:listen|serve|agent|forward) |systemd-socket-activate |.*create_server", re.DOTALL
)
_PROGRAMS = ("bash", "curl", "nc", "openssl", "systemd-socket-activate")
_OWN_PORT = re.compile(r"\b7\d\d\d\b")
_LISTENS = "0A"  # include/net/tcp_states.h


class Example(NamedTuple):
    """A block of a page.

    Attributes:
        language: sh, bash or python; or that of something to read.
        file: what the reader is told to save it as; empty if he is to run it.
        text: what is in it.
        output: what the page says that it prints; None if the page does not say.
    """

    language: str
    file: str
    text: str
    output: str | None

    @property
    def is_server(self) -> bool:
        """Whether it goes on until it is ended."""
        return self.language != "bash" and _SERVER.match(self.text) is not None


def examples(page: Path) -> list[Example]:
    """Return what can be run, or saved, of a page's last section, or of a tutorial's steps."""
    _, _, section = page.read_text().partition(f"\n## {_SECTIONS.get(page.name, 'Examples')}\n")
    blocks = _BLOCK.findall(section)
    found = []
    for (language, file, text), (following, _, output) in zip(
        blocks, [*blocks[1:], ("", "", "")], strict=True
    ):
        if language in {"sh", "bash", "python"}:
            found.append(Example(language, file, text, output if following == "text" else None))
    return found


class Reader:
    """Somebody who follows a page from its first example to its last, in one folder."""

    def __init__(self, place: Place, ports: dict[str, int]) -> None:
        """Begin.

        Args:
            place: has cert.pem, key.pem and ca.pem in its folder.
            ports: where the servers are that the pages take for granted, by the pages' numbers.
        """
        self._place = place
        self._ports = dict(ports)
        self._running = ExitStack()

    def follow(self, page: Path) -> list[str]:
        """Run all that is on a page; each has to end well, and print what the page says.

        Returns:
            What each printed.
        """
        printed = []
        for program in _PROGRAMS:
            if re.search(rf"\b{program} |^```{program}$", page.read_text(), re.MULTILINE):
                require(program)
        with self._running:
            for example in examples(page):
                if example.file:
                    self._place.write(example.file, example.text)
                elif example.is_server:
                    self._start(example)
                else:
                    said = self._place.succeed(self._command(example)).replace("\r\n", "\n")
                    assert example.output is None or said == self._here(example.output), said
                    printed.append(said)
        return printed

    def _start(self, example: Example) -> None:
        own = _OWN_PORT.search(example.text)
        if own is not None:
            self._ports[own[0]] = free_port()
        program = self._running.enter_context(self._place.start(f"exec {self._command(example)}"))
        if example.language != "bash" and example.text.startswith("tlsify"):
            program.wait_for(rb"tlsify: (agent at|listening on|serving|forwarding) ")
        else:
            assert own is not None, example.text
            port = self._ports[own[0]]
            until(lambda: port in _listening(), PATIENCE)
        self._running.callback(_end, program, "tlsify" in example.text.split()[0])

    def _command(self, example: Example) -> str:
        text = self._here(example.text)
        if example.language == "python":
            self._place.write("example.py", text)
            return f'"{sys.executable}" example.py'
        if example.language == "bash":
            self._place.write("example.bash", text)
            return "bash -e example.bash"
        return text

    def _here(self, text: str) -> str:
        """Put this host in the place of those that the page names."""
        text = re.sub(r"\b\w+\.example\.org\b", "localhost", text)
        text = re.sub(r"\bwww\.example\.net\b|\b192\.0\.2\.7\b", "127.0.0.1", text)
        for theirs, ours in self._ports.items():
            text = re.sub(rf"\b{theirs}\b", str(ours), text)
        return text


def _end(program: Program, is_ours: bool) -> None:
    program.terminate()
    status = program.status()
    assert status == 0 or not is_ours, program.errors()


def _listening() -> Iterator[int]:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == _LISTENS:
            yield int(local.rpartition(":")[2], 16)
