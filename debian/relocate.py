"""Make a virtual environment in a package's tree what it is to be once the package is installed.

Arguments: the tree, and the environment's place below it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

# Where pip puts what is found outside Python, below an environment, and where Debian looks for it.
MOVED = {
    "lib/systemd": "usr/lib/systemd",
    "share/bash-completion": "usr/share/bash-completion",
    "share/fish/vendor_completions.d": "usr/share/fish/vendor_completions.d",
    "share/man": "usr/share/man",
    "share/tlsify": "usr/share/tlsify",
    "share/zsh/site-functions": "usr/share/zsh/vendor-completions",
}


def main(tree: Path, place: str) -> None:
    """Move it."""
    venv = tree / place.removeprefix("/")
    for old, new in MOVED.items():
        target = tree / new
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(venv / old, target)
    for left in (venv / "share", venv / "include"):
        shutil.rmtree(left, ignore_errors=True)
    (venv / "lib64").unlink(missing_ok=True)
    # Of all the commands only tlsify's is for others.
    for script in (venv / "bin").iterdir():
        if script.name == "tlsify":
            lines = script.read_text().splitlines(keepends=True)
            lines[0] = f"#!{place}/bin/python3\n"
            script.write_text("".join(lines))
        elif not script.name.startswith("python"):
            script.unlink()
    command = tree / "usr/bin/tlsify"
    command.parent.mkdir(exist_ok=True)
    command.symlink_to(f"..{place.removeprefix('/usr')}/bin/tlsify")
    settings = (venv / "pyvenv.cfg").read_text().splitlines(keepends=True)
    (venv / "pyvenv.cfg").write_text(
        "".join(line for line in settings if not line.startswith("command"))
    )
    # dpkg has a record of its own; pip's differs each time, as the place where it was built does.
    for name in ("RECORD", "direct_url.json"):
        for record in venv.glob(f"lib/python3*/site-packages/*.dist-info/{name}"):
            record.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
