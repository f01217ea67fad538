"""Draws the figures of the diagnostics from the tables of `harness.evidence.diagnostics`."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distill.objective import DETECTION_TERMS
from harness.evidence.diagnostics import Records
from harness.style import BLUE, DASHES, GREY, INK, PALETTE, Dashes, new_figure, plain, quiet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TERMS = PALETTE[:-1]
_DETECTION = dict(zip(DETECTION_TERMS, (GREY, "#CCCCCC", "#AAAAAA", "#DDDDDD", "#BBBBBB"), strict=True))
_BASELINE, _STUDENT = GREY, BLUE
_COLUMNS = 3


def terms_figure(drawn: Records) -> "Figure":
    """Draw the share of each term of the loss over the training, stacked, averaged over seeds; one panel per arm."""
    terms = drawn.frame
    colors = _DETECTION | _colors(terms)
    figure, panels = _panels(terms, "Share of each term in the loss", "step", "share of the loss (%)")
    for axes, part in panels:
        table = part.pivot_table(index="step", columns="term", values="share", sort=False)
        below = np.zeros(len(table))
        for term in (term for term in colors if term in table):
            above = below + 100 * table[term].to_numpy()
            axes.fill_between(table.index, below, above, color=colors[term], linewidth=0, label=term)
            below = above
        axes.set_xlim(table.index.min(), table.index.max())
        axes.set_ylim(0, 100)
    return _finished(figure)


def cosines_figure(drawn: Records) -> "Figure":
    """Draw the cosine between the gradients of each term and of the detection loss; one panel per arm."""
    terms = drawn.frame
    title = "Cosine between the gradients of each term and of the detection loss, before the low-level BEV map"
    figure, panels = _panels(terms[terms["cosine"].notna()], title, "step", "cosine")
    for axes, part in panels:
        axes.axhline(0, color=INK, linewidth=0.8)
        for term, color in _colors(terms).items():
            seeds = part[part["term"] == term].groupby("step")["cosine"].agg(["mean", "std"])
            if len(seeds):
                _line(axes, seeds.index.to_numpy(), seeds["mean"], seeds["std"], color, label=term)
        axes.set_ylim(-1, 1)
    return _finished(figure)


def progress_figure(drawn: Records) -> "Figure":
    """Draw the baseline's minus the student's detection loss over the training; one panel per path."""
    progress = drawn.frame
    title = "Detection loss of the baseline minus that of the student"
    arms = list(dict.fromkeys(progress["arm"]))
    height = 1.2 + 2.6 * max(1, math.ceil(progress["path"].nunique() / 2)) + 0.1 * len(arms)
    figure, panels = _panels(progress, title, "step", "difference in loss", by=("path",), columns=2, height=height)
    styles = {arm: (_TERMS[n % len(_TERMS)], DASHES[n // len(_TERMS) % len(DASHES)]) for n, arm in enumerate(arms)}
    for axes, part in panels:
        axes.axhline(0, color=INK, linewidth=0.8)
        for arm, rows in part.groupby("arm", sort=False):
            color, dashes = styles[str(arm)]
            _line(axes, rows["step"].to_numpy(), rows["gain"], rows["gain_std"], color, dashes, label=str(arm))
    return _finished(figure)


def alignment_figure(drawn: Records) -> "Figure":
    """Draw the linear CKA of students and baselines with the teacher, averaged over seeds; one panel per map."""
    alignment = drawn.frame
    frame = alignment.assign(line=[" ".join(pair) for pair in zip(alignment["path"], alignment["arm"], strict=True)])
    lines = list(dict.fromkeys(frame["line"]))
    height = 1.0 + 2 * (0.5 + 0.26 * max(len(lines), 1))
    title = "Similarity of BEV maps to the teacher's (linear CKA)"
    by = ("level", "region")
    figure, panels = _panels(frame, title, "linear CKA", by=by, columns=2, height=height, one_scale=False)
    for axes, part in panels:
        means = part.groupby("line", sort=False)[["baseline", "student"]].mean().reindex(lines)
        at = np.arange(len(lines))
        axes.barh(at - 0.19, means["baseline"], 0.36, color=_BASELINE, label="baseline")
        axes.barh(at + 0.19, means["student"], 0.36, color=_STUDENT, label="student")
        axes.set_yticks(at, lines)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(0, None)
    return _finished(figure, horizontal=True)


def breakdown_figure(drawn: Records, title: str) -> "Figure":
    """Draw one group of numbers for baseline and student, with the difference; one panel per arm."""
    breakdown = drawn.frame
    names = list(dict.fromkeys(breakdown["name"]))
    count = breakdown.groupby(["path", "arm"]).ngroups
    height = 0.9 + math.ceil(count / _COLUMNS) * (0.65 + 0.24 * len(names))
    figure, panels = _panels(breakdown, f"{title}; right: student minus baseline (pp)", "percent", height=height)
    for axes, part in panels:
        rows = part.set_index("name").reindex(names)
        at = np.arange(len(names))
        axes.hlines(at, rows["baseline"], rows["student"], color=INK, linewidth=0.8)
        axes.plot(rows["baseline"], at, "o", color=_BASELINE, markersize=5, label="baseline")
        axes.plot(rows["student"], at, "o", color=_STUDENT, markersize=5, label="student")
        for row, (gap, low, high) in enumerate(rows[["difference", "low", "high"]].to_numpy()):
            clear = low > 0 or high < 0
            text = f"{gap:+.1f}" + ("" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")
            weight, place = ("bold" if clear else "normal"), axes.get_yaxis_transform()
            axes.text(1.02, row, text, transform=place, va="center", fontsize=6.5, weight=weight, color=INK)
        axes.set_yticks(at, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
    return _finished(figure, horizontal=True)


def _colors(terms: "pd.DataFrame") -> dict[str, str]:
    """The colours of the distillation terms."""
    names = [term for term in dict.fromkeys(terms["term"]) if term not in DETECTION_TERMS]
    return dict(zip(names, _TERMS * 3, strict=False))


def _panels(
    frame: "pd.DataFrame",
    title: str,
    x: str,
    y: str = "",
    by: Sequence[str] = ("path", "arm"),
    columns: int = _COLUMNS,
    height: float | None = None,
    one_scale: bool = True,
) -> tuple["Figure", Iterator[tuple["Axes", "pd.DataFrame"]]]:
    """Make a figure with one axes for each part of a frame, labelled at the outside, with a common y axis.

    Args:
        frame: Not empty.
        title: Of the figure.
        x: Of the axes.
        y: Of the axes.
        by: Columns that tell the parts apart.
        columns: At most.
        height: In inches; by default that of so many rows.
        one_scale: The parts have the same x axis, too.
    """
    parts = list(frame.groupby(list(by), sort=False))
    columns = min(columns, len(parts))
    rows = math.ceil(len(parts) / columns)
    figure = new_figure(max(3.6 * columns, 7.2), height or 1.2 + 2.1 * rows)
    figure.suptitle(title, fontsize=11, color=INK)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=one_scale, sharey=True)
    for number, axes in enumerate(grid.flat):
        if number >= len(parts):
            axes.set_visible(False)
            continue
        first, lowest = number % columns == 0, number + columns >= len(parts)
        axes.set_title(" ".join(str(name) for name in parts[number][0]), fontsize=8.5, color=INK)
        axes.set_ylabel(y if first else "", fontsize=8.5, color=INK)
        axes.set_xlabel(x if lowest else "", fontsize=8.5, color=INK)
        axes.tick_params(labelleft=first, labelbottom=lowest or not one_scale)
    return figure, ((axes, part) for axes, (_, part) in zip(grid.flat, parts, strict=False))


def _line(
    axes: "Axes",
    at: np.ndarray,
    mean: "pd.Series",
    spread: "pd.Series",
    color: str,
    dashes: Dashes = "-",
    label: str = "",
) -> None:
    """A mean over steps, with a band of one standard deviation where there is one."""
    axes.plot(at, mean, linestyle=dashes, color=color, linewidth=1.6, label=label)
    if spread.notna().any():
        axes.fill_between(at, mean - spread, mean + spread, color=color, alpha=0.2, linewidth=0)


def _finished(figure: "Figure", horizontal: bool = False) -> "Figure":
    """One legend for all, and everything that is no data in INK."""
    shown = [axes for axes in figure.axes if axes.get_visible()]
    handles: dict[str, Artist] = {}
    for axes in shown:
        quiet(axes, "x" if horizontal else "y")
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    # Inches that the longest name takes, with its sign.
    longest = 0.5 + 0.075 * max((len(name) for name in handles), default=0)
    figure.legend(
        list(handles.values()),
        [plain(name) for name in handles],
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(figure.get_figwidth() / longest), 4)),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    return figure
