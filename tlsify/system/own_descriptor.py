"""OwnDescriptor: a descriptor for the process's life, used only while its number is still ours."""

from __future__ import annotations

import errno
import os

from tlsify.system import process


class OwnDescriptor:
    """A descriptor that no object of the program's has, out of the way of those that have one.

    A program may close all descriptors that it does not know, as daemons do (PEP 3143,
    closefrom(3)). Files that it opens then get their numbers.

    Attributes:
        number: the descriptor; `check` it before any use.
    """

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor."""
        self.number = process.out_of_the_way(descriptor)
        self._file = _file(self.number)

    def is_ours(self) -> bool:
        """Return whether the number still means this file.

        For a file without an inode of its own, as eventfd(2)'s, it means another one of these at
        worst, of which none but an eventfd takes what is written to one.
        """
        try:
            return _file(self.number) == self._file
        except OSError:
            return False

    def check(self) -> int:
        """Return the number.

        Raises:
            OSError: EBADF: the program has closed it.
        """
        if not self.is_ours():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.number

    def close(self) -> None:
        """Close it, unless the program has."""
        if self.is_ours():
            os.close(self.number)


def _file(number: int) -> tuple[int, int]:
    found = os.fstat(number)
    return found.st_dev, found.st_ino
