"""The errors that end a command with one line in place of a traceback."""

import signal


class UserError(ValueError):
    """Something given cannot be used: the message names it and says in one line what to do.

    Attributes:
        exit_code: Of the command that ends with it.
    """

    exit_code = 2


class NotFoundError(UserError):
    """A data set is neither on this machine nor can it be downloaded."""


class TrainingError(UserError):
    """Training failed though each setting by itself is allowed: it diverged."""

    exit_code = 1


class StoppedBySignalError(BaseException):
    """SIGINT or SIGTERM asks the program to end. Like KeyboardInterrupt it passes every `except Exception`.

    Args:
        signum: The signal.
        between_updates: Whether the run is at rest, so that its state can be saved.

    Attributes:
        resume: The command that resumes the run, once it is known.
    """

    def __init__(self, signum: int, between_updates: bool) -> None:
        super().__init__(signum)
        self.signum, self.between_updates, self.resume = signum, between_updates, ""

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it."""
        return 128 + self.signum

    def __str__(self) -> str:
        text = f"stopped by {signal.Signals(self.signum).name}"
        return f"{text}; go on with: {self.resume}" if self.resume else text
