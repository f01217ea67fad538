"""mAP, the five true-positive errors and NDS of a result, as the nuScenes devkit computes them."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.constants import DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionConfig, DetectionMetricDataList, DetectionMetrics
from nuscenes.utils.splits import is_predefined_split
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from detectors.spec import Spec, each_once
from harness.data.root import NuScenesRoot
from harness.data.tables import read_json
from harness.errors import InputError, first_mistake
from harness.evaluate.annotations import annotations
from harness.evaluate.bootstrap import draws, resampled
from harness.evaluate.columns import predictions
from harness.evaluate.intervals import write_draws
from harness.evaluate.metrics import ERRORS, Matched, compare, measure
from harness.runs.folder import RunFolder, atomic_write
from harness.study.spec import DetectionConfigName, scored_range

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def detection_config(name: DetectionConfigName) -> DetectionConfig:
    """The devkit's configuration of that name.

    "nuscenes" is the official one (50, 40 and 30 m by class); "within_16m" is the same but for every class range being
    at most 16 m, for detectors whose grid ends there.
    """
    content = config_factory("detection_cvpr_2019").serialize()
    reach = scored_range(name)
    content["class_range"] = {cls: min(metres, reach) for cls, metres in content["class_range"].items()}
    return DetectionConfig.deserialize(content)


class _ConfigFile(Spec):
    """What a detection configuration has to be for its metrics to be defined."""

    model_config = ConfigDict(strict=True)

    class_range: dict[str, Positive]
    dist_fcn: Literal["center_distance"]
    dist_ths: Annotated[list[Positive], Field(min_length=1), AfterValidator(each_once)]
    dist_th_tp: Positive
    min_recall: float = Field(ge=0, le=0.99)
    min_precision: float = Field(ge=0, lt=1)
    max_boxes_per_sample: int = Field(ge=1)
    mean_ap_weight: float = Field(ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _classes_and_thresholds_fit(self) -> Self:
        if self.class_range.keys() != set(DETECTION_NAMES):
            raise ValueError(f"class_range must have exactly these classes: {', '.join(DETECTION_NAMES)}")
        if self.dist_th_tp not in self.dist_ths:
            raise ValueError(f"dist_th_tp {self.dist_th_tp} is not one of dist_ths {self.dist_ths}")
        return self


def read_config(path: Path) -> DetectionConfig:
    """A detection configuration in the devkit's format; InputError where it is none."""
    content = read_json(path)
    try:
        _ConfigFile.model_validate(content)
    except ValidationError as error:
        raise InputError(f"detection configuration {path}: {first_mistake(error)}") from error
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
    settings = detection_config(config)
    matched, metrics, curves = evaluate(root, split, content["results"], settings)
    write_metrics(metrics, curves, content["meta"], folder.path)
    write_draws(folder.draws, resampled(matched, settings, draws(matched.split.scenes)), matched.split.scenes)
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


def evaluate(
    root: NuScenesRoot, split: str, results: Mapping[str, Any], config: DetectionConfig
) -> tuple[Matched, DetectionMetrics, DetectionMetricDataList]:
    """A result held against its split, and the devkit's metrics, with the time it took, and curves."""
    began = time.monotonic()
    matched = held_against(root, split, results, config)
    metrics, curves = measure(matched, config)
    metrics.add_runtime(time.monotonic() - began)
    return matched, metrics, curves


def write_metrics(metrics: DetectionMetrics, curves: DetectionMetricDataList, meta: dict[str, Any], out: Path) -> None:
    """Write metrics_summary.json and metrics_details.json as the devkit does."""
    summary = metrics.serialize() | {"meta": meta}
    for name, values in (("metrics_summary.json", summary), ("metrics_details.json", curves.serialize())):
        atomic_write(out / name, json.dumps(values, indent=2).encode())
