"""Draws an analysis with its intervals, and the devkit's own pictures of curves and samples."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import (
    DetectionBox,
    DetectionConfig,
    DetectionMetricDataList,
    DetectionMetrics,
)
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.render import visualize_sample
from pyquaternion import Quaternion

from harness.data.root import NuScenesRoot
from harness.evaluate.columns import BoxColumns
from harness.evaluate.intervals import CLASSES, COSTS, METRICS, Analysis, Estimate
from harness.evaluate.metrics import Matched
from harness.style import BLUE, FAINT, GREY, INK, new_figure, plain, quiet

_COLORS = (BLUE, GREY)
_PANELS = (
    (CLASSES, "AP by class"),
    (COSTS, "cost of errors, AP at {threshold:g} m"),
    ("distance", "AP at {threshold:g} m by distance"),
    ("visibility", "by visibility"),
    ("LiDAR points", "by LiDAR points"),
    ("speed", "by speed"),
)


def draw_analysis(path: Path, analyses: dict[str, Analysis], threshold: float) -> None:
    """Draw one result, or two with their difference (first minus second) at the right.

    Args:
        path: Picture.
        analyses: By the name of the result.
        threshold: Distance in metres at which COSTS and strata are counted.
    """
    figure = new_figure(14.5, 7.5, ground="white")
    first, *others = analyses.values()
    estimated = [analysis.estimates() for analysis in analyses.values()]
    gaps = (first - others[0]).estimates() if others else {}
    for axes, (group, title) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        for number, (name, estimates) in enumerate(zip(analyses, estimated, strict=True)):
            numbers = list(estimates[group].values())
            axes.errorbar(
                [100 * estimate.value for estimate in numbers],
                np.arange(len(numbers)) + (number - (len(estimated) - 1) / 2) * 0.28,
                xerr=[_reach(estimate) for estimate in numbers],
                fmt="o",
                markersize=4.5,
                color=_COLORS[number],
                elinewidth=1.4,
                capsize=2.5,
                # A leading _ would hide it.
                label=" " + plain(name),
            )
        for row, gap in enumerate(gaps.get(group, {}).values()):
            clear = gap.low > 0 or gap.high < 0
            weight, color = ("bold", INK) if clear else ("normal", FAINT)
            place = axes.get_yaxis_transform()
            axes.text(1.02, row, _signed(gap), transform=place, va="center", fontsize=7.5, weight=weight, color=color)
        counts = first.counts.get(group)
        names = [f"{name} ({counts[name].annotations:,})" if counts else name for name in estimated[0][group]]
        axes.set_yticks(np.arange(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_title(title.format(threshold=threshold), fontsize=10)
        quiet(axes, "x")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(_headline(analyses), fontsize=11)
    figure.savefig(path, dpi=120)


def _headline(analyses: dict[str, Analysis]) -> str:
    names = [plain(name) for name in analyses]
    first, *others = analyses.values()
    scenes = f"{first.scenes} scenes; in parentheses the number of annotations"
    if not others:
        shown = first.estimates()[METRICS]
        text = ", ".join(f"{name} {100 * shown[name].value:.1f} ± {_reach(shown[name]):.1f}" for name in _HEADS)
        return f"{text} points (95 %), {scenes}"
    gap = (first - others[0]).estimates()[METRICS]
    text = ", ".join(f"{name} {_signed(gap[name])}" for name in _HEADS)
    return f"{names[0]} less {names[1]}: {text} points (95 %), {scenes}"


_HEADS = ("mAP", "NDS")


def _signed(gap: Estimate) -> str:
    """A difference with its interval, in points."""
    interval = "" if np.isnan(gap.low) else f" [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
    return f"{100 * gap.value:+.1f}{interval}"


def _reach(estimate: Estimate) -> float:
    """From the value to the ends of its interval, in points."""
    return 0.0 if np.isnan(estimate.high) else 100 * (estimate.high - estimate.value)


def draw_curves(out: Path, metrics: DetectionMetrics, curves: DetectionMetricDataList, config: DetectionConfig) -> None:
    """The devkit's curves of precision and of errors, as plots/*.pdf."""
    drawing = DetectionEval.__new__(DetectionEval)
    drawing.cfg, drawing.verbose, drawing.plot_dir = config, False, str(out / "plots")
    (out / "plots").mkdir(exist_ok=True)
    drawing.render(metrics, curves)


def examples(matched: Matched, count: int) -> list[str]:
    """The samples that the devkit draws if it is asked for so many."""
    tokens = list(matched.split.tokens)
    random.Random(42).shuffle(tokens)
    return tokens[:count]


def draw_examples(
    out: Path, root: NuScenesRoot, matched: Matched, config: DetectionConfig, tokens: Sequence[str]
) -> None:
    """The devkit's pictures of samples from above, with the boxes that count, as examples/*.png."""
    (out / "examples").mkdir(exist_ok=True)
    truth, predicted = matched.truth, matched.predicted.where(np.sort(matched.order))
    for token in tokens:
        number = matched.split.tokens.index(token)
        boxes = (_devkit_boxes(token, columns.where(columns.sample == number)) for columns in (truth, predicted))
        path = str(out / "examples" / f"{token}.png")
        reach = max(config.class_range.values())
        visualize_sample(root.index, token, *boxes, eval_range=reach, verbose=False, savepath=path)


def _devkit_boxes(token: str, columns: BoxColumns) -> EvalBoxes:
    boxes = EvalBoxes()
    detection_boxes = [
        DetectionBox(
            sample_token=token,
            translation=tuple(columns.center[i].tolist()),
            size=tuple(columns.size[i].tolist()),
            rotation=tuple(Quaternion(axis=[0, 0, 1], angle=columns.yaw[i]).elements.tolist()),
            detection_name=DETECTION_NAMES[columns.label[i]],
            detection_score=float(columns.score[i]),
        )
        for i in range(len(columns))
    ]
    boxes.add_boxes(token, detection_boxes)
    return boxes
