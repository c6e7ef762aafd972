"""Serve a folder with `tlsify --ktls=require serve`, fetch from it, print what the kernel says."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tlsify import (
    ClientConfig,
    KtlsMode,
    KtlsPolicy,
    Offload,
    TLSSocket,
    TrustAnchors,
    __version__,
    capabilities,
    connect,
)
from tlsify.ktls.diag import SocketEntry, UlpInfo, list_sockets, tls_stat

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_SIZE = 8 * 2**20
FILE_NAME = "random.bin"
COUNTERS = ("TlsTxSw", "TlsRxSw", "TlsDecryptError")
FETCHES = 3


class Proof:
    """Prints one line for each claim, and remembers whether all of them hold."""

    def __init__(self) -> None:
        """Start with nothing claimed."""
        self.holds = True

    def claim(self, what: str, found: str, *, true: bool) -> None:
        """Print a claim and what was found."""
        self.holds &= true
        print(f"  {'ok ' if true else 'NOT'} {what:<38} {found}", flush=True)


@contextmanager
def server(folder: Path, ca: Path, trace: Path) -> Iterator[int]:
    """Run the server under strace, which counts what sendfile sends; return its port."""
    command = [
        *("strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=sendfile", "-o", str(trace)),
        *(sys.executable, "-m", "tlsify", "--ktls=require", "serve"),
        *("--listen", "127.0.0.1:0", "--write-ca", str(ca), str(folder)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout or ():
                print(f"  {line.rstrip()}", flush=True)
                if match := re.search(r"https://127\.0\.0\.1:(\d+)/", line):
                    yield int(match[1])
                    break
            else:
                sys.exit("demo: the server did not start")
        finally:
            # strace passes nothing on, so the server itself is told to drain.
            subprocess.run(["pkill", "-TERM", "-P", str(process.pid)], check=False)
            process.wait(60)


def fetch_with_curl(port: int, ca: Path) -> bytes:
    """Fetch the file with curl."""
    url = f"https://127.0.0.1:{port}/{FILE_NAME}"
    command = ["curl", "--silent", "--show-error", "--fail", "--cacert", str(ca), url]
    return subprocess.run(command, check=True, capture_output=True).stdout


def request() -> bytes:
    """Build a request that ends the connection."""
    return f"GET /{FILE_NAME} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()


def fetch_with_openssl(port: int, ca: Path) -> bytes:
    """Fetch the file with openssl s_client."""
    command = [
        *("openssl", "s_client", "-quiet", "-verify_return_error", "-CAfile", str(ca)),
        *("-connect", f"127.0.0.1:{port}"),
    ]
    done = subprocess.run(command, input=request(), check=True, capture_output=True)
    return done.stdout.partition(b"\r\n\r\n")[2]


def fetch_with_tlsify(port: int, ca: Path) -> tuple[bytes, str, list[SocketEntry]]:
    """Fetch the file with tlsify's own client; also gives what sock_diag says of both ends."""
    config = ClientConfig.for_host("127.0.0.1", trust=TrustAnchors.load(ca))
    sock = socket.create_connection(("127.0.0.1", port))
    handed = connect(sock, config, KtlsPolicy(KtlsMode.REQUIRE))
    if handed.offload is not Offload.KERNEL:
        sys.exit("demo: the client is not offloaded")
    with TLSSocket(handed) as stream:
        stream.sendall(request())
        answer = bytearray(stream.recv(1))  # the server has its keys, too, once it answers
        both = [
            entry
            for entry in list_sockets(socket.AF_INET)
            # What has been closed and still ends, TCP alone has: it is in nobody's hands.
            if entry.inode and port in {entry.local[1], entry.remote[1]}
        ]
        while data := stream.recv(2**18):
            answer += data
    return bytes(answer.partition(b"\r\n\r\n")[2]), handed.negotiated.suite.name, both


def bytes_by_sendfile(trace: Path) -> int:
    """Add up what strace saw sendfile return."""
    return sum(map(int, re.findall(r"= (\d+)$", trace.read_text(), re.MULTILINE)))


def main() -> int:
    """Run the demonstration; return the exit status."""
    proof = Proof()
    where = os.environ.get("TLSIFY_GUEST", "this host")
    print(f"tlsify {__version__} on Linux {platform.release()} ({where})")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "www")
        folder.mkdir()
        content = secrets.token_bytes(FILE_SIZE)
        (folder / FILE_NAME).write_bytes(content)
        wanted = hashlib.sha256(content).hexdigest()
        ca, trace = Path(temporary, "ca.pem"), Path(temporary, "strace")
        capabilities()  # its trials count in tls_stat too
        with server(folder, ca, trace) as port:
            before = tls_stat()
            fetched = {
                "curl": fetch_with_curl(port, ca),
                "openssl s_client": fetch_with_openssl(port, ca),
            }
            fetched["Python, by tlsify"], suite, both = fetch_with_tlsify(port, ca)
            after = tls_stat()
        for client, body in fetched.items():
            digest = hashlib.sha256(body).hexdigest()
            proof.claim(f"SHA-256 equal: {client}", digest[:16] + "...", true=digest == wanted)
        for entry in both:
            side = "server" if entry.local[1] == port else "client"
            ulp = entry.ulp or UlpInfo(name="none")
            shown = f"ulp {ulp.name}, tx {ulp.tx}, rx {ulp.rx}, {suite}"
            true = (ulp.name, ulp.tx, ulp.rx) == ("tls", "kernel", "kernel")
            proof.claim(f"sock_diag: {side}'s socket", shown, true=true)
        # Three connections on the server's side, and one of them on the client's too.
        wanted_delta = (FETCHES + 1, FETCHES + 1, 0)
        for counter, expected in zip(COUNTERS, wanted_delta, strict=True):
            delta = after[counter] - before[counter]
            proof.claim(f"tls_stat: {counter}", f"+{delta}", true=delta == expected)
        sent = bytes_by_sendfile(trace)
        proof.claim(
            "bytes the server sent by sendfile", str(sent), true=sent == FETCHES * FILE_SIZE
        )
    print("proof holds" if proof.holds else "proof FAILS")
    return 0 if proof.holds else 1


if __name__ == "__main__":
    sys.exit(main())
