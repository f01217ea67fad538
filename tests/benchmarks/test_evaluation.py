"""How much faster a result is scored in columns than by the devkit: from boxes, from a dictionary and from a file on.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``, with 200 predictions and 31 annotations a sample,
at 600 samples and at the 6,019 of nuScenes' validation split (10 minutes). Without it each body runs once, on less, as
a test.
"""

import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.harness.evaluate.sets import annotations_of, devkit_boxes, devkit_metrics, random_box, split_of

PREDICTIONS, ANNOTATIONS, SAMPLES_OF_A_SCENE = 200, 31, 40


def _sets(samples):
    """Annotations and results: a third of the predictions are near an annotation, and of its class."""
    rng = np.random.default_rng(0)
    truth = [[random_box(rng) for _ in range(ANNOTATIONS)] for _ in range(samples)]
    results = {}
    for number, listed in enumerate(truth):
        near = [listed[int(rng.integers(ANNOTATIONS))] if count % 3 == 0 else None for count in range(PREDICTIONS)]
        results[str(number)] = [{"sample_token": str(number), **random_box(rng, near=box)} for box in near]
    return truth, results


@pytest.fixture(params=[600, 6019])
def sets(request, benchmark):
    return _sets(request.param if benchmark.enabled else request.param // 200)


@pytest.fixture
def config():
    from nuscenes.eval.common.config import config_factory

    config = config_factory("detection_cvpr_2019")
    config.class_range = dict.fromkeys(config.class_range, 1000)  # the devkit's filter is not what is compared
    return config


@pytest.fixture
def prepared(sets):
    """The split, and its annotations in columns."""
    truth, _ = sets
    split = split_of([number // SAMPLES_OF_A_SCENE for number in range(len(truth))])
    return split, annotations_of(truth, split)


def _devkit_file(path):
    from nuscenes.eval.common.loaders import load_prediction
    from nuscenes.eval.detection.data_classes import DetectionBox

    return load_prediction(str(path), 500, DetectionBox)[0]


def _our_file(path, split):
    from harness.evaluate.columns import predictions
    from harness.evaluate.result_file import read_result

    return predictions(read_result(path)[1], split, 500)


def _ours(split, annotations, predicted, config):
    from harness.evaluate.metrics import compare, measure

    return measure(compare(split, annotations, predicted, config), config)[0]


def _devkit(truth, predicted, config):
    return devkit_metrics(truth, predicted, config)[0]


@pytest.mark.timeout(3600)
def test_columns_against_the_devkit(sets, prepared, config, benchmark, speedups, tmp_path):
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox

    from harness.evaluate.bootstrap import draws, resampled
    from harness.evaluate.columns import predictions
    from harness.evaluate.metrics import compare

    (truth, results), (split, annotations) = sets, prepared
    devkit_truth = devkit_boxes(dict(zip(results, truth, strict=True)))
    predicted, devkit_predicted = predictions(results, split, 500), EvalBoxes.deserialize(results, DetectionBox)
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"meta": {}, "results": results}))

    def ours(predicted):
        return _ours(split, annotations, predicted, config)

    def devkit(predicted):
        return _devkit(devkit_truth, predicted, config)

    assert ours(predicted).mean_ap == devkit(devkit_predicted).mean_ap == ours(_our_file(path, split)).mean_ap
    if benchmark.enabled:
        rounds = 3 if len(truth) < 1000 else 2
        ways = {
            "boxes to metrics": (lambda: ours(predicted), lambda: devkit(devkit_predicted)),
            "dictionary to metrics": (
                lambda: ours(predictions(results, split, 500)),
                lambda: devkit(EvalBoxes.deserialize(results, DetectionBox)),
            ),
            "file to metrics": (lambda: ours(_our_file(path, split)), lambda: devkit(_devkit_file(path))),
        }
        for name, (columns, kit) in ways.items():
            found = speedups({"columns": columns, "devkit": kit}, of="devkit", rounds=rounds)
            print(f"{len(truth)} samples, {name}: {found}")
            benchmark.extra_info |= {f"{name}: {key}": value for key, value in found.items()}
        floor = {"columns": lambda: ours(predicted), "floor": lambda: _floor(predicted, annotations)}
        print("one sort and one pass over all distances:", speedups(floor, of="columns", rounds=5))
        matched, copies = compare(split, annotations, predicted, config), draws(split.scenes)
        paired = {
            "1,000 paired draws": lambda: [resampled(matched, config, copies) for _ in range(2)],
            "devkit": lambda: devkit(devkit_predicted),
        }
        print("one result, drawn twice, against one evaluation:", speedups(paired, of="devkit", rounds=1))
        (tmp_path / "devkit.pickle").write_bytes(pickle.dumps(devkit_truth))
        (tmp_path / "columns.pickle").write_bytes(pickle.dumps((split, annotations)))
        peaks = {way: _peak(way, tmp_path) for way in ("columns", "devkit")}
        print(f"peak memory, MB: {peaks}, ratio {peaks['columns'] / peaks['devkit']:.2f}")
    benchmark(ours, predicted)


def _peak(way, folder):
    """Largest memory in MB of a process of its own that goes from file to metrics."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_from_file, (way, folder))


def _from_file(way, folder):
    from nuscenes.eval.common.config import config_factory

    config = config_factory("detection_cvpr_2019")
    config.class_range = dict.fromkeys(config.class_range, 1000)
    truth = pickle.loads((folder / f"{way}.pickle").read_bytes())
    if way == "devkit":
        _devkit(truth, _devkit_file(folder / "result.json"), config)
    else:
        _ours(*truth, _our_file(folder / "result.json", truth[0]), config)
    # Not the usage of resources: a new process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def _floor(predicted, annotations):
    """The least there is to do: sort the scores, and take every distance within a sample and class once."""
    np.argsort(predicted.score)
    group = annotations.sample * 10 + annotations.label
    order = np.argsort(group, kind="stable")
    begin, end = (
        np.searchsorted(group[order], predicted.sample * 10 + predicted.label, side) for side in ("left", "right")
    )
    count = end - begin
    pair = np.repeat(begin - np.concatenate([[0], np.cumsum(count)[:-1]]), count) + np.arange(count.sum())
    gap = annotations.center[order[pair], :2] - np.repeat(predicted.center[:, :2], count, axis=0)
    return np.sqrt((gap**2).sum(axis=1))
