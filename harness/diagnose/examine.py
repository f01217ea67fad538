"""Computes the diagnostics of a finished job and stores them in its run folder, separate from its result."""

from collections.abc import Sequence
from typing import TypeVar

from detectors.batch import Inputs
from detectors.detector import Detector
from harness.data.loader import SampleSet
from harness.data.root import NuScenesRoot
from harness.diagnose import latency
from harness.diagnose.alignment import Alignment, align
from harness.diagnose.latency import Latency, measure_latency
from harness.diagnose.machine import Machine
from harness.evaluate.analysis import analyse
from harness.evaluate.bootstrap import DRAWS
from harness.evaluate.detection import detection_config, held_against
from harness.evaluate.intervals import Analysis, keep_analysis, kept_analysis
from harness.evaluate.result_file import read_result
from harness.runs.folder import RunFolder
from harness.runs.small_files import keep_model, kept_model
from harness.study.jobs import DataIdentity, DetectorJobSpec, content_hash

Item = TypeVar("Item")


def examine(
    folder: RunFolder,
    spec: DetectorJobSpec,
    root: NuScenesRoot,
    detector: Detector,
    machine: Machine,
    samples: SampleSet | None = None,
) -> None:
    """Keep the analysis and the latency of a job whose model and predictions are stored.

    Args:
        folder: Its run folder, owned by the caller.
        spec: What it is.
        root: The dataset.
        detector: Its detector; is taken to the machine and into eval mode.
        machine: To measure on.
        samples: To time it on; by default some of its split.
    """
    keep_analysis(folder.analysis, _analyse(folder, spec.data, root))
    if samples is None:
        inputs = spec.detector.inputs.read_for(machine.device)
        samples = some_samples(root, spec.data.eval_split, inputs, latency.SAMPLES)
    keep_model(folder.latency, measure_latency(detector.to(machine.device).eval(), samples, machine))


def is_examined(folder: RunFolder) -> bool:
    """Whether `examine` was done, and what it left can be read."""
    return kept_analysis(folder.analysis) is not None and kept_model(folder.latency, Latency) is not None


def examine_pair(
    folder: RunFolder, detector: Detector, teacher: RunFolder, taught_by: Detector, samples: SampleSet, machine: Machine
) -> None:
    """Keep in a run's folder how like its detector is to that of another run.

    Args:
        folder: Of the run, owned by the caller.
        detector: Its detector; is taken to the machine and into eval mode, as the other one.
        teacher: Of the other run.
        taught_by: The other run's detector.
        samples: Whose maps are compared, with what either detector asks for.
        machine: To look at both on.
    """
    examined, other = (each.to(machine.device).eval() for each in (detector, taught_by))
    cka, cells = align(other, examined, samples, machine)
    alignment = Alignment(weights=_weights(folder, teacher), samples=len(samples), cells=cells, cka=cka)
    keep_model(folder.alignment(teacher.path.name), alignment)


def is_pair_examined(folder: RunFolder, teacher: RunFolder) -> bool:
    """Whether `examine_pair` was done of the weights that are there now."""
    alignment = kept_model(folder.alignment(teacher.path.name), Alignment)
    return alignment is not None and alignment.weights == _weights(folder, teacher)


def some_samples(root: NuScenesRoot, split: str, inputs: Inputs, count: int) -> SampleSet:
    """So many samples of a split, the same ones always, evenly spaced; all of a smaller one."""
    return SampleSet(root, evenly_spaced(root.tokens(split), count), inputs)


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """So many of them, the first among them; all where there are no more."""
    chosen = min(count, len(items))
    return [items[number * len(items) // chosen] for number in range(chosen)]


def _weights(folder: RunFolder, teacher: RunFolder) -> tuple[str, str]:
    return content_hash(teacher.model), content_hash(folder.model)


def _analyse(folder: RunFolder, data: DataIdentity, root: NuScenesRoot) -> Analysis:
    """What `harness.evaluate.analysis` says of the boxes that a run has stored."""
    config = detection_config(data.detection_config)
    matched = held_against(root, data.eval_split, read_result(folder.predictions)[1], config)
    return analyse([matched], config, DRAWS)[0]
