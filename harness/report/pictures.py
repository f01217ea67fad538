"""Saves the figures of a report for its page and for papers, and draws none twice."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import harness.style
from harness.runs.folder import atomic_write
from harness.style import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEPT = "drawn.json"
"""In the folder of figures, of each: a hash of what it shows and of what draws it, and those of its files."""


def save(figure: "Figure", folder: Path, name: str) -> str:
    """Write NAME.svg and NAME.pdf, equal bytes for equal figures, into a folder; the SVG as a page has it inline."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = svg_and_pdf(figure)
    for form, content in drawn.items():
        atomic_write(folder / f"{name}.{form}", content)
    return inline(drawn["svg"].decode(), name)


def svg_and_pdf(figure: "Figure") -> dict[str, bytes]:
    """A figure in both forms, without dates."""
    from matplotlib import rc_context

    drawn = {}
    # Words stay words in both; without a salt, ids would be other ones each time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "crossbev", "pdf.fonttype": 42}):
        for form, when in (("svg", "Date"), ("pdf", "CreationDate")):
            content = BytesIO()
            figure.savefig(content, format=form, transparent=True, metadata={when: None})
            # Where everything is, the first form has found out; it takes as long as drawing.
            figure.set_layout_engine("none")
            drawn[form] = content.getvalue()
    return drawn


def inline(svg: str, name: str) -> str:
    """An SVG file of matplotlib as a part of a page: its own ids, the page's ink, no rule for its surroundings."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # A style sheet in it would hold for the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*" ', r"<svg \1", svg, count=1)
    width = re.search(r' width="([\d.]+)pt"', svg)
    size = f"width:{float(width[1]) / 72:.2f}in;" if width else ""
    svg = re.sub(r' width="[\d.]+pt"', f' style="{size}stroke-linejoin:round;stroke-linecap:butt"', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace(INK, "currentColor").strip()


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it."""

    name: str
    """The name of its files figures/NAME.svg and figures/NAME.pdf."""
    title: str
    alt: str
    """What a reader who does not see it has to know."""
    svg: str
    """The SVG element, as a page has it inline."""
    notes: tuple[str, ...] = ()


class Pictures:
    """Those of a part of a report that is being written, each saved as it comes.

    One whose files an earlier report has left is not drawn again, unless it shows something else now, is drawn by other
    code, or its files are no longer as they were written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[Picture] = []
        self._count = 0
        self._drawn = _read(folder / KEPT)

    def __len__(self) -> int:
        return self._count

    def add(
        self, name: str, title: str, alt: str, draw: Callable[..., "Figure"], *shown: object, notes: Sequence[str] = ()
    ) -> None:
        """Save the figure that `draw` makes of what is shown, and keep it for its part."""
        known = _hash(b"\n".join(map(_bytes, (draw.__module__, draw.__qualname__, *shown, _code()))))
        files = self._files(name)
        if files and self._drawn.get(name) == [known, *map(_hash, files)]:
            svg = inline(files[0].decode(), name)
        else:
            svg = save(draw(*shown), self._folder, name)
            self._drawn[name] = [known, *map(_hash, self._files(name))]
            atomic_write(self._folder / KEPT, json.dumps(self._drawn, indent=1).encode())
        self._waiting.append(Picture(name, title, alt, svg, tuple(notes)))
        self._count += 1

    def _files(self, name: str) -> list[bytes]:
        """Its SVG and its PDF; nothing where one of them is not there."""
        paths = [self._folder / f"{name}.{form}" for form in ("svg", "pdf")]
        return [path.read_bytes() for path in paths] if all(path.is_file() for path in paths) else []

    def taken(self) -> list[Picture]:
        """Those since the last call."""
        waiting, self._waiting = self._waiting, []
        return waiting


def _read(path: Path) -> dict[str, list[str]]:
    """What earlier reports have drawn; nothing where that cannot be read, for then it is drawn again."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@cache
def _code() -> str:
    """Identity of all that draws: the modules of the report, the look, and matplotlib."""
    modules = [*sorted(Path(__file__).parent.glob("*.py")), Path(harness.style.__file__)]
    return _hash(b"".join(path.read_bytes() for path in modules)) + version("matplotlib")


def _bytes(shown: object) -> bytes:
    """The same in every process: a pickled spec contains a set, whose order differs."""
    return repr(shown).encode()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
