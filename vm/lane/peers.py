"""The programs that the host's tests and the benchmark talk to, or run: all are Debian 13's."""

from __future__ import annotations

from lane import apt, image
from lane.collection import Collection

# What guests have, too, is of the same packages as theirs.
IN_GUESTS = {
    **{name: f"usr/bin/{name}" for name in ("bash", "busybox", "curl", "fetchmail", "git", "ii")},
    **{name: f"usr/bin/{name}" for name in ("gnutls-cli", "gnutls-serv", "ncat", "openssl")},
    **{name: f"usr/bin/{name}" for name in ("perl", "socat", "ssh", "ssh-keygen", "strace")},
    **{name: f"usr/bin/{name}" for name in ("stunnel4", "swaks")},
    **{name: f"usr/sbin/{name}" for name in ("dovecot", "exim4", "haproxy", "hitch", "nginx")},
    **{name: f"usr/sbin/{name}" for name in ("ngircd", "sshd")},
    "nc": "usr/bin/nc.openbsd",
}
_ON_THE_HOST = {
    **{name: f"usr/bin/{name}" for name in ("gcc", "man", "mandoc", "prosody", "zsh")},
    **{name: f"usr/bin/{name}" for name in ("systemd-analyze", "systemd-socket-activate")},
    **{name: f"usr/sbin/{name}" for name in ("inspircd", "lighttpd", "mariadbd", "slapd")},
    **{name: f"usr/lib/postgresql/17/bin/{name}" for name in ("initdb", "postgres")},
    "vsftpd": "usr/sbin/vsftpd",
    "tclsh": "usr/bin/tclsh8.6",
}
# GCC and its parts have to be run by the tree's loader (see relocate.py), and what it makes is to
# run with the libraries that it was made with.
_GCC = """\
#!/bin/sh
loader={tree}/lib64/ld-linux-x86-64.so.2 libraries={tree}/usr/lib/x86_64-linux-gnu
exec $loader --library-path $libraries --argv0 {tree}/usr/bin/gcc {tree}/usr/bin/gcc \\
    -wrapper $loader,--library-path,$libraries --sysroot={tree} -B{tree}/usr/bin/ \\
    -Wl,--dynamic-linker=$loader -Wl,-rpath=$libraries "$@"
"""
_LLVM = "usr/lib/x86_64-linux-gnu/libLLVM*"

PEERS = Collection(
    "peers",
    "the tests' peers",
    apt.Selection(
        image.SELECTION.suites,
        (
            *image.SELECTION.packages,
            *("lighttpd", "vsftpd", "inspircd", "slapd", "prosody", "postgresql-17"),
            *("mariadb-server-core", "dovecot-pop3d", "dovecot-lmtpd", "dovecot-managesieved"),
            *("tcl8.6", "zsh", "man-db", "mandoc", "systemd", "gcc", "libc6-dev", "patchelf"),
        ),
    ),
    IN_GUESTS | _ON_THE_HOST,
    scripts={"gcc": _GCC},
    # For PostgreSQL's just-in-time compiler, which no small query sets to work: 130 MB.
    unused=(_LLVM,),
)
# A tree of its own, so that it costs nothing where the others are at hand already.
AUTHORITY = Collection(
    "authority",
    "an ACME authority",
    apt.Selection(image.SELECTION.suites, ("pebble", "patchelf")),
    {name: f"usr/bin/{name}" for name in ("pebble", "pebble-challtestsrv")},
    compiler=lambda: PEERS.tree,
)
# What `tlsify wrap` is tried with beside those, also in guests, which see the tree's folder; and a
# compiler for one more. Only the full run asks for them: 200 MB, and 250 MB.
SERVERS = Collection(
    "servers",
    "servers to wrap",
    apt.Selection(
        image.SELECTION.suites,
        ("apache2-bin", "busybox-static", "lighttpd", "nodejs", "redis-server", "patchelf"),
    ),
    {
        **{name: f"usr/sbin/{name}" for name in ("apache2", "lighttpd")},
        **{name: f"usr/bin/{name}" for name in ("node", "redis-server")},
        "busybox-static": "usr/bin/busybox",
    },
    compiler=lambda: PEERS.tree,
)
GO = Collection(
    "go",
    "a compiler of Go",
    apt.Selection(image.SELECTION.suites, ("golang-1.24-go", "patchelf")),
    {"go": "usr/lib/go-1.24/bin/go"},
    compiler=lambda: PEERS.tree,
)
# Large, and only for those who ask for it.
BROWSER = Collection(
    "browser",
    "a browser",
    apt.Selection(
        image.SELECTION.suites,
        (
            *("chromium", "chromium-driver", "libnss3-tools", "ffmpeg", "fonts-dejavu-core"),
            "patchelf",
        ),
    ),
    {
        # Not the script of that name, which looks for the browser in /usr.
        "chromium": "usr/lib/chromium/chromium",
        **{name: f"usr/bin/{name}" for name in ("chromedriver", "certutil", "ffmpeg")},
    },
    variables={"FONTCONFIG_FILE": "etc/fonts/fonts.conf"},
    links={
        f"usr/lib/x86_64-linux-gnu/lib{name}.so.3": f"{name}/lib{name}.so.3"
        for name in ("blas", "lapack")
    },
    compiler=lambda: PEERS.tree,
)
