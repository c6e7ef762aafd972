"""fetch HOST PORT CA: print the page "/" of an HTTPS server, with tlsify's help."""

import socket
import subprocess
import sys

host, port, authority = sys.argv[1:]
ours, theirs = socket.socketpair()
command = ["tlsify", "connect", "--send-fd", "0", "--ca", authority, host, port]
with ours, subprocess.Popen(command, stdin=theirs) as tlsify:
    theirs.close()  # so that its end is ours, too
    _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
if tlsify.returncode:
    sys.exit(tlsify.returncode)  # it has said why
with socket.socket(fileno=descriptors[0]) as tls, tls.makefile("rb") as answer:
    tls.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    sys.stdout.buffer.write(answer.read())
