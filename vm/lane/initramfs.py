"""The guest's first file system: a shell, a start script, the modules that reach the images."""

from __future__ import annotations

import shutil
from pathlib import Path

from lane import cache, tools

GUEST = Path(__file__).resolve().parents[1] / "guest"


def make(modules: Path | None) -> Path:
    """Return the initramfs that loads the modules of a folder, in the order of their names."""
    paths = sorted(modules.iterdir()) if modules else []
    sources = cache.file_digest(GUEST / "init", GUEST / "boot.py", *paths)
    busybox = tools.tree() / "usr/bin/busybox"

    def pack(folder: Path) -> None:
        root = folder / "tree"
        for name in ("bin", "modules", "proc", "sys", "dev", "image", "new"):
            (root / name).mkdir(parents=True)
        shutil.copy(busybox, root / "bin/busybox")
        (root / "bin/sh").symlink_to("busybox")
        for path in (GUEST / "init", GUEST / "boot.py"):
            shutil.copy(path, root / path.name)
        for path in paths:
            shutil.copy(path, root / "modules" / path.name)
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        listing = "".join(f"{name}\n" for name in names).encode()
        packed = tools.run([str(busybox), "cpio", "-o", "-H", "newc"], data=listing, cwd=root)
        (folder / "initramfs").write_bytes(packed)
        shutil.rmtree(root)

    key = cache.digest("initramfs 1", sources, tools.tree().name)
    return cache.build("initramfs", key, "packing an initramfs", pack) / "initramfs"
