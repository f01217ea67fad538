"""The plots of a report that speak of its numbers, and how each is saved: for the page, and for a paper."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.runs.folder import atomic_write

INK = "#1f2328"
"""Of lines and words; on the page it becomes the colour of the text, so that it is seen on dark ground, too."""
FAINT = "#1f2328b3"
GRID = "#1f232822"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Told apart by colour-blind readers; without its black and its yellow, which one of two grounds would swallow."""
_DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 1.6, 1.2, 1.6)))


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write NAME.svg and NAME.pdf, equal bytes for equal figures, into a folder; the SVG as a page has it inline."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = svg_and_pdf(figure)
    for form, content in drawn.items():
        atomic_write(folder / f"{name}.{form}", content)
    return inline(drawn["svg"].decode(), name)


def svg_and_pdf(figure: Figure) -> dict[str, bytes]:
    """A figure in both forms, without dates."""
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
    """Of its files figures/NAME.svg and figures/NAME.pdf."""
    title: str
    alt: str
    """What a reader who does not see it has to know."""
    svg: str
    """What `save` returned."""
    notes: tuple[str, ...] = ()


class Pictures:
    """Those of a part of a report that is being written, each saved as it comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[Picture] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, title: str, alt: str, figure: Figure, *notes: str) -> None:
        """Save a figure and keep it for its part."""
        self._waiting.append(Picture(name, title, alt, save(figure, self._folder, name), notes))
        self._count += 1

    def taken(self) -> list[Picture]:
        """Those since the last call."""
        found, self._waiting = self._waiting, []
        return found


@dataclass(frozen=True)
class GainLine:
    """A line of a forest plot, in one metric."""

    label: str
    metric: str
    value: float | int
    """In points, as all of it."""
    low: float | int
    high: float | int
    """Of the interval; NaN where there is none."""
    published: float | int | None = None
    verdict: str = ""
    """A word or two, shown beside it."""


def forest(rows: Sequence[GainLine]) -> Figure:
    """Gains with their intervals, a line a label and a column a metric, and what a paper says as a hollow diamond."""
    labels = list(dict.fromkeys(row.label for row in rows))
    metrics = list(dict.fromkeys(row.metric for row in rows))
    figure = Figure(figsize=(9.6, 0.9 + 0.27 * len(labels)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], metrics, strict=True):
        shown = [row for row in rows if row.metric == metric]
        for row in shown:
            at = labels.index(row.label)
            clear = row.low > 0 or row.high < 0
            color = OKABE_ITO[0] if row.low > 0 else OKABE_ITO[1] if row.high < 0 else FAINT
            axes.plot([row.low, row.high], [at, at], color=color, linewidth=2.2 if clear else 1.3)
            # Filled or hollow says the same as the colour.
            face = color if clear else "none"
            axes.plot(row.value, at, "o", markersize=5.5, markeredgecolor=color, markerfacecolor=face)
            if row.published is not None and not np.isnan(row.published):
                axes.plot(row.published, at, "D", markersize=5.5, markerfacecolor="none", markeredgecolor=INK)
            if row.verdict:
                place = axes.get_yaxis_transform()
                text = _plain(row.verdict)
                axes.text(1.015, at, text, transform=place, va="center", fontsize=7, color=INK if clear else FAINT)
        axes.axvline(0, color=INK, linewidth=0.9, zorder=0)
        axes.set_title(f"gain in {_plain(metric)} (points)", fontsize=9, loc="left", color=INK)
        _quiet(axes, "x")
        axes.set_yticks(range(len(labels)), [_plain(label) for label in labels], fontsize=8)
        axes.set_ylim(len(labels) - 0.4, -0.6)
    return figure


def interaction(factors: Sequence[str], values: Mapping[frozenset[str], float | int], ylabel: str) -> Figure:
    """A panel for each pair of factors: what one does where the other is absent and where it is present.

    Parallel lines say that the two do not interact.

    Args:
        factors: Names, two or more.
        values: Of every set of factors that are present; a point is the mean over those that the panel does not name.
        ylabel: What the values are.
    """
    pairs = list(combinations(factors, 2))
    wide = min(3, len(pairs))
    high = -(-len(pairs) // wide)
    figure = Figure(figsize=(3.2 * wide, 2.5 * high + 0.2), layout="constrained")
    panels = figure.subplots(high, wide, sharey=True, squeeze=False).flat
    for axes, (first, second) in zip(panels, pairs, strict=False):
        for present in (False, True):
            means = [
                float(np.mean([v for key, v in values.items() if (first in key, second in key) == (there, present)]))
                for there in (False, True)
            ]
            color, dashes = OKABE_ITO[present], _DASHES[not present]
            name = _plain(f"{'with' if present else 'without'} {second}")
            marker = "o" if present else "s"
            axes.plot([0, 1], means, linestyle=dashes, marker=marker, markersize=5, color=color, label=name)
        axes.set_xticks([0, 1], [_plain(f"without {first}"), _plain(f"with {first}")])
        axes.set_xlim(-0.35, 1.35)
        axes.legend(frameon=False, fontsize=7.5, labelcolor=INK)
        _quiet(axes, "y")
    for axes in list(figure.axes)[len(pairs) :]:
        axes.set_axis_off()
    figure.supylabel(_plain(ylabel), fontsize=8.5, color=INK)
    return figure


@dataclass(frozen=True)
class Series:
    """A line over the steps of a training."""

    label: str
    steps: np.ndarray
    """(n,)"""
    mean: np.ndarray
    """(n,), over seeds."""
    std: np.ndarray | None = None
    """(n,); None of a single seed."""


def curves(series: Sequence[Series], ylabel: str) -> Figure:
    """Means over the steps, with bands of one standard deviation; named in the order in which they end."""
    figure = Figure(figsize=(9.6, max(3.4, 0.6 + 0.19 * len(series))), layout="constrained")
    axes = figure.subplots()
    for number, line in enumerate(series):
        color = OKABE_ITO[number % len(OKABE_ITO)]
        dashes = _DASHES[number // len(OKABE_ITO) % len(_DASHES)]
        axes.plot(line.steps, line.mean, color=color, linestyle=dashes, linewidth=1.4, label=" " + _plain(line.label))
        if line.std is not None:
            low, high = line.mean - line.std, line.mean + line.std
            axes.fill_between(line.steps, low, high, color=color, alpha=0.1, linewidth=0)
    _quiet(axes, "both")
    axes.set_xlabel("step", fontsize=8.5, color=INK)
    axes.set_ylabel(_plain(ylabel), fontsize=8.5, color=INK)
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(series)), key=lambda i: -float(series[i].mean[-1]))
    figure.legend(
        [handles[i] for i in order],
        [names[i] for i in order],
        loc="outside right upper",
        frameon=False,
        fontsize=7.5,
        labelcolor=INK,
        handlelength=3,
    )
    return figure


def binned(
    lines: Iterable[Mapping[str, float | int]], names: Sequence[str], bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of some metrics of a run's steps in means over equal stretches: the middle of each, and the mean."""
    table = np.array([(line["step"], sum(line[name] for name in names)) for line in lines], dtype=float).reshape(-1, 2)
    parts = np.array_split(table, min(bins, max(len(table), 1)))
    means = np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def _quiet(axes: Axes, grid: str) -> None:
    """Little that is not data."""
    axes.grid(axis=grid, color=GRID, linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8, colors=INK)


def _plain(text: str) -> str:
    """A $ of a user's begins no formula."""
    return text.replace("$", r"\$")
