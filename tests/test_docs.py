"""What documents say exists: links, studies, commands and flags, keys and modules."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import typer
import yaml

from harness.__main__ import COMMANDS as CROSSBEV
from harness.search.opened_search import open_search
from harness.study.load import load_study
from harness.study.roles import ImageTeacherSpec, StudentSpec, TeacherSpec
from harness.study.schedule import AugmentSpec, ScheduleSpec
from harness.study.search_spec import SearchSpec
from harness.study.spec import DataSpec, StudySpec

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "studies/README.md")),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "studies" / "results").glob("*.md"),
    ]
)
MOST_README_LINES = 150
MODULES = {name: module for commands in CROSSBEV.values() for name, module in commands.items()}
_PROGRAMS = ("run", "report", "search", "runs", "data", "evaluate", "import", "catalogue")
COMMANDS = tuple(f"harness.{name}" for name in _PROGRAMS)
# CONTRIBUTING.md's are of a package that test_contributing.py makes.
STUDY_PAGES = [path for path in PAGES if path.name != "CONTRIBUTING.md" and "```yaml" in path.read_text()]
BASE = """
schedule: {steps: 5}
teachers: {lidar: {preset: tiny_lidar}}
students: {camera: {preset: tiny_camera}}
paths: [lidar->camera]
losses: {feature: {weight: unidistill}, relation: {weight: unidistill}, response: {weight: unidistill}}
arms: {unidistill: [feature, relation, response]}
"""
"""What an example leaves out."""


def _name(path):
    return path.relative_to(ROOT).as_posix()


def _load_hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = _load_hooks()


def _blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks of a language; "" for those that name none."""
    return [block for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if kind == language]


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def _inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", _prose(text))


