"""The package's architecture: who imports whom, who reaches into a library, where an update stands, and its types."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "mnist_mlp"
FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = [path.parent for path in FILES if path.name == "__init__.py" and path.parent != PACKAGE]
FLOORS = [  # modules and folders, which import from lower floors only, and a folder's modules from one another
    ["errors"],
    ["arguments", "processes", "datasets", "command_lines", "manual_optimization", "openmp", "deskew", "directions"],
    ["network", "gradient", "schedules"],
    ["evaluation"],
    ["batches"],
    ["data"],
    ["classifier"],
    ["runtime"],
    ["display"],
    ["studies"],
    ["cli"],
    ["benchmark", "notebook", "__main__"],
]
GROUND_FLOOR = {  # all they import
    "arguments": {"errors"},
    "openmp": set(),
    "deskew": set(),
    "directions": set(),
    "processes": set(),
    "datasets": {"errors"},
    "command_lines": {"datasets", "errors"},
    "manual_optimization": {"errors"},
}
CORE = ["network", "gradient", "schedules", "batches", "data", "classifier"]
AROUND_CORE = {"runtime", "display", "studies", "cli"}
FROM_ABOVE = {PACKAGE / "__init__.py", PACKAGE / "notebook" / "tutorial.py"}  # the latter imports as users do
DOCUMENTED = {"os._exit"}  # public, for all its name


def show(path: Path) -> str:
    """A file's or a folder's name in the package."""
    return path.relative_to(PACKAGE).as_posix()


def module_name(path: Path) -> str:
    """The name by which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path) for path in FILES}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The modules of the package that a file imports, inside functions too, with their lines."""
    package = module_name(path if path.name == "__init__.py" else path.parent)
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            members = [f"{source}.{alias.name}" for alias in node.names]
            names = [member if member in MODULES else source for member in members]
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == PACKAGE.name)


def room(module: str) -> str:
    """The module or folder on a floor that a module belongs to."""
    return f"{module}.__init__".split(".")[1]


def may_import(name: str) -> set[str]:
    """The modules and folders from which one may import."""
    floor = next(number for number, floor in enumerate(FLOORS) if name in floor)
    return GROUND_FLOOR.get(name, set().union(*FLOORS[:floor])) | {name}


def test_every_module_stands_on_a_floor() -> None:
    assert {room(name) for name in MODULES} - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("path", [path for path in FILES if path not in FROM_ABOVE], ids=show)
def test_imports_point_down(path: Path) -> None:
    allowed = may_import(room(module_name(path)))
    wrong = [f"line {line}: {name}" for line, name in imports(path) if room(name) not in allowed]
    assert not wrong, f"{show(path)} may import from {sorted(allowed)} only"


@pytest.mark.parametrize("name", CORE)
def test_the_core_knows_nothing_around_it(name: str) -> None:
    assert not {room(module) for _, module in imports(PACKAGE / f"{name}.py")} & AROUND_CORE


@pytest.mark.parametrize("folder", FOLDERS, ids=show)
def test_no_circles(folder: Path) -> None:
    modules = {module_name(path): {name for _, name in imports(path)} for path in folder.glob("*.py")}
    TopologicalSorter({name: imported & modules.keys() for name, imported in modules.items()}).prepare()


def reaches_into_library(node: ast.AST) -> bool:
    """Whether code names a private attribute of an object that is not its own, by a dot or by `getattr`."""
    match node:
        case ast.Attribute(value=owner, attr=name):
            pass
        case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[owner, ast.Constant(value=str(name)), *_]):
            pass
        case _:
            return False
    private = name.startswith("_") and not name.startswith("__") and ast.unparse(node) not in DOCUMENTED
    own = ast.unparse(owner) in {"self", "cls", "super()"}
    return private and not own and not ast.unparse(owner).startswith("torch.ops")


def test_private_attributes_of_libraries() -> None:
    lines = {
        (show(path), node.lineno)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if reaches_into_library(node)
    }
    assert {name for name, _ in lines} <= {"runtime/internals.py"}, lines
    assert len(lines) <= 3, lines


def test_types() -> None:
    command = [sys.executable, "-m", "mypy", "mnist_mlp"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def names_addcmul(tree: ast.AST) -> list[ast.Attribute]:
    """Where code names the method that makes an update."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "addcmul_"]


def test_the_update_stands_once() -> None:
    trees = {show(path): ast.parse(path.read_text()) for path in FILES}
    assert [name for name, tree in trees.items() for _ in names_addcmul(tree)] == ["gradient.py"]
    [descend] = [node for node in trees["gradient.py"].body if getattr(node, "name", None) == "descend"]
    assert names_addcmul(descend), "the update is not in `descend`"


@pytest.mark.parametrize("path", FILES, ids=show)
def test_no_optimizer_of_torch_does_the_update(path: Path) -> None:
    """None is made: graphed_update.py only asks whether the user's is one."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(ast.unparse(function).split(".")[-1] in ("SGD", "Adam", "AdamW") for function in calls)
