"""TLS for an unmodified server: its connections, handed to it in plain text.

The program runs under a seccomp filter (`filter`), which has the kernel ask a supervisor (its
parent) about a few system calls, and leaves all others alone: ``write`` and ``sendfile`` are never
looked at.

- ``listen``: the program keeps its socket. A socket of ours joins it at the same address
  (`steering`): clients come to ours, where `aio.Acceptor` does the handshakes. The program is told
  of each ready connection by a connection of our own to its socket, a knock (`door`).
- ``accept``: the program gets the ready connection itself, as a new descriptor, with the client's
  address; or, where the kernel cannot have the keys, one end of a pair (`relay`).
- ``read`` and the like, ``shutdown``, ``close``: asked about for connections alone, which have
  numbers that no other descriptor has (`numbers`); `descriptor` keeps the contract.
- ``exit_group``: an end in good order. The kernel asks nothing about a killed process.

Three rules. A call that makes plaintext possible is refused whenever we cannot serve it: whatever
fails here, no byte goes out in plain text. A call is answered at once or kept in a list: the one
thread, that of the event loop, never waits for a program. What `ID_VALID` does not confirm is not
done: a process that asks may have ended, and another one may have its number.
"""