@cache
def _anchors(path: Path) -> set[str]:
    """Those that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", _prose(path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(path.read_text())):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        at = (path.parent / file).resolve() if file else path
        assert at.is_file(), f"{_name(path)}: {target} does not exist"
        assert not anchor or anchor in _anchors(at), f"{_name(path)}: {target} has no such heading"


def _examples() -> Iterator[tuple[Path, str]]:
    for path in STUDY_PAGES:
        for block in _blocks(path.read_text(), "yaml"):
            yield path, block


@pytest.mark.parametrize(("path", "example"), [pytest.param(*each, id=_name(each[0])) for each in _examples()])
def test_examples_of_studies_load(path, example, tmp_path):
    example = re.sub(r"mine\.safetensors|my_labels", lambda match: str(tmp_path / match.group()), example)
    content = yaml.safe_load(example)
    is_whole = {"schedule", "students", "paths"} <= content.keys()
    file = tmp_path / "study.yaml"
    file.write_text(example if is_whole else yaml.safe_dump(yaml.safe_load(BASE) | content))
    study = load_study(file)
    assert set(content) <= study.model_fields_set
    if study.search is not None:
        open_search(file, ())


def test_the_readme_s_study_compares_its_losses_alone_and_together(tmp_path):
    (example,) = _blocks((ROOT / "README.md").read_text(), "yaml")
    file = tmp_path / "my_study.yaml"
    file.write_text(example)
    study = load_study(file)
    assert list(study.arms) == ["feature", "response", "feature+response"]
    assert study.seeds == (0, 1, 2)


def test_the_readme_s_example_is_that_of_the_page_on_studies():
    (example,), (shown, *_) = (
        [yaml.safe_load(block) for block in _blocks((ROOT / name).read_text(), "yaml")]
        for name in ("README.md", "docs/studies.md")
    )
    assert example == shown


def _commands(text: str) -> Iterator[list[str]]:
    """The words of every command of ours that a page shows, in a block or within a line."""
    shown = [line for block in _blocks(text, "") for line in block.replace("\\\n", " ").splitlines()]
    for line in [*shown, *_inline_code(text)]:
        for part in line.split(" && "):
            if re.match(r"(python -m|crossbev) (?!-)", part):
                words = shlex.split(part, comments=True)
                if words[0] == "python":
                    yield words[2:]
                else:
                    # The commands of the catalogue share a module, which takes their name.
                    module = MODULES[words[1]]
                    yield [module, *words[1 if module == "harness.catalogue" else 2 :]]


def _command(module_name: str) -> "typer.core.TyperCommand | typer.core.TyperGroup | None":
    """The command line of a module that `python -m` runs; None of one that is not made with typer."""
    spec = importlib.util.find_spec(module_name)
    assert spec is not None, f"{module_name} does not exist"
    module = import_module(f"{module_name}.__main__" if spec.submodule_search_locations else module_name)
    app = getattr(module, "app", None)
    return None if app is None else typer.main.get_command(app)


def _check(words: list[str]) -> None:
    command = _command(words[0])
    arguments = words[1:]
    if command is None:
        return
    if hasattr(command, "commands"):
        assert arguments[0] in command.commands, f"{' '.join(words)}: no such command"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    # Without the conversions of values, whose files need not be there; an unknown flag raises.
    context = command.context_class(command, info_name=words[0])
    _, left, _ = command.make_parser(context).parse_args([*arguments])
    assert not left, f"{' '.join(words)}: {left} is too much"


@pytest.mark.parametrize("path", [path for path in PAGES if [*_commands(path.read_text())]], ids=_name)
def test_commands_and_their_flags_exist(path):
    for words in _commands(path.read_text()):
        _check(words)
        for word in words:
            # Of several in braces each.
            if word.startswith("studies/") and "{" not in word:
                assert (ROOT / word).is_file(), f"{_name(path)}: {word} does not exist"


def test_a_command_with_an_unknown_flag_is_noticed():
    with pytest.raises(Exception, match="--seed"):
        _check(["harness.run", "studies/paths.yaml", "--seed", "1"])
    with pytest.raises(AssertionError, match="too much"):
        _check(["harness.run", "studies/paths.yaml", "studies/radar.yaml"])


def _flags() -> set[str]:
    flags = set()
    for name in COMMANDS:
        command = _command(name)
        for each in [command, *getattr(command, "commands", {}).values()]:
            for parameter in each.params:
                flags |= {*parameter.opts, *parameter.secondary_opts}
    return flags | {"--help"}


def test_flags_that_are_named_exist():
    known = _flags()
    for path in PAGES:
        for code in _inline_code(path.read_text()):
            if code.startswith("--"):
                for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", code):
                    # Of another command line: tests/memory_check.py and pytest.
                    assert flag in known, f"{_name(path)}: no command has {flag}"


@pytest.mark.parametrize(
    ("page", "title", "spec"),
    [
        ("studies", "## Top level", StudySpec),
        ("studies", "## data", DataSpec),
        ("studies", "## schedule", ScheduleSpec),
        ("studies", "Keys of `augment`", AugmentSpec),
        ("studies", "## teachers", TeacherSpec),
        ("studies", "## students", StudentSpec),
        ("studies", "## image_teachers", ImageTeacherSpec),
        ("search", "# Search weights", SearchSpec),
    ],
)
def test_every_key_of_a_study_is_documented_and_no_other(page, title, spec):
    text = (ROOT / "docs" / f"{page}.md").read_text().partition(title)[2]
    table = re.search(r"^\| key \|.*?\n\n", text, re.M | re.S).group()
    rows = [line.split("|")[1] for line in table.strip().splitlines()[2:]]
    keys = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert keys == set(spec.model_fields)


def test_the_tree_of_the_site_has_every_module_with_its_purpose():
    tree = HOOKS.tree()
    modules = [path for package in HOOKS.PACKAGES for path in (ROOT / package).rglob("*.py")]
    modules = [path for path in modules if path.name != "__init__.py"]
    shown = re.findall(r"^### (\S+)$|^\| `(\w+\.py)` \| (.+) \|$", tree, re.M)
    folder, listed = "", []
    for heading, name, purpose in shown:
        folder = heading or folder
        if name:
            assert len(purpose) > 10
            listed.append(f"{folder}/{name}")
    assert sorted(listed) == sorted(_name(path) for path in modules)
    assert HOOKS.MARKER in (ROOT / "docs" / "architecture.md").read_text()


def test_links_to_files_outside_of_the_docs_are_links_of_the_site():
    assert HOOKS.relinked("[a](../CONTRIBUTING.md#a-table)", "docs/index.md") == "[a](contributing.md#a-table)"
    assert HOOKS.relinked("[a](docs/losses.md)", "CONTRIBUTING.md") == "[a](losses.md)"
    assert HOOKS.relinked("[a](results/paths.md)", "studies/README.md") == "[a](results/paths.md)"
    assert HOOKS.relinked("![a](../docs/report.png)", "studies/README.md") == "![a](../report.png)"
    for text in ("[a](https://example.org/README.md)", "[a](#title)", "[a](missing.md)"):
        assert HOOKS.relinked(text, "docs/index.md") == text


def test_the_readme_has_the_command_that_ci_runs():
    pattern = re.search(r"grep -m1 -E '(.+)' README.md", (ROOT / ".ci" / "run").read_text()).group(1)
    assert re.search(pattern, (ROOT / "README.md").read_text(), re.M)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_README_LINES
