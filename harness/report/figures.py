"""Draws the results: gains with their confidence intervals, and interactions of losses."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from harness.evidence.effects import foremost
from harness.evidence.line import HEADLINE_METRICS, Line
from harness.style import BLUE, DASHES, FAINT, INK, PALETTE, VERMILION, new_figure, plain, quiet

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def forest(lines: Sequence[Line]) -> "Figure":
    """Gains with 95 % CI and verdict, a row a line and a column a metric; published gains as hollow diamonds."""
    figure = new_figure(9.6, 0.9 + 0.27 * len(lines))
    panels = figure.subplots(1, len(HEADLINE_METRICS), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, HEADLINE_METRICS, strict=True):
        for at, line in enumerate(lines):
            gain, (_, paper) = line.gains[metric], foremost(line.published)
            clear = gain.low > 0 or gain.high < 0
            color = BLUE if gain.low > 0 else VERMILION if gain.high < 0 else FAINT
            axes.plot([gain.low, gain.high], [at, at], color=color, linewidth=2.2 if clear else 1.3)
            # Filled or hollow says the same as the colour.
            face = color if clear else "none"
            axes.plot(gain.mean.value, at, "o", markersize=5.5, markeredgecolor=color, markerfacecolor=face)
            if paper is not None and (reported := paper.points(metric)) is not None:
                axes.plot(reported, at, "D", markersize=5.5, markerfacecolor="none", markeredgecolor=INK)
            place = axes.get_yaxis_transform()
            axes.text(1.015, at, gain.verdict, transform=place, va="center", fontsize=7, color=INK if clear else FAINT)
        axes.axvline(0, color=INK, linewidth=0.9, zorder=0)
        axes.set_title(f"gain in {plain(metric)} (pp)", fontsize=9, loc="left", color=INK)
        quiet(axes, "x")
        axes.set_yticks(range(len(lines)), [plain(line.name) for line in lines], fontsize=8)
        axes.set_ylim(len(lines) - 0.4, -0.6)
    return figure


def interaction(factors: Sequence[str], values: Mapping[tuple[str, ...], float | int], ylabel: str) -> "Figure":
    """A panel for each pair of factors: the effect of one where the other is absent and where it is present.

    Parallel lines say that the two do not interact.

    Args:
        factors: Names, two or more.
        values: Of every set of factors that are present; a point is the mean over those that the panel does not name.
        ylabel: What the values are.
    """
    pairs = list(combinations(factors, 2))
    wide = min(3, len(pairs))
    high = -(-len(pairs) // wide)
    figure = new_figure(3.2 * wide, 2.5 * high + 0.2)
    panels = figure.subplots(high, wide, sharey=True, squeeze=False).flat
    for axes, (first, second) in zip(panels, pairs, strict=False):
        for present in (False, True):
            means = [
                float(np.mean([v for key, v in values.items() if (first in key, second in key) == (there, present)]))
                for there in (False, True)
            ]
            color, dashes = PALETTE[present], DASHES[not present]
            name = plain(f"{'with' if present else 'without'} {second}")
            marker = "o" if present else "s"
            axes.plot([0, 1], means, linestyle=dashes, marker=marker, markersize=5, color=color, label=name)
        axes.set_xticks([0, 1], [plain(f"without {first}"), plain(f"with {first}")])
        axes.set_xlim(-0.35, 1.35)
        axes.legend(frameon=False, fontsize=7.5, labelcolor=INK)
        quiet(axes, "y")
    for axes in list(figure.axes)[len(pairs) :]:
        axes.set_axis_off()
    figure.supylabel(plain(ylabel), fontsize=8.5, color=INK)
    return figure
