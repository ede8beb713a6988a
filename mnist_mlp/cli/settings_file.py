"""Files of settings: where `--config` finds them, and their check."""

from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, get_loader, set_loader
from jsonargparse.typing import path_type

from mnist_mlp.errors import UserError

GROUPS = ("model", "data", "trainer", "checkpoint", "last")  # of options
CLASSES = ("optimizer", "lr_scheduler")  # options that name one, with arguments
EMPTY = {*GROUPS, *CLASSES, "init_args"}  # may be, if all lines in it are commented out
NULL, STRING, MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "str", "merge"))  # YAML's types

yaml_value = get_loader("yaml")


class SettingsFile(ActionConfigFile):
    """The option `--config`: a file, the name of a recipe, or YAML itself; it may set nothing, but no key twice."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.read = cache(Path.read_text)  # once: a pipe, as of `--config <(...)`, is empty afterwards

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        path = find_settings(values)
        text = self.read(path, encoding="utf-8-sig") if path else values
        folder = path_type("fr")(str(path)).relative_path_context() if path and path.is_file() else nullcontext()
        try:
            if settings := checked(text):
                with folder:  # of files that it names
                    super().__call__(parser, cfg, settings, option_string)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"--config {path or 'text'}: {' '.join(str(error).split())}") from None


def find_settings(name: str) -> Path | None:
    """The file that `--config` names, else the recipe, with or without `configs/` and `.yaml`; None for YAML itself.

    Raises:
        UserError: It names neither. Says which recipes there are.
    """
    path, package = Path(name).expanduser(), Path(__file__).parents[1]
    if path.exists() and not path.is_dir():
        return path
    folders = (package / "configs", package.parent / "configs")  # in an installed wheel, and in a checkout
    recipes = {recipe.stem: recipe for folder in folders for recipe in folder.glob("*.yaml")}
    if name.removeprefix("configs/").removesuffix(".yaml") in recipes:
        return recipes[path.stem]
    if ": " in name:
        return None
    raise UserError(f"--config {name}: is neither a file nor a recipe, which are {', '.join(sorted(recipes))}")


def checked(text: str) -> str:
    """The settings in YAML, as ASCII, which may pass for a path in any locale; empty if there are none.

    Raises:
        UserError: It is not a mapping, nor empty, or has a key twice, or a group of options that is none.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None or node.tag == NULL:
        return ""
    if not isinstance(node, yaml.MappingNode):
        raise UserError("has no settings, such as `model: {lr: 0.1}`")
    check_keys(node, "", {})
    settings = {key.value: value for key, value in node.value}
    for group in settings.keys() & set(GROUPS):
        if not isinstance(settings[group], yaml.MappingNode) and settings[group].tag not in (NULL, STRING):
            raise UserError(f"--{group} is a group of options, not {settings[group].value or '[]'}")
    images = settings.get("images")
    if images is not None and not isinstance(images, yaml.SequenceNode):  # jsonargparse would go through anything
        raise UserError("--images: must be a list of files, folders and patterns")
    if all(name in EMPTY and value.tag == NULL for name, value in settings.items()):
        return ""
    return yaml.serialize(node, Dumper=yaml.SafeDumper)


def check_keys(node: yaml.Node, name: str, lines: dict[str, int]) -> None:
    """Raise a UserError for a key that is there twice in a node of YAML with a name; notes the lines of its keys."""
    if isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            check_keys(item, f"{name}{position}.", lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            full, line = f"{name}{key.value}", key.start_mark.line + 1
            if key.tag not in (STRING, MERGE):
                raise UserError(f"line {line}: the name of an option must be a word, not {key.value}")
            if full in lines:
                raise UserError(f"line {line}: {full} is already set in line {lines[full]}: leave one out")
            lines[full] = line
            check_keys(value, f"{full}.", lines)


def without_empty_groups(text: str) -> Any:
    """Load YAML without empty groups, as of lines all commented out: jsonargparse takes `trainer:` for no trainer."""

    def fill(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: fill(item) for key, item in value.items() if item not in (None, {}) or key not in EMPTY}

    return fill(yaml_value(text))


set_loader("yaml", without_empty_groups, (yaml.YAMLError,))
