"""How much faster a result is scored in columns than by the devkit: matching and averaging, and from a dictionary on.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``, at 600 samples of 200 predictions and 31
annotations (nuScenes' validation split has 6,019 samples). Without it each body runs once, on less, as a test.
"""

import numpy as np
import pytest

PREDICTIONS, ANNOTATIONS = 200, 31


@pytest.fixture
def sets(benchmark):
    """Annotations and results: a third of the predictions are near an annotation of their class."""
    from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES

    samples = 600 if benchmark.enabled else 4
    rng = np.random.default_rng(0)

    def box(near=None):
        name = near["detection_name"] if near else str(rng.choice(DETECTION_NAMES))
        center = np.array(near["translation"]) + rng.normal(0, 1, 3) if near else rng.uniform(-50, 50, 3)
        return {
            "translation": center.tolist(),
            "size": rng.uniform(0.3, 8, 3).tolist(),
            "rotation": rng.normal(size=4).tolist(),
            "velocity": rng.normal(size=2).tolist(),
            "detection_name": name,
            "detection_score": float(rng.random()),
            "attribute_name": str(rng.choice(ATTRIBUTE_NAMES)),
        }

    truth = [[box() for _ in range(ANNOTATIONS)] for _ in range(samples)]
    results = [
        [box(listed[int(rng.integers(ANNOTATIONS))] if number % 3 == 0 else None) for number in range(PREDICTIONS)]
        for listed in truth
    ]
    return truth, {str(number): listed for number, listed in enumerate(results)}


def test_columns_against_the_devkit(sets, benchmark, speedups):
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.evaluate import DetectionEval

    from harness.evaluate.columns import Split, columns, predictions
    from harness.evaluate.metrics import compare, measure

    truth, results = sets
    config = config_factory("detection_cvpr_2019")
    config.class_range = dict.fromkeys(config.class_range, 1000)  # the devkit's filter is not what is compared
    count = len(truth)
    split = Split(tuple(results), np.zeros(count, dtype=np.int64), np.zeros((count, 3)), {})
    sample_of = [number for number, listed in enumerate(truth) for _ in listed]
    annotations = columns(sample_of, [box for listed in truth for box in listed], split.tokens)
    predicted = predictions(results, split, 500)

    def devkit_boxes(lists):
        found = EvalBoxes()
        for token, listed in lists.items():
            found.add_boxes(token, [DetectionBox.deserialize({"sample_token": token, **box}) for box in listed])
        return found

    devkit_truth = devkit_boxes(dict(zip(results, truth, strict=True)))
    devkit_predicted = devkit_boxes(results)

    def devkit(predicted):
        evaluation = DetectionEval.__new__(DetectionEval)
        evaluation.__dict__.update(cfg=config, verbose=False, gt_boxes=devkit_truth, pred_boxes=predicted)
        return evaluation.evaluate()[0]

    def ours():
        return measure(compare(split, annotations, predicted, config), config)[0]

    assert ours().mean_ap == devkit(devkit_predicted).mean_ap
    if benchmark.enabled:
        matching = {"columns": ours, "devkit": lambda: devkit(devkit_predicted)}
        whole = {
            "columns": lambda: measure(compare(split, annotations, predictions(results, split, 500), config), config),
            "devkit": lambda: devkit(devkit_boxes(results)),
        }
        for name, ways in (("boxes to metrics", matching), ("dictionary to metrics", whole)):
            found = speedups(ways, of="devkit", rounds=3)
            benchmark.extra_info.update({f"{name}: {key}": value for key, value in found.items()})
        print(benchmark.extra_info)
    benchmark(ours)
