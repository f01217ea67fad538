"""Mask AP of an image teacher, by COCO's own evaluation."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.geometry.boxes import CLASSES
from harness.data.masks import boxes_around, encode

SMALLEST_PX = 64
"""Objects of fewer pixels count neither as missed nor as false alarms."""
MOST = 100
"""Instances of an image that are looked at."""

Masks = Bool[np.ndarray, "k h w"]


def mask_ap(
    truth: Sequence[tuple[Masks, Int[np.ndarray, " k"]]],
    found: Sequence[tuple[Masks, Int[np.ndarray, " k"], Float[np.ndarray, " k"]]],
) -> dict[str, float]:
    """AP over the overlaps 0.5 to 0.95, AP50 and AP50/CLASS, as fractions; NaN of a class that nothing is of.

    Args:
        truth: Of each image, masks and labels (indices into CLASSES).
        found: Of the same images, masks, labels and scores.
    """
    images = [
        {"id": number, "height": masks.shape[1], "width": masks.shape[2]}
        for number, (masks, _) in enumerate(truth, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    annotations = [
        row | {"id": number, "iscrowd": 0}
        for number, row in enumerate(_rows([(*pair, None) for pair in truth]), start=1)
    ]
    results = _rows([(masks, labels, scores) for masks, labels, scores in found])
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
    known = ~np.isnan(by_class[0])
    measured = {"AP": float(by_class[:, known].mean()), "AP50": float(by_class[0, known].mean())} if known.any() else {}
    return {
        "AP": measured.get("AP", float("nan")),
        "AP50": measured.get("AP50", float("nan")),
        **{f"AP50/{name}": float(value) for name, value in zip(CLASSES, by_class[0], strict=True)},
    }


def _rows(each: Sequence[tuple[Masks, np.ndarray, np.ndarray | None]]) -> list[dict]:
    rows = []
    for image, (masks, labels, scores) in enumerate(each, start=1):
        for index, mask in enumerate(masks):
            if not mask.any():
                continue
            left, top, right, bottom = boxes_around(mask)
            row = {
                "image_id": image,
                "category_id": int(labels[index]) + 1,
                "segmentation": encode(mask),
                "area": int(mask.sum()),
                "bbox": [left, top, right - left + 1, bottom - top + 1],
            }
            rows.append(row if scores is None else row | {"score": float(scores[index])})
    return rows


def _nothing(reference: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {**reference.dataset, "annotations": []}
    empty.createIndex()
    return empty
