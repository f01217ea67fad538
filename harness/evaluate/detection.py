"""mAP, the five true-positive errors and NDS of a result, as the nuScenes devkit computes them."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionConfig, DetectionMetricDataList, DetectionMetrics
from nuscenes.utils.splits import is_predefined_split

from harness.data.root import NuScenesRoot
from harness.evaluate.bootstrap import draws, resampled
from harness.evaluate.columns import predictions
from harness.evaluate.intervals import write_draws
from harness.evaluate.metrics import ERRORS, Matched, compare, measure
from harness.evaluate.truth import annotations
from harness.store import RunFolder, atomic_write
from harness.study.spec import DetectionConfigName, scored_range


def detection_config(name: DetectionConfigName) -> DetectionConfig:
    """The devkit's configuration of that name.

    "nuscenes" is the official one (50, 40 and 30 m by class); "within_16m" is the same but for every class range being
    at most 16 m, for detectors whose grid ends there.
    """
    content = config_factory("detection_cvpr_2019").serialize()
    reach = scored_range(name)
    content["class_range"] = {cls: min(metres, reach) for cls, metres in content["class_range"].items()}
    return DetectionConfig.deserialize(content)


def score(
    root: NuScenesRoot, split: str, content: dict[str, Any], config: DetectionConfigName, folder: RunFolder
) -> dict[str, float]:
    """Score a result file's content.

    Args:
        root: The dataset with the annotations.
        split: Scored samples; the results have exactly these.
        content: What a nuScenes detection result file holds: meta and results.
        config: Name of the detection configuration.
        folder: Where metrics_summary.json and metrics_details.json go, as the devkit writes them, and the metrics in
            draws of scenes.

    Returns:
        mAP, NDS (fractions), the five errors as the devkit defines them, and ``AP/CLASS`` for each class.
    """
    began = time.monotonic()
    whole = detection_config(config)
    matched = held_against(root, split, content["results"], whole)
    metrics, curves = measure(matched, whole)
    metrics.add_runtime(time.monotonic() - began)
    write_metrics(metrics, curves, content["meta"], folder.path)
    write_draws(folder.draws, resampled(matched, whole, draws(matched.split.scenes)), matched.split.scenes)
    return {
        "mAP": metrics.mean_ap,
        "NDS": metrics.nd_score,
        **{name: metrics.tp_errors[key] for name, key in ERRORS.items()},
        **{f"AP/{cls}": float(ap) for cls, ap in metrics.mean_dist_aps.items()},
    }


def held_against(root: NuScenesRoot, split: str, results: Mapping[str, Any], config: DetectionConfig) -> Matched:
    """A result, matched with the annotations of a split; InputError where it is not one of this split."""
    samples, truth = annotations(root, split)
    predicted = predictions(results, samples, config.max_boxes_per_sample, in_file_order=is_predefined_split(split))
    return compare(samples, truth, predicted, config)


def write_metrics(metrics: DetectionMetrics, curves: DetectionMetricDataList, meta: dict[str, Any], out: Path) -> None:
    """Write metrics_summary.json and metrics_details.json as the devkit does."""
    summary = metrics.serialize() | {"meta": meta}
    for name, values in (("metrics_summary.json", summary), ("metrics_details.json", curves.serialize())):
        atomic_write(out / name, json.dumps(values, indent=2).encode())
