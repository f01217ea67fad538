"""mAP, the five true-positive errors and NDS of a result file, by the nuScenes devkit's own evaluation."""

import json
from pathlib import Path

from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionConfig
from nuscenes.eval.detection.evaluate import DetectionEval

from harness.data.root import NuScenesRoot
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


def score(root: NuScenesRoot, split: str, submission: Path, config: DetectionConfigName, out: Path) -> dict[str, float]:
    """Score a result file.

    Args:
        root: The dataset with the annotations.
        split: Scored samples; the file has exactly these.
        submission: A nuScenes detection result file.
        config: Name of the detection configuration.
        out: Folder for the devkit's metrics_summary.json and metrics_details.json.

    Returns:
        mAP, NDS (fractions), the five errors as the devkit defines them, and ``AP/CLASS`` for each class.
    """
    evaluation = DetectionEval(
        root.devkit_for(split), detection_config(config), str(submission), split, str(out), verbose=False
    )
    evaluation.main(plot_examples=0, render_curves=False)
    summary = json.loads((out / "metrics_summary.json").read_text())
    return {
        "mAP": summary["mean_ap"],
        "NDS": summary["nd_score"],
        **{name: summary["tp_errors"][key] for name, key in ERRORS.items()},
        **{f"AP/{cls}": ap for cls, ap in summary["mean_dist_aps"].items()},
    }
