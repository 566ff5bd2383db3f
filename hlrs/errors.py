"""Errors that end a command; `hlrs.cli` turns each into one line and an exit status."""

CHANGES_NO_RESULT = True  # so no code digest covers it (artifacts/code_digest.py)

INTERRUPTED = 75  # sysexits.h EX_TEMPFAIL: the state is saved, rerun to resume


class HlrsError(Exception):
    """Base of errors whose message is one line for the user; `status` is the exit status."""

    status = 1


class UserError(HlrsError):
    """Wrong parameter, file or argument; the message names it and the remedy."""

    status = 2


class Failure(HlrsError):
    """Failure at run time, such as a truncated artifact or a loss that is not a number."""


class Interrupted(HlrsError):
    """Interruption by a signal (`SIGTERM`, `SIGUSR1` or `SIGINT`); the state is saved."""

    status = INTERRUPTED

    def __init__(self, message: str, signal: str) -> None:
        super().__init__(message)
        self.signal = signal
