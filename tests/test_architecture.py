"""The tree is the architecture: imports point one way, heavy libraries have one home, files say what they are for."""

import ast
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for package in ("detectors", "distill", "harness") for path in (ROOT / package).rglob("*.py"))
MODULES = [path for path in SOURCES if path.name != "__init__.py"]
LONG = 400
"""Lines of a file."""
HISTORIES = {"found", "told", "said", "own", "whole", "kept"}
"""What happened to a value."""

HOMES = {
    "transformers": {"detectors/encoders/image.py", "harness/train/pretrained.py"},
    "spconv": {"detectors/encoders/sparse_library.py"},
    "mlflow": {"harness/tracking/"},
    "optuna": {"harness/search/"},
    "matplotlib": {
        "harness/inspect/picture.py",
        "harness/evaluate/figure.py",
        "harness/style.py",
        "harness/report/",
        "harness/search/figures.py",
    },
    "jinja2": {"harness/report/html.py"},
    "pycocotools": {"harness/data/masks.py", "harness/evaluate/mask_ap.py"},
    "numba": {"detectors/compiled.py"},
    "msgspec": {"harness/data/tables.py", "harness/evaluate/", "harness/runs/folder.py"},
    "pandas": {"harness/api.py", "harness/evidence/", "harness/report/"},
    "nuscenes": {"harness/data/", "harness/evaluate/", "harness/inspect/", "harness/world/"},
}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _given_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and name of every variable, attribute, parameter, function and class that a file gives a name."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.alias(asname=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)):
                yield node.lineno, name


def test_imports_point_one_way():
    found = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_module_opens_by_saying_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "no module docstring"
    assert docstring.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_heavy_library_stays_in_its_home(path):
    for library in _imported(ast.parse(path.read_text())) & HOMES.keys():
        assert any(_name(path).startswith(home) for home in HOMES[library]), f"{library} is imported in {_name(path)}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_module_is_named_for_nothing(path):
    parts = path.relative_to(ROOT).parts
    assert not {"utils", "common", "misc", "base", "helpers"} & {part.removesuffix(".py") for part in parts}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_names_say_what_a_value_is(path):
    # `whole: true` is a key of a study's YAML.
    allowed = {"whole"} if _name(path) == "harness/study/search_spec.py" else set()
    given = _given_names(ast.parse(path.read_text()))
    wrong = [f"{_name(path)}:{line} {name}" for line, name in given if name in HISTORIES - allowed]
    assert not wrong, f"{', '.join(wrong)}: a name says what the value is, not what happened to it"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_file_is_one_idea(path):
    """It warns and does not fail: some ideas are long."""
    lines = len(path.read_text().splitlines())
    if lines > LONG:
        warnings.warn(f"{_name(path)} has {lines} lines; above {LONG} it may be more than one idea", stacklevel=1)
