"""The errors that end a command with one line in place of a traceback."""

import signal


class UserError(ValueError):
    """Something given cannot be used: the message names it and says in one line what to do."""

    exit_code = 2  # of the command that ends with it


class NotFoundError(UserError):
    """A data set is not on this machine and cannot be downloaded."""


class TrainingError(UserError):
    """Training failed though each setting by itself is allowed: it diverged."""

    exit_code = 1


class NotSureError(UserError):
    """An image may show no digit."""

    exit_code = 1


class StoppedBySignalError(BaseException):
    """SIGINT or SIGTERM asks the program to end. Like KeyboardInterrupt it passes every `except Exception`."""

    def __init__(self, signum: int, between_updates: bool) -> None:
        super().__init__(signum)
        self.signum = signum
        self.exit_code = 128 + signum  # as shells report it
        self.between_updates = between_updates  # so that the state can be saved
        self.checkpoint = ""  # the newest of the run, and
        self.resume = ""  # the command that resumes the run, once they are known

    def __str__(self) -> str:
        text = f"stopped by {signal.Signals(self.signum).name}"
        return f"{text}; resume with: {self.resume}" if self.resume else text

    def _render_traceback_(self) -> list[str]:
        """The line below an interrupted cell: IPython shows it in place of a traceback."""
        call = f"Trainer(...).fit(model, data, ckpt_path={self.checkpoint!r})"
        resume = f"; resume with: {call}" if self.checkpoint else ""
        return [f"stopped by {signal.Signals(self.signum).name}{resume}"]
