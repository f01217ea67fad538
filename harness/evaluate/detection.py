"""mAP, the five true-positive errors and NDS of a result, as the nuScenes devkit computes them."""

import json
import time
from pathlib import Path
from typing import Any

from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionConfig, DetectionMetricDataList, DetectionMetrics
from nuscenes.utils.splits import is_predefined_split

from harness.data.root import NuScenesRoot
from harness.evaluate.columns import ground_truth, predictions
from harness.evaluate.metrics import compare, measure
from harness.store import atomic_write
from harness.study.spec import DetectionConfigName, scored_range

ERRORS = {
    "mATE": "trans_err",
    "mASE": "scale_err",
    "mAOE": "orient_err",
    "mAVE": "vel_err",
    "mAAE": "attr_err",
}


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
    root: NuScenesRoot, split: str, content: dict[str, Any], config: DetectionConfigName, out: Path
) -> dict[str, float]:
    """Score a result file's content.

    Args:
        root: The dataset with the annotations.
        split: Scored samples; the results have exactly these.
        content: What a nuScenes detection result file holds: meta and results.
        config: Name of the detection configuration.
        out: Folder for metrics_summary.json and metrics_details.json, as the devkit writes them.

    Returns:
        mAP, NDS (fractions), the five errors as the devkit defines them, and ``AP/CLASS`` for each class.
    """
    metrics, curves = evaluate(root, split, content["results"], detection_config(config))
    write_metrics(metrics, curves, content["meta"], out)
    return {
        "mAP": metrics.mean_ap,
        "NDS": metrics.nd_score,
        **{name: metrics.tp_errors[key] for name, key in ERRORS.items()},
        **{f"AP/{cls}": float(ap) for cls, ap in metrics.mean_dist_aps.items()},
    }


def evaluate(
    root: NuScenesRoot, split: str, results: dict[str, Any], config: DetectionConfig
) -> tuple[DetectionMetrics, DetectionMetricDataList]:
    """The devkit's metrics and curves of a result; InputError where it is not one of this split."""
    began = time.monotonic()
    samples, truth = ground_truth(root.devkit, root.tokens(split))
    predicted = predictions(results, samples, config.max_boxes_per_sample, in_file_order=is_predefined_split(split))
    metrics, curves = measure(compare(samples, truth, predicted, config), config)
    metrics.add_runtime(time.monotonic() - began)
    return metrics, curves


def write_metrics(metrics: DetectionMetrics, curves: DetectionMetricDataList, meta: dict[str, Any], out: Path) -> None:
    """Write metrics_summary.json and metrics_details.json as the devkit does."""
    summary = metrics.serialize() | {"meta": meta}
    for name, values in (("metrics_summary.json", summary), ("metrics_details.json", curves.serialize())):
        atomic_write(out / name, json.dumps(values, indent=2).encode())
