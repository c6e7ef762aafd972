"""The guests' kernels: which there are, and each one's kernel image, modules and initramfs."""

from __future__ import annotations

import lzma
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lane import apt, cache, tools
from lane.cache import LaneError

VM = Path(__file__).resolve().parents[1]

# What it takes to reach the images; all other modules are loaded from there.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "erofs")
MODULE_FOLDERS = (
    "kernel/net",
    "kernel/crypto",
    "kernel/arch",
    "kernel/lib",
    "kernel/fs",
    "kernel/drivers",
)
# Most of a kernel's drivers are for hardware that no guest has.
DRIVERS = ("virtio", "block", "char", "net", "md", "ptp", "crypto")


@dataclass(frozen=True)
class Kernel:
    """One entry of kernels.toml."""

    name: str
    selection: apt.Selection

    @property
    def kind(self) -> str:
        """Return the name of this kernel's builds in the cache."""
        return f"kernel-{self.name}"


@dataclass(frozen=True)
class Files:
    """What QEMU needs of one kernel."""

    key: str
    version: str
    vmlinuz: Path
    boot_modules: Path
    modules: Path


def declared() -> dict[str, Kernel]:
    """Return the kernels of kernels.toml by their names."""
    table = tomllib.loads((VM / "kernels.toml").read_text())
    return {
        name: Kernel(name, apt.Selection(tuple(entry["suites"]), (entry["package"],), "linux-"))
        for name, entry in table["kernels"].items()
    }


def default() -> str:
    """Return the name of the kernel that is used if none is named."""
    return str(tomllib.loads((VM / "kernels.toml").read_text())["default"])


def files(kernel: Kernel) -> Files:
    """Return this kernel's files, built if they are not there."""
    debs = apt.select(kernel.kind, kernel.selection)
    key = cache.digest("kernel 1", debs, BOOT_MODULES, MODULE_FOLDERS, DRIVERS)
    what = f"fetching kernel {kernel.name}"
    folder = cache.build(kernel.kind, key, what, lambda f: _build(f, kernel, debs))
    version = (folder / "version").read_text()
    return Files(
        key, version, folder / "vmlinuz", folder / "boot-modules", folder / "modules.erofs"
    )


def _build(folder: Path, kernel: Kernel, debs: list[str]) -> None:
    tree = folder / "tree"
    tree.mkdir()
    apt.unpack(kernel.selection, debs, tree)
    (release,) = [path.name for path in (tree / "usr/lib/modules").iterdir()]
    modules = tree / "usr/lib/modules" / release
    images = [*(tree / "boot").glob("vmlinuz-*"), *modules.glob("vmlinuz*")]
    if not images:
        raise LaneError(f"no kernel image in {', '.join(debs)}", "fix the package in kernels.toml")
    shutil.move(images[0], folder / "vmlinuz")
    _thin_out(modules)
    depmod = tools.command_in(tools.tree(), "kmod", "depmod")
    tools.run([*depmod, "-b", str(tree), release])
    _copy_boot_modules(modules, folder / "boot-modules")
    tools.make_erofs(folder / "modules.erofs", tree / "usr/lib/modules")
    version = next(deb.split("_")[1] for deb in debs if deb.startswith("linux-image-"))
    (folder / "version").write_text(version)
    shutil.rmtree(tree)


def _thin_out(modules: Path) -> None:
    """Keep the modules that a guest can use, uncompressed: the image is compressed already."""
    kept = [modules / name for name in MODULE_FOLDERS if name != "kernel/drivers"]
    kept += [modules / "kernel/drivers" / name for name in DRIVERS]
    for path in sorted(modules.rglob("*.ko*")):
        if not any(path.is_relative_to(folder) for folder in kept):
            path.unlink()
        elif path.suffix == ".xz":
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
            path.unlink()
    for name in ("build", "source"):
        (modules / name).unlink(missing_ok=True)


def _copy_boot_modules(modules: Path, folder: Path) -> None:
    """Copy what the initramfs loads, each module named to come after those that it depends on."""
    depends: dict[str, tuple[str, list[str]]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        depends[Path(path).stem.replace("-", "_")] = (path, needed.split())
    ordered: list[str] = []
    for module in BOOT_MODULES:
        # A module that is not there is built into this kernel.
        path, others = depends.get(module, ("", []))
        # depmod lists the nearest dependency first, which is the last to load.
        ordered += [each for each in [*reversed(others), path] if each and each not in ordered]
    folder.mkdir()
    for number, path in enumerate(ordered):
        shutil.copy(modules / path, folder / f"{number:02}-{Path(path).name}")
