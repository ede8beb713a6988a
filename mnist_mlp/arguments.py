"""Types of arguments, and their check: in Python as on the command line, and in the same words."""

import inspect
import math
import numbers
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import restricted_number_type

from mnist_mlp.errors import UserError

StepSize = restricted_number_type("StepSize", float, [(">", 0), ("<", math.inf)])
Words = str | Callable[[re.Match[str]], str]
WORDS: tuple[tuple[str, Words], ...] = (  # of jsonargparse, in one line, and how they read here
    (r" and v<", " and <"),
    (r"Not of type \w+: (.+) does not conform to restriction v(.+)", r"must be \2, not \1"),
    (
        r"Does not validate .*?Problem with given class_path '[\w.]*?(\w+)': --(\w+): [^:]*Subtypes: \[(.+?)\] Errors:"
        r" .*? Given value: (.*?) - (?:Exp|Import path|Problem).*",
        lambda match: f"{match[1]}: --{match[2]}: must be one of {kinds(match[3])}, not '{match[4]}'",
    ),
    (
        r"Does not validate .*?Problem with given class_path '[\w.]*?(\w+)': (.+?) - (?:Exp|Import path|Problem).*",
        r"\1: \2",
    ),
    (r"--([\w.]+): (\w+): the following arguments are required: (\w+).*", r"--\1.\3: \2 needs it: give a value"),
    (r"--([\w.]+): \w+: --(\w+): ", r"--\1.\2: "),
    (r"^the following arguments are required: (\w+)$", r"--\1 is required: give a value"),
    (
        r"Does not validate against any of the Union subtypes Subtypes: \[(.+?)\] Errors: .* Given value: ?(.*)",
        lambda match: f"must be one of {kinds(match[1])}, not '{match[2]}'",
    ),
    (
        r"(?:Subcommand '\w+' does not accept option|^Option) '([\w.]+)'.*",
        r"--\1 is no option of this command: leave it out",
    ),
    (r"Call to compute_fn of link 'int\((\w+)\) .*? with args \((.*)\) failed.*", r"--\1: must be an int, not \2"),
    (r"Not of type \w+: (float|int)\(\) argument must be .*, not '(\w+)'", r"must be of type \1, not \2"),
    (r"- Expected a path but (.+?) either not accessible or invalid.*", r"there is no class or file \1"),
    (r"Expected a typing.Literal\[(.+)\]. Got value: ?(.*)", r"must be one of \1, not '\2'"),
    (r"Expected a <class '[\w.]*Sequence'>. Got value: ?(.*)", r"must be a number or several, as 1,2,3, not '\1'"),
    (r"Expected a <class '(?:\w+\.)*(\w+)'>\. Got value: ?(.*)", r"must be of type \1, not '\2'"),
    (r"Group '(\w+)' does not accept option '([\w.]+)'.*", r"this command does not use \1.\2: leave it out"),
    (r"Not of type \w+: could not convert string to float: (.*)", r"must be a float, not \1"),
    (r"Not of type \w+: invalid literal for int\(\) with base 10: (.*)", r"must be an int, not \1"),
    (r"Not of type \w+: (.+) not an integer", r"must be an int, not \1"),
    (r"\bNoneType\b", "null"),
)


def kinds(types: str) -> str:
    """Types as jsonargparse lists them, in short: `Literal['a', 'b'], <class 'NoneType'>` is `a, b, null`."""
    types = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", types)
    types = re.sub(r"<class '([\w.]+)'>", r"\1", types)
    types = re.sub(r"(?:\w+\.)+(\w+)", r"\1", types)
    return ", ".join(dict.fromkeys(types.replace("'", "").split(", ")))


def reworded(message: str) -> str:
    """A message of jsonargparse's in one line and our words."""
    message = " ".join(message.split())
    for pattern, words in WORDS:
        message = re.sub(pattern, words, message)
    return message


@cache
def parser_of(owner: type) -> ArgumentParser:
    """A parser of the arguments of a class that have defaults."""
    parameters = inspect.signature(owner).parameters.values()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(owner, skip={each.name for each in parameters if each.default is each.empty})
    return parser


def check_arguments(owner: type, values: Mapping[str, Any]) -> None:
    """Check arguments of a class, by their names, against the types in its signature.

    Arguments without a default are let pass, and names that are none of its arguments, as `locals()` has them.

    Raises:
        UserError: A value is not of its type: names it and says which are allowed.
    """
    for name, parameter in inspect.signature(owner).parameters.items():
        if name not in values or parameter.default is parameter.empty:
            continue
        if values[name] is None and parameter.default is not None:  # which jsonargparse takes for "not given"
            raise UserError(f"{name}: must be {parameter.default!r} or the like, not None")
        try:
            parsed = parser_of(owner).parse_object({name: values[name]}, defaults=False)[name]
        except ArgumentError as error:
            raise UserError(reworded(str(error)).replace(f'Parser key "{name}"', name)) from None
        if isinstance(values[name], str) and not isinstance(parsed, str):  # as the command line has it
            raise UserError(f"{name}: must be {parsed!r}, not the string {values[name]!r}")


def plain(value: Any) -> Any:
    """A value as checkpoints can hold it without code: numbers of NumPy's become Python's. Others are a TypeError."""
    match value:
        case None | bool() | str():
            return value
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            return float(value)
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {plain(name): plain(item) for name, item in value.items()}
    raise TypeError(f"{type(value)} is not plain")


def instantiate(owner: type, saved: Mapping[str, Any], **settings: Any) -> Any:
    """An object of a class from settings, and from saved ones that its `__init__` takes, itself or by `**kwargs`.

    Lightning saves the arguments of all classes of a module, those too that a subclass gives to its base itself.
    """
    taken = {name.split(".")[0] for name in ArgumentParser().add_class_arguments(owner, fail_untyped=False)}
    return owner(**{**{name: value for name, value in saved.items() if name in taken}, **settings})
