"""A plan as a picture: what is trained, what needs what, and how far it is."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from harness.report.figures import FAINT, INK, OKABE_ITO
from harness.study.plan import Plan

STATES = ("done", "running", "failed", "not run")
_LOOK: dict[str, dict] = {
    "done": {"edgecolor": OKABE_ITO[2], "linewidth": 1.4},
    "running": {"edgecolor": OKABE_ITO[0], "linewidth": 1.4, "linestyle": (0, (5, 2))},
    "failed": {"edgecolor": OKABE_ITO[1], "linewidth": 3.0},
    "not run": {"edgecolor": FAINT, "linewidth": 1.1, "linestyle": (0, (1.2, 1.8))},
}
_SIGNS = {"done": "✓", "running": "…", "failed": "✗", "not run": "–"}
_PITCH, _HEIGHT, _GAP, _HEAD = 0.4, 0.29, 0.85, 0.45
"""Inches: from a line to the next, of a node, between columns, above them."""


@dataclass(frozen=True)
class Node:
    """Jobs that differ in the seed alone."""

    name: str
    jobs: tuple[str, ...]
    column: int
    """What it needs stands to the left of it."""
    needs: tuple[int, ...]
    """Numbers of nodes."""


def nodes(plan: Plan) -> list[Node]:
    """Every job of the plan in exactly one of them, in the plan's order."""
    numbers: dict[str, int] = {}
    node_of: dict[str, int] = {}
    names: list[str] = []
    members: list[list[str]] = []
    needs: list[set[int]] = []
    for id_, job in plan.jobs.items():
        spec = job.spec.model_dump(mode="json") | {"seed": None}
        # A job that was taught by the teacher of its own seed differs from the next in the seed alone, too.
        text = json.dumps(spec, sort_keys=True)
        for need in job.spec.needs:
            text = text.replace(need, f"node {node_of[need]}")
        number = numbers.setdefault(text, len(numbers))
        if number == len(names):
            names.append(re.sub(r" · seed \d+", "", job.label))
            members.append([])
            needs.append(set())
        node_of[id_] = number
        members[number].append(id_)
        needs[number] |= {node_of[need] for need in job.spec.needs}
    columns: list[int] = []
    for of in needs:
        columns.append(1 + max((columns[need] for need in of), default=-1))
    baselines = {node_of[row.job] for row in plan.rows if row.role in ("baseline", "control") and not row.split}
    last = max((columns[node_of[row.job]] for row in plan.rows if row.role == "student" and not row.split), default=0)
    for number in baselines:
        # They need nothing, but are read beside the students.
        columns[number] = max(columns[number], last)
    for number, of in enumerate(needs):
        columns[number] = max(columns[number], 1 + max((columns[need] for need in of), default=-1))
    return [
        Node(names[number], tuple(members[number]), columns[number], tuple(sorted(needs[number])))
        for number in range(len(names))
    ]


def plan_graph(plan: Plan, states: Mapping[str, str]) -> Figure:
    """The plan's jobs, those that differ in seed as one box, from what is needed to what needs it.

    Args:
        plan: Of a study.
        states: One of STATES for each job.
    """
    whole = nodes(plan)
    columns = sorted({node.column for node in whole})
    tall = max((sum(node.column == column for node in whole) for column in columns), default=1)
    texts = [(node.name.replace("$", r"\$"), _state(node, states)) for node in whole]
    widths = {
        column: max(
            0.35 + 0.066 * (len(node.name) + len(text[1]) + 3)
            for node, text in zip(whole, texts, strict=True)
            if node.column == column
        )
        for column in columns
    }
    left = {column: sum(widths[other] + _GAP for other in columns if other < column) + 0.05 for column in columns}
    size = (left[columns[-1]] + widths[columns[-1]] + 0.05, tall * _PITCH + _HEAD) if columns else (4.0, 1.0)
    figure = Figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()

    places: dict[int, tuple[float, float]] = {}
    for column in columns:
        own = [number for number, node in enumerate(whole) if node.column == column]
        top = _HEAD + (tall - len(own)) * _PITCH / 2
        for row, number in enumerate(own):
            places[number] = (left[column], top + (row + 0.5) * _PITCH)
        words = _heading(plan, {id_ for number in own for id_ in whole[number].jobs})
        axes.text(left[column] + 0.02, 0.2, words, fontsize=9, color=INK, weight="bold", va="center")
    for number, node in enumerate(whole):
        for need in node.needs:
            start = (places[need][0] + widths[whole[need].column], places[need][1])
            _connect(axes, start, places[number])
    for number, node in enumerate(whole):
        _draw(axes, places[number], widths[node.column], texts[number], _worst(node, states))
    return figure


def _state(node: Node, states: Mapping[str, str]) -> str:
    """How far its jobs are, in words and signs."""
    count = Counter(states[id_] for id_ in node.jobs)
    if len(node.jobs) == 1:
        state = states[node.jobs[0]]
        return f"{_SIGNS[state]} {state}"
    return ", ".join(f"{_SIGNS[state]} {count[state]} {state}" for state in STATES if count[state])


def _worst(node: Node, states: Mapping[str, str]) -> str:
    """What a reader has to see of it first."""
    found = {states[id_] for id_ in node.jobs}
    return next(state for state in ("failed", "running", "not run", "done") if state in found)


def _heading(plan: Plan, jobs: set[str]) -> str:
    """What the jobs of a column are."""
    roles = {"image teacher": "image teachers", "baseline": "baselines", "control": "baselines"}
    shown = [row for row in plan.rows if row.job in jobs]
    names = [
        "scored again" if row.split else roles.get(row.role, f"{row.role}s")
        for row in sorted(shown, key=lambda row: row.role != "teacher")
    ]
    return ", ".join(dict.fromkeys(names)) or "labels"


def _connect(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    middle = (start[0] + end[0]) / 2
    points = [start, (middle, start[1]), (middle, end[1]), end]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    axes.add_patch(PathPatch(curve, facecolor="none", edgecolor=INK, alpha=0.35, linewidth=0.8))


def _draw(axes: Axes, place: tuple[float, float], width: float, text: tuple[str, str], state: str) -> None:
    x, y = place
    round_ = "round,pad=0,rounding_size=0.06"
    box = FancyBboxPatch((x, y - _HEIGHT / 2), width, _HEIGHT, boxstyle=round_, facecolor="none", **_LOOK[state])
    axes.add_patch(box)
    axes.text(x + 0.1, y, text[0], fontsize=8, va="center", color=INK)
    color = INK if state == "failed" else FAINT
    axes.text(x + width - 0.1, y, text[1], fontsize=7, va="center", ha="right", color=color)
