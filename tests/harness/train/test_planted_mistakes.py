"""Mistakes that distillation code has made before, planted one by one: none of them passes unnoticed."""

import math
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from detectors.detector import Detector
from distill import response
from distill.objective import LOSSES
from harness.data import loader
from harness.data.root import NuScenesRoot
from harness.errors import InputError
from harness.evidence.results import outcomes
from harness.evidence.runs import StudyRuns
from harness.jobs import detector
from harness.jobs.worker import run
from harness.runs.folder import RunFolder
from harness.study.load import load_study
from harness.study.plan import plan_study
from harness.train import checkpoint, trainer

STUDIES = Path(__file__).parents[3] / "studies"


@pytest.fixture(scope="module")
def teacher(smoke_root, order_on, tmp_path_factory):
    """The weights of a trained LiDAR detector, and its spec."""
    order = order_on(smoke_root, schedule={"steps": 2, "batch_size": 2})
    folder = RunFolder(tmp_path_factory.mktemp("teacher"))
    run(order, folder, lambda: False)
    return folder.model, order.spec


@pytest.fixture
def distil(smoke_root, order_on, teacher, tmp_path):
    """Train a LiDAR student with all losses that it can have under that teacher, or with other weights in its place."""

    def distil(weights=None, steps=2):
        # Those two are of cameras.
        losses = {name: {"weight": 1.0} for name in LOSSES if name not in ("depth", "instance")}
        order = order_on(smoke_root, schedule={"steps": steps, "batch_size": 2})
        taught = order.spec.model_copy(update={"teacher": "a teacher", "losses": losses})
        fields = {"spec": taught, "teacher_spec": teacher[1], "teacher_weights": weights or teacher[0]}
        folder = RunFolder(tmp_path / "student")
        folder.path.mkdir(exist_ok=True)
        return run(order.model_copy(update=fields), folder, lambda: False)

    return distil


def test_without_a_mistake_it_trains(distil):
    assert distil().metrics["NDS"] >= 0


def test_teacher_in_train_mode(distil, monkeypatch):
    monkeypatch.setattr(Detector, "eval", lambda self: self)
    with pytest.raises(RuntimeError, match="teacher left eval mode"):
        distil()


@pytest.mark.parametrize("mistake", ["missing", "misshapen", "superfluous"])
def test_teacher_tensor(distil, teacher, tmp_path, mistake):
    tensors = load_file(teacher[0])
    name = "head.heatmap.weight"
    assert name in tensors
    if mistake == "missing":
        del tensors[name]
    elif mistake == "misshapen":
        tensors[name] = tensors[name][:-1]
    else:
        tensors["head.heatmaps.weight"], name = tensors[name].clone(), "head.heatmaps.weight"
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match=f"does not fit the detector: tensor {name}"):
        distil(tmp_path / "broken.safetensors")


def test_typo_in_the_name_of_a_loss(smoke_root):
    with pytest.raises(InputError, match="unknown loss 'respnse'; did you mean 'response'"):
        load_study(STUDIES / "smoke.yaml", ["arms={unidistill: [feature, relation, respnse]}"])


def test_other_classes_in_the_teacher(distil, teacher, tmp_path, monkeypatch):
    from detectors.geometry.boxes import CLASSES

    path = tmp_path / "other.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "CLASSES", CLASSES[::-1])
        checkpoint.save_model(path, teacher[1].detector.build())
    with pytest.raises(InputError, match="other classes"):
        distil(path)


def test_term_missing_from_the_log(distil, monkeypatch):
    log_step = RunFolder.log_step
    monkeypatch.setattr(
        RunFolder,
        "log_step",
        lambda self, step, values: log_step(self, step, {k: v for k, v in values.items() if k != "raw/relation"}),
    )
    with pytest.raises(RuntimeError, match="lacks raw/relation"):
        distil()


def test_nan_in_a_term(distil, monkeypatch):
    loss = response.response_loss
    monkeypatch.setattr(response, "response_loss", lambda *given: loss(*given) * float("nan"))
    with pytest.raises(FloatingPointError, match="loss 'response' is nan"):
        distil()


@pytest.mark.parametrize("place", ["_order", "batch_indices"])
def test_unshuffled_loader(distil, monkeypatch, smoke_root, place):
    # The smallest world has too few samples to tell an order from chance.
    tokens = NuScenesRoot.tokens
    monkeypatch.setattr(NuScenesRoot, "tokens", lambda self, *which: (tokens(self, *which) * 8)[:8])
    planted = {
        "_order": lambda samples, seed, round_: list(range(samples)),
        "batch_indices": lambda samples, size, step, seed: [n % samples for n in range(step * size, (step + 1) * size)],
    }
    monkeypatch.setattr(loader, place, planted[place])
    with pytest.raises(RuntimeError, match="not shuffled"):
        distil(steps=4)


@pytest.mark.slow
def test_batches_that_differ_between_arms(distil, smoke_root, order_on, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "baseline")
    folder.path.mkdir()
    baseline = run(order_on(smoke_root, schedule={"steps": 2, "batch_size": 2}), folder, lambda: False)
    monkeypatch.setattr(trainer, "stream_seed", lambda seed, stream: 12345)
    assert distil().began["batches"] != baseline.began["batches"]


@pytest.mark.slow
def test_initial_weights_that_differ_between_arms(distil, smoke_root, order_on, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "baseline")
    folder.path.mkdir()
    baseline = run(order_on(smoke_root, schedule={"steps": 2, "batch_size": 2}), folder, lambda: False)

    @contextmanager
    def unseeded(seed, stream):
        yield

    monkeypatch.setattr(detector, "seeded", unseeded)
    student = distil()
    assert student.began["batches"] == baseline.began["batches"] != ""

    plan = plan_study(load_study(STUDIES / "smoke.yaml"), "data", int)
    for row in plan.rows:
        folder = RunFolder(tmp_path / "runs" / row.job)
        folder.write("job.json", {})
        folder.complete(student if row.role == "student" else baseline)
    trained = outcomes(StudyRuns.open(plan, tmp_path / "runs"))
    (outcome,) = (each for each in trained if each.key.role == "student")
    assert "its initial weights differ from its baseline's" in outcome.unpaired
    assert math.isnan(outcome.gains["mAP"])
