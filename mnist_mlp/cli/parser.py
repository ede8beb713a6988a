"""The parser of every command: short names, a short help, and errors in one line."""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from jsonargparse import Namespace
from jsonargparse.typing import restricted_number_type
from lightning.pytorch.cli import LightningArgumentParser

from mnist_mlp.arguments import reworded
from mnist_mlp.cli.help import Collector, help_text
from mnist_mlp.cli.short_names import nearest
from mnist_mlp.command_lines import UNUSED

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])


class Parser(LightningArgumentParser):
    """An argument parser for one command, or for all.

    Args:
        command: The command.
        names: Short names of its options.
        topic: The group of options that `--help` is about.
        kwargs: As for LightningArgumentParser.
    """

    def __init__(
        self, command: str = "", names: Mapping[str, str] = {}, topic: str | None = None, **kwargs: Any
    ) -> None:
        self.command, self.names, self.topic = command, names, topic
        super().__init__(prog="python -m mnist_mlp", **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:
        try:
            return with_homes(super().parse_args(*args, **kwargs))
        except UnicodeDecodeError as error:
            fail(f"--config must be text in UTF-8: {error}")

    def validate(self, cfg: Namespace, *_: Any, **options: Any) -> None:
        """Check null as any other value, which jsonargparse would pass over."""
        super().validate(cfg, False, **options)

    def format_help(self) -> str:
        collector = Collector(prog=self.prog)
        self.formatter_class = lambda **_: collector
        super().format_help()
        options = [each for each in collector.options if each.dest not in UNUSED.get(self.command, ())]
        return help_text(self.command, str(self.description), options, self.names, self.topic)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message in terms of the command line, and end with exit code 2."""
        if not self.exit_on_error:  # the parser of an option's class, whose error is part of this one's
            super().error(message, ex)
        message = re.sub(
            r'Parser key "(?:(?:fit|validate|test|predict)\.)?([^"]+)"( element \d+)?:', r"--\1\2:", message
        )
        message = re.sub(r"^(unrecognized arguments|ambiguous option): (\S+).*", self.unknown, message, flags=re.I)
        message = re.sub(r"^argument ([^\s/]+)\S*: expected one argument", r"\1: give a value", message)
        fail(reworded(message))

    def unknown(self, match: re.Match[str]) -> str:
        """A message about a word that is no option of the command."""
        word = match[2].partition("=")[0]
        if not word.startswith("-"):
            return f"{word}: is no option: these begin with --"
        if match[1].startswith("ambiguous") or not self.command:
            return match[0]
        meant = nearest(word.removeprefix("--"), [*self.names, *self.get_defaults().keys()])
        advice = f"did you mean --{meant}?" if meant else f"see {self.command} --help"
        return f"{word}: {self.command} has no such option: {advice}"


def with_homes(value: Any) -> Any:
    """Settings with each `~/` as the user's home, which a shell leaves as it is in `--data.data_dir=~/data`."""
    if isinstance(value, str):
        path = os.path.expanduser(value)  # noqa: PTH111 - `Path` drops a slash
        return fail(f"{value}: there is no such home") if path.startswith("~") else path
    if isinstance(value, Namespace):
        return Namespace({name: with_homes(item) for name, item in vars(value).items()})
    if isinstance(value, dict):
        return {name: with_homes(item) for name, item in value.items()}
    return [with_homes(item) for item in value] if isinstance(value, list) else value


def fail(message: str, code: int = 2) -> NoReturn:
    """End with one line on stderr and an exit code."""
    message = re.sub(r"`?Trainer\((\w+)=(.*?)\)`?", r"--trainer.\1 \2", message)
    with suppress(OSError):  # nobody can be told
        print("error:", " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(code)
