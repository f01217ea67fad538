"""Draws a plan as a graph of trainings with their dependencies and states."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.study.jobs import LabelsJobSpec
from harness.study.plan import Plan
from harness.style import BLUE, DASHES, FAINT, GREEN, INK, VERMILION, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATES = ("done", "running", "failed", "not run")
_LOOK: dict[str, dict] = {
    "done": {"edgecolor": GREEN, "linewidth": 1.4},
    "running": {"edgecolor": BLUE, "linewidth": 1.4, "linestyle": DASHES[1]},
    "failed": {"edgecolor": VERMILION, "linewidth": 3.0},
    "not run": {"edgecolor": FAINT, "linewidth": 1.1, "linestyle": DASHES[2]},
}
_SIGNS = {"done": "✓", "running": "…", "failed": "✗", "not run": "–"}
_PITCH, _HEIGHT, _GAP, _HEAD = 0.4, 0.29, 0.85, 0.45
"""Inches: from a line to the next, of a node, between columns, above them."""


@dataclass(frozen=True)
class Node:
    """Jobs that differ in the seed alone, and those that only use what they trained: that score it on another split, or
    have its labels of a split."""

    name: str
    jobs: tuple[str, ...]
    using: tuple[str, ...]
    used_as: str
    """What is done with them: labels, or scored again."""
    needs: tuple[int, ...]
    """Numbers of nodes."""
    teaches: bool
    """Whether it stands on the left. A baseline that teaches on a path in the other direction does."""


def nodes(plan: Plan) -> list[Node]:
    """Every job of the plan in exactly one of them, in the plan's order."""
    numbers: dict[str, int] = {}
    node_of: dict[str, int] = {}
    members: defaultdict[int, list[str]] = defaultdict(list)
    using: defaultdict[int, list[str]] = defaultdict(list)
    for id_, job in plan.jobs.items():
        used = getattr(job.spec, "model_of", None) or getattr(job.spec, "segmenter", None)
        if isinstance(used, str):
            node_of[id_] = node_of[used]
            using[node_of[id_]].append(id_)
            continue
        # A job that was taught by the teacher of its own seed differs from the next in the seed alone, too.
        text = json.dumps(job.spec.model_dump(mode="json") | {"seed": None}, sort_keys=True)
        for need in job.spec.needs:
            text = text.replace(need, f"node {node_of[need]}")
        node_of[id_] = numbers.setdefault(text, len(numbers))
        members[node_of[id_]].append(id_)
    teaching = {row.job for row in plan.rows if row.role in ("teacher", "image teacher")}
    return [
        Node(
            name=re.sub(r" · seed \d+", "", plan.jobs[jobs[0]].label),
            jobs=tuple(jobs),
            using=tuple(using[number]),
            used_as="labels"
            if any(isinstance(plan.jobs[id_].spec, LabelsJobSpec) for id_ in using[number])
            else "scored again",
            needs=tuple(sorted({node_of[need] for id_ in jobs for need in plan.jobs[id_].spec.needs})),
            teaches=bool(teaching & set(jobs)),
        )
        for number, jobs in members.items()
    ]


def plan_graph(boxes: Sequence[Node], states: Mapping[str, str]) -> "Figure":
    """The plan's jobs, those that differ in seed as one box, from what is needed to what needs it.

    Args:
        boxes: All nodes of a plan.
        states: One of STATES for each job.
    """
    texts = [(plain(node.name), _state(node, states)) for node in boxes]
    columns = [[number for number, node in enumerate(boxes) if node.teaches == teaches] for teaches in (True, False)]
    tall = max(map(len, columns))
    widths = [0.35 + 0.066 * max((len(" · ".join(texts[n])) for n in column), default=20) for column in columns]
    lefts = (0.05, 0.05 + (widths[0] + _GAP if columns[0] else 0.0))
    size = (lefts[1] + widths[1] + 0.05, tall * _PITCH + _HEAD)
    figure = new_figure(*size, layout=None)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()

    places: dict[int, tuple[float, float]] = {}
    for column, left, words in zip(columns, lefts, ("teachers", "students and baselines"), strict=True):
        if column:
            axes.text(left + 0.02, 0.2, words, fontsize=9, color=INK, weight="bold", va="center")
        top = _HEAD + (tall - len(column)) * _PITCH / 2
        places |= {number: (left, top + (row + 0.5) * _PITCH) for row, number in enumerate(column)}
    for number, node in enumerate(boxes):
        for need in node.needs:
            _connect(axes, (lefts[0] + widths[0], places[need][1]), places[number])
    for number, node in enumerate(boxes):
        _draw(axes, places[number], widths[0 if node.teaches else 1], texts[number], _worst(node, states))
    return figure


def _state(node: Node, states: Mapping[str, str]) -> str:
    """How far its jobs are, in words and signs."""
    counted = _counted(node.jobs, states)
    if not node.using:
        return counted
    return f"{counted}; {node.used_as}: {_counted(node.using, states)}"


def _counted(jobs: tuple[str, ...], states: Mapping[str, str]) -> str:
    count = Counter(states[id_] for id_ in jobs)
    shown = [state for state in STATES if count[state]]
    return ", ".join(f"{_SIGNS[state]} {f'{count[state]} ' if len(jobs) > 1 else ''}{state}" for state in shown)


def _worst(node: Node, states: Mapping[str, str]) -> str:
    """What a reader has to see of it first."""
    present = {states[id_] for id_ in node.jobs + node.using}
    return next(state for state in ("failed", "running", "not run", "done") if state in present)


def _connect(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    middle = (start[0] + end[0]) / 2
    points = [start, (middle, start[1]), (middle, end[1]), end]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    axes.add_patch(PathPatch(curve, facecolor="none", edgecolor=INK, alpha=0.35, linewidth=0.8))


def _draw(axes: "Axes", place: tuple[float, float], width: float, text: tuple[str, str], state: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = place
    round_ = "round,pad=0,rounding_size=0.06"
    box = FancyBboxPatch((x, y - _HEIGHT / 2), width, _HEIGHT, boxstyle=round_, facecolor="none", **_LOOK[state])
    axes.add_patch(box)
    axes.text(x + 0.1, y, text[0], fontsize=8, va="center", color=INK)
    color = INK if state == "failed" else FAINT
    axes.text(x + width - 0.1, y, text[1], fontsize=7, va="center", ha="right", color=color)
