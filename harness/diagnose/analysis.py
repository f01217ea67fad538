"""The analysis of a result in its run folder: small, and in the same draws for all results of a split."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from harness.data.root import NuScenesRoot
from harness.evaluate.analysis import METRICS, Analysis, analyse
from harness.evaluate.bootstrap import DRAWS
from harness.evaluate.detection import detection_config, held_against
from harness.evaluate.intervals import Count
from harness.evaluate.result_file import read_result
from harness.runs.folder import RunFolder
from harness.runs.small_files import keep_arrays, kept_arrays
from harness.study.jobs import DataIdentity

_FORM = 1


def analyse_run(folder: RunFolder, data: DataIdentity, root: NuScenesRoot) -> Analysis:
    """What `harness.evaluate.analysis` says of the boxes that a run has stored."""
    config = detection_config(data.detection_config)
    matched = held_against(root, data.eval_split, read_result(folder.predictions)[1], config)
    return analyse([matched], config, DRAWS)[0]


def keep_analysis(path: Path, analysis: Analysis) -> None:
    """Keep an analysis but for the metrics, which a run has in its draws; in single precision, as those are."""
    groups = {group: numbers for group, numbers in analysis.groups.items() if group != METRICS}
    header = {
        "scenes": analysis.scenes,
        "numbers": [[group, name] for group, numbers in groups.items() for name in numbers],
        "counts": {g: {name: asdict(count) for name, count in found.items()} for g, found in analysis.counts.items()},
    }
    values = np.stack([values for numbers in groups.values() for values in numbers.values()])
    keep_arrays(path, _FORM, header, values=values.astype(np.float32))


def kept_analysis(path: Path) -> Analysis | None:
    """What `keep_analysis` left; None where there is nothing, or nothing that can be read."""
    found = kept_arrays(path, _FORM)
    if found is None:
        return None
    header, arrays = found
    groups: dict[str, dict[str, np.ndarray]] = {}
    for (group, name), values in zip(header["numbers"], arrays["values"].astype(np.float64), strict=True):
        groups.setdefault(group, {})[name] = values
    counts = {g: {name: Count(**count) for name, count in found.items()} for g, found in header["counts"].items()}
    return Analysis(header["scenes"], groups, counts)
