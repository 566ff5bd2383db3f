"""The ways in which a command ends early; `hlrs.cli` turns each into one line and an exit status."""

INTERRUPTED = 75  # sysexits.h EX_TEMPFAIL: the state is saved, run again to go on


class HlrsError(Exception):
    """An error whose message is one line for the user; `status` is the process's exit status."""

    status = 1


class UserError(HlrsError):
    """A mistake in a parameter, a file or an argument; the message names it and the remedy."""

    status = 2


class Failure(HlrsError):
    """Something broke while running: a truncated artifact, a loss that is not a number."""


class Interrupted(HlrsError):
    """A signal (SIGTERM, SIGUSR1 or SIGINT, by name) came; a checkpoint was saved."""

    status = INTERRUPTED

    def __init__(self, message: str, signal: str) -> None:
        super().__init__(message)
        self.signal = signal
