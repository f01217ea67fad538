"""How much students that train side by side save, and what a distilled step costs over a plain one.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``. Without it each body takes one step, as a test.
"""

import statistics
import time
from functools import partial
from itertools import count

import pytest
import torch

from detectors.presets import PRESETS
from distill.objective import LOSSES, FrozenTeacher, Objective
from distill.reading import readings_of
from harness.data.loader import SampleSet, batch_indices, variant
from harness.data.root import NuScenesRoot
from harness.diagnose.machine import Machine
from harness.runs.folder import RunFolder
from harness.study.schedule import AugmentSpec, ScheduleSpec
from harness.train.streams import stream_seed
from harness.train.teacher_cache import CachedTeacher
from harness.train.trainer import Training
from harness.world.nuscenes import synthesize

SCHEDULE = ScheduleSpec(steps=10_000, batch_size=4)
VARIANTS = 8
UNIDISTILL = {"feature": 2.0, "relation": 0.1, "response": 2.0}
PATHS = [
    ("tiny_lidar", "tiny_camera"),
    ("tiny_camera_lidar", "tiny_lidar"),
    ("tiny_camera_lidar", "tiny_camera"),
    ("tiny_camera", "tiny_lidar"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The smallest embedded world."""
    folder = tmp_path_factory.mktemp("world")
    synthesize(folder, "smoke", seed=0)
    return NuScenesRoot(folder, "v1.0-synthetic")


@pytest.fixture
def path(request, root, tmp_path):
    """Everything about one path: its samples, its teacher, and new students on demand."""
    taught_by, student = (PRESETS[name] for name in request.param)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    detector, numbers = taught_by.build(), count()
    losses = {name: LOSSES[name](weight=weight) for name, weight in UNIDISTILL.items()}

    def training(teacher=None):
        objective = Objective(student.build(), teacher, losses if teacher else {})
        run = RunFolder(tmp_path / str(next(numbers)))
        run.path.mkdir()
        return Training(Machine(torch.device("cpu")), objective, SCHEDULE, 0, run)

    def samples(inputs):
        found = SampleSet(root, root.tokens("synthetic_train"), inputs, AugmentSpec())
        for index in range(len(found)):
            found.cache[index]
        return found

    def batches(inputs):
        read, steps = samples(inputs), count()

        def draw():
            step = next(steps)
            chosen = batch_indices(len(read), SCHEDULE.batch_size, step, 0)
            seed = stream_seed(0, "augmentation")
            draws = [(seed + variant(index, step, VARIANTS)) % 2**63 for index in chosen]
            return read.drawn_batch(chosen, draws)

        return draw

    both = student.inputs.joined(taught_by.inputs)
    readings = readings_of(loss.reads for loss in losses.values())
    return {
        "training": training,
        "own": partial(batches, student.inputs),
        "shared": partial(batches, both),
        "live": partial(FrozenTeacher, detector),
        "cached": lambda: CachedTeacher(
            detector, readings, tmp_path, samples(taught_by.inputs), VARIANTS, Machine(torch.device("cpu"))
        ),
    }


def _times(ways, rounds):
    """Seconds of each way, taken in turns; the first round warms up."""
    seconds = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _together(trainings, teacher, draw):
    def step():
        batch = draw()
        seen = teacher.observe(batch)
        for training in trainings:
            training.step([batch], [seen])

    return step


@pytest.mark.parametrize("path", PATHS[:2], ids="->".join, indirect=True)
@pytest.mark.parametrize("students", [4, 8])
def test_side_by_side_against_one_after_the_other(path, benchmark, students):
    teacher = path["live"]()
    alone = _together([path["training"](teacher)], teacher, path["shared"]())
    together = _together([path["training"](teacher) for _ in range(students)], teacher, path["shared"]())
    draw = path["shared"]()
    student, batch = path["training"](teacher), draw()
    seen = teacher.observe(batch)
    ways = {
        "alone": alone,
        "together": together,
        "d": draw,
        "t": lambda: teacher.observe(batch),
        "s": lambda: student.step([batch], [seen]),
    }
    seconds = _times(ways, rounds=12 if benchmark.enabled else 1)
    for kind, take in (("minima", min), ("medians", statistics.median)):
        d, t, s = (take(seconds[name]) for name in "dts")
        saved = students * take(seconds["alone"]) / take(seconds["together"])
        bound = students * (d + t + s) / (d + t + students * s)
        benchmark.extra_info |= {
            f"{kind}: speedup": round(saved, 2),
            f"{kind}: share of the bound": round(saved / bound, 2),
        }
    print(benchmark.extra_info)
    benchmark.pedantic(together, rounds=1)


@pytest.mark.parametrize("path", PATHS, ids="->".join, indirect=True)
def test_distilled_step_over_a_plain_one(path, benchmark):
    live, cached = path["live"](), path["cached"]()
    cached.fill(VARIANTS, lambda: False)
    plain_training, plain_draw = path["training"](), path["own"]()
    ways = {
        "plain": lambda: plain_training.step([plain_draw()]),
        "online": _together([path["training"](live)], live, path["shared"]()),
        "lockstep of 4": _together([path["training"](live) for _ in range(4)], live, path["shared"]()),
        "cached": _together([path["training"](cached)], cached, path["own"]()),
    }
    seconds = _times(ways, rounds=12 if benchmark.enabled else 1)
    for kind, take in (("minima", min), ("medians", statistics.median)):
        plain = take(seconds["plain"])
        for name in ("online", "lockstep of 4", "cached"):
            students = 4 if name == "lockstep of 4" else 1
            benchmark.extra_info[f"{kind}: {name}"] = round(take(seconds[name]) / students / plain, 2)
    print(benchmark.extra_info)
    benchmark.pedantic(ways["cached"], rounds=1)
