"""Sets of boxes that tests of the evaluation share: their columns, and the devkit's own objects."""

import numpy as np
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import DetectionEval

from harness.evaluate.columns import Annotations, Split, columns


def split_of(scene, racks=()):
    """A split of as many samples, each with its scene's number; the car is at the origin."""
    return Split(
        tokens=tuple(str(number) for number in range(len(scene))),
        scene=np.array(scene, dtype=np.int64),
        ego=np.zeros((len(scene), 3)),
        rack_sample=np.array([number for number, _ in racks], dtype=np.int64),
        rack=np.array(
            [[*rack.center, *rack.wlh, *rack.orientation.elements] for _, rack in racks], dtype=np.float64
        ).reshape(-1, 10),
    )


def annotations_of(truth, split, points=5, visibility=4):
    """Annotations of lists of boxes, a list a sample."""
    sample_of = [number for number, listed in enumerate(truth) for _ in listed]
    boxes = columns(sample_of, [box for listed in results_of(truth, split).values() for box in listed], split.tokens)
    return Annotations.of(boxes, *(np.full(len(boxes), value, dtype=np.int64) for value in (points, visibility)))


def results_of(lists, split):
    """The results of lists of boxes, a list a sample, as a result file has them: without numbers of numpy."""

    def plain(value):
        return tuple(map(plain, value)) if isinstance(value, tuple) else getattr(value, "item", lambda: value)()

    return {
        token: [{"sample_token": token} | {name: plain(value) for name, value in box.items()} for box in listed]
        for token, listed in zip(split.tokens, lists, strict=True)
    }


def random_box(rng, name=None, near=None):
    """A box somewhere, or about a metre from another one, with its class."""
    center = rng.uniform(-50, 50, 3) if near is None else np.array(near["translation"]) + rng.normal(0, 1, 3)
    return {
        "translation": tuple(center.tolist()),
        "size": tuple(rng.uniform(0.3, 8, 3).tolist()),
        "rotation": tuple(rng.normal(size=4).tolist()),
        "velocity": tuple(rng.normal(size=2).tolist()),
        "detection_name": name
        or (near["detection_name"] if near else DETECTION_NAMES[rng.integers(len(DETECTION_NAMES))]),
        "detection_score": float(rng.random()),
        "attribute_name": ATTRIBUTE_NAMES[rng.integers(len(ATTRIBUTE_NAMES))],
    }


def devkit_boxes(lists):
    """The devkit's own boxes of lists of ours, a list a sample token."""
    found = EvalBoxes()
    for token, listed in lists.items():
        # The car is at the origin, so that a box's place is its distance from it.
        boxes = [DetectionBox(token, **{**box, "ego_translation": box["translation"]}) for box in listed]
        found.add_boxes(token, boxes)
    return found


def devkit_metrics(truth, predicted, config):
    """Metrics and curves of the devkit's matching and averaging of its boxes."""
    evaluation = DetectionEval.__new__(DetectionEval)
    evaluation.__dict__.update(cfg=config, verbose=False, gt_boxes=truth, pred_boxes=predicted)
    return evaluation.evaluate()
