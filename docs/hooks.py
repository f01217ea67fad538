"""Hooks of the site: pages that live elsewhere in the repository, links between them, and the tree of modules."""

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("detectors", "distill", "harness")
MARKER = "<!-- tree -->"
"""Where a page shows the tree."""

_RENAMED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_ALSO = (
    "studies/README.md",
    "studies/results/*.md",
    "studies/**/*.yaml",
    "tests/calibration/calibration.png",
    "LICENSE",
)
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def tree() -> str:
    """The packages as Markdown: every folder with its modules, every module with the first line of its docstring."""
    lines: list[str] = []
    for package in PACKAGES:
        modules = [path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
        # A folder's own files before its subfolders.
        for folder in sorted({path.parent for path in modules}):
            lines += [f"\n### {folder.relative_to(ROOT).as_posix()}\n", "| module | purpose |", "|---|---|"]
            lines += [f"| `{path.name}` | {_purpose(path)} |" for path in sorted(modules) if path.parent == folder]
    return "\n".join(lines) + "\n"


def _purpose(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    if not docstring:
        raise ValueError(f"{path.relative_to(ROOT)} has no docstring to show in the tree")
    first = " ".join(docstring.partition("\n\n")[0].split())
    # A bar would end the cell.
    return first.replace("|", r"\|").replace("``", "`")


def site_path(path: str) -> str:
    """Where the site has a file of the repository, both as relative paths."""
    return _RENAMED.get(path, path.removeprefix("docs/"))


def repository_path(path: str) -> str:
    """The inverse of `site_path`."""
    for source, page in _RENAMED.items():
        if page == path:
            return source
    return path if (ROOT / path).exists() else f"docs/{path}"


def relinked(markdown: str, source: str) -> str:
    """A page with its links to files of the repository turned into links of the site.

    Args:
        markdown: The page.
        source: Its path in the repository.
    """
    here, page = posixpath.dirname(source), posixpath.dirname(site_path(source))

    def of_site(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        file = posixpath.normpath(posixpath.join(here, target))
        if "://" in target or not (ROOT / file).is_file():
            return match.group()
        return before + posixpath.relpath(site_path(file), page or ".") + after

    return _LINK.sub(of_site, markdown)


def on_files(files: Any, config: Any) -> Any:
    """Add what the site shows from outside docs/ (an event of MkDocs)."""
    # Tests read this file without MkDocs.
    from mkdocs.structure.files import File

    outside = [*_RENAMED, *(path.relative_to(ROOT).as_posix() for each in _ALSO for path in sorted(ROOT.glob(each)))]
    for source in outside:
        files.append(File.generated(config, site_path(source), abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the tree where a page asks for it, and turn links around (an event of MkDocs)."""
    return relinked(markdown.replace(MARKER, tree()), repository_path(page.file.src_uri))
