"""Tests of reading what a configuration names."""

from __future__ import annotations

import os
import ssl
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.certificates import key_pem
from tests.want import no_descriptors
from tlsify.cli import config as config_import
from tlsify.cli.options import automatic, config_file
from tlsify.cli.options.common import read_key
from tlsify.credentials import anchors, crls, key_files, ocsp, reading, traefik
from tlsify.credentials.anchors import TrustAnchors
from tlsify.credentials.key_files import Files
from tlsify.credentials.reading import Kind, read_file
from tlsify.credentials.self_signed import make_key_pair
from tlsify.errors import ConfigError, ResourceError
from tlsify.renewal.folder import MAX_FILE, Folder
from tlsify.sslcontext.context import SSLContext
from tlsify.system import whole_files
from tlsify.trust import index, store

if TYPE_CHECKING:
    from collections.abc import Callable

_ROOT = Path(__file__).parents[2]
PEM = make_key_pair(["a.example"]).certificate_pem()


def _from_descriptor(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        read_key(number)
    finally:
        os.close(number)


def _of_authority(path: Path) -> None:
    automatic._authority(Namespace(acme_ca=None, acme_eab_kid="x", acme_eab_key=path))


def _context(path: Path) -> None:
    SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)


def _import(path: Path) -> None:
    config_import._translate(Namespace(origin="stunnel", file=path))


# Who reads a file, and how much of it.
READERS: dict[str, tuple[Callable[[Path], object], Kind]] = {
    "--cert": (lambda path: Files("x", path, path).load(), reading.CERTIFICATE),
    "--cert-dir": (lambda path: Files("x", path, path, path, True).load(), reading.CERTIFICATE),
    "--key": (lambda path: read_file(path, reading.PRIVATE_KEY), reading.PRIVATE_KEY),
    "--key-fd": (_from_descriptor, reading.PRIVATE_KEY),
    "acme.json": (traefik.read, reading.TRAEFIKS),
    "--ocsp": (ocsp.load, reading.OCSP_RESPONSE),
    "--ca": (store.load, reading.TRUST_ANCHORS),
    "system": (lambda path: store.system({"SSL_CERT_FILE": str(path)}), reading.TRUST_ANCHORS),
    "cafile": (_context, reading.REVOCATION_LIST),
    "--crl": (crls.load, reading.REVOCATION_LIST),
    "--config": (config_file.read, reading.CONFIGURATION),
    "config import": (_import, reading.CONFIGURATION),
    "--acme-eab-key": (_of_authority, automatic._BINDING_KEY),
}


@pytest.mark.parametrize("reader", READERS)
def test_too_large(tmp_path: Path, reader: str) -> None:
    """A file of any kind has its bound: it is refused by its size, in a line with a hint."""
    read, kind = READERS[reader]
    path = tmp_path / "it"
    with path.open("wb") as file:
        file.truncate(kind.most + 1)
    size = f"{kind.most >> 20} MiB" if kind.most >> 20 else f"{kind.most >> 10} KiB"
    with pytest.raises(ConfigError, match=f"cannot read .* more than {size}") as caught:
        read(path)
    assert "tlsify help limits" in caught.value.hint
    assert f" {size}" in (_ROOT / "docs/limits.md").read_text("utf-8")


def test_state_that_is_too_large(tmp_path: Path) -> None:
    """What ACME and OCSP have in their folders is ignored, or an error, but never waited for."""
    folder = Folder(tmp_path / "state", "the folder").check()
    with (folder.path / "long").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    os.mkfifo(folder.path / "pipe")
    assert folder.read("long") is None
    with pytest.raises(OSError, match="regular file"):
        folder.read("pipe")


@pytest.mark.parametrize(
    "load", [TrustAnchors.load, lambda folder: store.load(folder, folder.parent / "cache")]
)
def test_folder_that_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[Path], object]
) -> None:
    """A folder's trust anchors have one bound together; the folder is named."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for module in (anchors, index):
        monkeypatch.setattr(module, "TRUST_ANCHORS", Kind("trust anchors", 2 * len(PEM)))
    for name in ("a.pem", "b.pem"):
        (folder / name).write_bytes(PEM)
    load(folder)
    (folder / "c.pem").write_bytes(PEM)
    with pytest.raises(ConfigError, match=r"cannot read trust anchors \S+/folder: EFBIG: it has"):
        load(folder)


def test_names_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with too many names is an error, and no change is seen in it."""
    before = key_files.fingerprint([tmp_path])
    monkeypatch.setattr(whole_files, "MOST_NAMES", 1)
    for name in ("a.pem", "b.pem"):
        (tmp_path / name).write_bytes(PEM)
    for load in (TrustAnchors.load, store.load, key_files.find):
        with pytest.raises(ConfigError, match="more than 1 names") as caught:
            load(tmp_path)
        assert "tlsify help limits" in caught.value.hint
    assert key_files.fingerprint([tmp_path]) != before


@pytest.mark.parametrize("suffix", [".pem", ".key", ".ocsp"])
def test_pipe_in_a_folder(tmp_path: Path, suffix: str) -> None:
    """Nobody waits for a pipe that lies in a folder of certificates."""
    pair = make_key_pair(["a.example"])
    (tmp_path / "a.pem").write_bytes(pair.certificate_pem())
    (tmp_path / "a.key").write_bytes(key_pem(pair))
    (tmp_path / f"a{suffix}").unlink(missing_ok=True)
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(ConfigError, match=rf"a\{suffix}: EINVAL: it is not a regular file"):
        [files.load() for files in key_files.find(tmp_path).files]


def test_no_descriptor_to_read_with(tmp_path: Path) -> None:
    """A shortage of ours is no fault of the file's: it says so, and how to have more."""
    path = tmp_path / "chain.pem"
    path.write_bytes(PEM)
    with (
        no_descriptors(),
        pytest.raises(ResourceError, match=r"cannot read cert.+ EMFILE") as caught,
    ):
        read_file(path, reading.CERTIFICATE)
    assert "ulimit" in str(caught.value.hint)
    assert read_file(path, reading.CERTIFICATE) == PEM
