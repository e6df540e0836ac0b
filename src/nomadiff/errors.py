"""Errors that a user can act on: one line that says what is wrong, where, and what to do.

The command line prints the message without a traceback and exits with ``exit_code`` (``--debug`` shows the traceback).
"""

from __future__ import annotations

import signal

__all__ = [
    "DataError",
    "InUse",
    "Interrupted",
    "NomadiffError",
    "NomadiffWarning",
    "UnreadableImages",
    "UsageError",
    "signal_of",
]


class NomadiffError(Exception):
    """Something failed that the user can understand; the base of every error nomadiff raises on purpose."""

    exit_code = 1


class UsageError(NomadiffError, ValueError):
    """The call itself is wrong (an option, an argument, a combination): nothing was started. Exit code 2."""

    exit_code = 2


class InUse(UsageError):
    """Another process uses a folder or file that one at a time may use: later it is free."""


class DataError(NomadiffError):
    """An input file or folder cannot be used: the message names it."""


class UnreadableImages(DataError):
    """Some images of a set are damaged: the others can be read by themselves (``skip_unreadable``)."""


class Interrupted(NomadiffError):
    """A signal stopped the work after its state was saved; ``exit_code`` is 128 + signal, as a shell reports it."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message, signal_number)  # both: a pool of processes pickles what its workers raise
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        return str(self.args[0])


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """The signal behind an interrupt: the one that a handler told as its argument, else Ctrl-C's."""
    return int(interrupt.args[0]) if interrupt.args else int(signal.SIGINT)


class NomadiffWarning(UserWarning):
    """Information that needs no action; the command line prints it on standard error and goes on."""
