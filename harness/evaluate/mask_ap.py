"""Mask AP of an image teacher, by COCO's own evaluation."""

import contextlib
import io
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.geometry.boxes import CLASSES
from harness.data.masks import coco_rows

SMALLEST_PX = 64
"""Objects of fewer pixels count neither as missed nor as false alarms."""
MOST = 100
"""Instances of an image that are looked at."""

Masks = Bool[np.ndarray, "k h w"]
Truth = tuple[Masks, Int[np.ndarray, " k"]]
"""Of an image: masks, and labels as indices into CLASSES."""
Found = tuple[Masks, Int[np.ndarray, " k"], Float[np.ndarray, " k"]]
"""Of an image: masks, labels and scores."""


def mask_ap(pairs: Iterable[tuple[Truth, Found]]) -> dict[str, float]:
    """AP over the overlaps 0.5 to 0.95, AP50 and AP50/CLASS, as fractions; NaN of a class that nothing is of.

    Args:
        pairs: What there is in each image and what was found in it; masks are kept as run lengths alone.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    results: list[dict] = []
    for number, (truth, predicted) in enumerate(pairs, start=1):
        images.append({"id": number, "height": truth[0].shape[1], "width": truth[0].shape[2]})
        for _, row in coco_rows(number, *truth):
            annotations.append(row | {"id": len(annotations) + 1, "iscrowd": 0})
        masks, labels, scores = predicted
        results += [row | {"score": float(scores[i])} for i, row in coco_rows(number, masks, labels)]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    # It prints its progress and its table.
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {"images": images, "categories": categories, "annotations": annotations}
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results) if results else _nothing(reference), "segm")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[SMALLEST_PX, 1e10]], ["counted"]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    # overlap, recall, class, area, most; -1 where a class has no truth.
    precision = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])[..., 0, 0]
    by_class = precision.mean(axis=1)
    known = by_class[:, ~np.isnan(by_class[0])]
    return {
        "AP": float(known.mean()) if known.size else float("nan"),
        "AP50": float(known[0].mean()) if known.size else float("nan"),
        **{f"AP50/{name}": float(value) for name, value in zip(CLASSES, by_class[0], strict=True)},
    }


def _nothing(reference: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {**reference.dataset, "annotations": []}
    empty.createIndex()
    return empty
