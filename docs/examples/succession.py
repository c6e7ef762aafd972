"""succession PORT CERT KEY SOCKET: a server of lines, whose next version takes over its clients.

Start it again with the same arguments: the new process asks the running one, at SOCKET, for its
listening socket and its connections. The clients notice nothing. A connection that is relayed
cannot move; the old process serves it to its end.
"""

import os
import selectors
import socket
import sys
from pathlib import Path

from tlsify import KeyPair, Offload, ServerConfig, TlsifyError, TLSSocket, accept, adopt

LONGEST = 65536  # bytes of a line
ROOM = 196608  # bytes of a message: the beginning of a line, and a session's state
END, TAKEN = b"end", b"taken"
PATIENCE = 10.0  # seconds


class Server:
    """Answers each line with the line, and the number of the process that serves it."""

    def __init__(self, config: ServerConfig, listener: socket.socket) -> None:
        """Serve nobody yet."""
        self.config, self.listener = config, listener
        self.begun: dict[TLSSocket, bytes] = {}  # the beginning of each client's next line
        self.selector = selectors.DefaultSelector()

    def run(self, door: socket.socket) -> None:
        """Serve until a successor has taken what can move, and the rest has ended."""
        self.selector.register(self.listener, selectors.EVENT_READ, self.greet)
        self.selector.register(door, selectors.EVENT_READ, self.hand_over)
        while self.selector.get_map():
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def greet(self, listener: socket.socket) -> None:
        """Accept a client. For the sake of brevity others wait for its handshake."""
        try:
            sock, _ = listener.accept()
            self.add(TLSSocket(accept(sock, self.config)))
        except (TlsifyError, OSError) as error:
            print(error, file=sys.stderr)

    def add(self, client: TLSSocket, begun: bytes = b"") -> None:
        """Go on with a client."""
        client.settimeout(0)
        self.begun[client] = begun
        self.selector.register(client, selectors.EVENT_READ, self.answer)

    def answer(self, client: TLSSocket) -> None:
        """Answer the lines that have arrived."""
        try:
            data = client.recv(LONGEST)
            *lines, rest = (self.begun[client] + data).split(b"\n")
            client.settimeout(PATIENCE)
            client.sendall(b"".join(b"%d: %s\n" % (os.getpid(), line) for line in lines))
            client.settimeout(0)
        except BlockingIOError:
            return
        except (TlsifyError, OSError) as error:
            print(error, file=sys.stderr)
            data = rest = b""
        self.begun[client] = rest
        if not data or len(rest) > LONGEST:
            self.selector.unregister(client)
            del self.begun[client]
            client.close()

    def hand_over(self, door: socket.socket) -> None:
        """Send a successor all that can move. If it does not take it, nothing has changed."""
        moving = []
        is_taken = False
        successor, _ = door.accept()
        try:
            with successor:
                successor.settimeout(PATIENCE)
                socket.send_fds(successor, [b"listener"], [self.listener.fileno()])
                for client in [each for each in self.begun if each.offload is Offload.KERNEL]:
                    self.selector.unregister(client)
                    begun = self.begun.pop(client)
                    number, state = client.handoff.detach()
                    moving.append((number, state, begun))
                    message = [len(begun).to_bytes(4), begun, state]
                    socket.send_fds(successor, message, [number])
                successor.send(END)
                is_taken = successor.recv(len(TAKEN)) == TAKEN
        except (TlsifyError, OSError) as error:
            print(f"handing over failed: {error}", file=sys.stderr)
        for number, state, begun in moving:
            if is_taken:
                os.close(number)
            else:
                self.add(TLSSocket(adopt(socket.socket(fileno=number), state)), begun)
            state[:] = bytes(len(state))  # it has secrets
        if is_taken:
            for sock in (self.listener, door):
                self.selector.unregister(sock)
                sock.close()


def take_over(path: Path, config: ServerConfig) -> Server | None:
    """Return a server with what the running process has; None if there is no such process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        try:
            channel.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        _, descriptors, _, _ = socket.recv_fds(channel, ROOM, 1)
        server = Server(config, socket.socket(fileno=descriptors[0]))
        while True:
            message, descriptors, _, _ = socket.recv_fds(channel, ROOM, 1)
            if message == END:
                channel.send(TAKEN)
                return server
            size = 4 + int.from_bytes(message[:4])
            sock = socket.socket(fileno=descriptors[0])
            server.add(TLSSocket(adopt(sock, message[size:])), message[4:size])


def main(port: str, certificate: str, key: str, path: str) -> None:
    """Take over, or begin."""
    config = ServerConfig(key_pair=KeyPair.load(certificate, key), timeout=PATIENCE)
    os.umask(0o077)  # connections are for processes of the same user
    place, unfinished = Path(path), Path(f"{path}.new")
    unfinished.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(str(unfinished))
        door.listen()
        server = take_over(place, config)
        if server is None:
            server = Server(config, socket.create_server(("127.0.0.1", int(port)), backlog=1024))
        unfinished.replace(place)
        print("ready", flush=True)
        server.run(door)


main(*sys.argv[1:])
