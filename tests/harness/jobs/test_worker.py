"""A job goes on where it stopped and ends with the same bits; its failures are told in its folder."""

import json
import math
import subprocess
import sys

import nuscenes.nuscenes
import pytest
import torch
from safetensors.torch import load_file

from detectors.geometry.boxes import CLASSES
from detectors.presets import PRESETS
from harness.jobs import detector, worker
from harness.jobs.kind import STOPPED
from harness.jobs.worker import run
from harness.runs.folder import RunFolder
from harness.study.schedule import ScheduleSpec
from harness.train import trainer
from harness.train.streams import seeded
from harness.train.trainer import Interrupted
from tests.cases import mostly_slow


def _train(order, path, stop_after=None):
    folder = RunFolder(path)
    folder.write("job.json", order.model_dump(mode="json"))
    return folder, run(order, folder, lambda: stop_after is not None and len(folder.steps()) >= stop_after)


@pytest.fixture(scope="module")
def trained(order_on, smoke_root, tmp_path_factory):
    """A training that nothing interrupts; to be read, not to be written to."""
    return _train(order_on(smoke_root), tmp_path_factory.mktemp("trained") / "whole")


@pytest.mark.parametrize("kind", mostly_slow(["lidar", "camera", "camera taught by lidar"], "lidar"))
def test_interrupted_training_ends_with_the_same_bits(order, trained, tmp_path, kind):
    asked = order("tiny_lidar" if kind == "lidar" else "tiny_camera")
    if kind == "camera taught by lidar":
        # The adapter has state of its own to resume.
        losses = {"feature": {"weight": {"pull": 0.5}, "adapter": "conv3x3"}, "relation": {"weight": 1.0}}
        spec = asked.spec.model_copy(update={"teacher": "a teacher", "losses": losses})
        asked = order(spec=spec, teacher_spec=order().spec, teacher_weights=trained[0].model)
    with pytest.raises(Interrupted, match="after step 2 of 4"):
        _train(asked, tmp_path / "parts", stop_after=2)
    folder, result = _train(asked, tmp_path / "parts")
    uninterrupted, expected = trained if kind == "lidar" else _train(asked, tmp_path / "at once")
    assert [line["step"] for line in folder.steps()] == [0, 1, 2, 3]
    assert [line["loss"] for line in folder.steps()] == [line["loss"] for line in uninterrupted.steps()]
    assert folder.model.read_bytes() == uninterrupted.model.read_bytes()
    assert result.metrics == pytest.approx(expected.metrics, nan_ok=True)
    assert result.weights == expected.weights
    assert set(result.weights) == ({"feature"} if kind == "camera taught by lidar" else set())


@pytest.mark.slow
def test_a_balanced_training_with_pasted_objects_goes_on_where_it_stopped_and_opens_no_devkit(
    order, tmp_path, monkeypatch
):
    def fail(**_):
        raise AssertionError("the devkit was opened")

    monkeypatch.setattr(nuscenes.nuscenes, "NuScenes", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paste = {"counts": {"pedestrian": 30, "car": 30}, "min_points": 1, "until": 0.5}
    schedule = {"steps": 4, "batch_size": 2, "class_balanced": True, "augment": {"paste": paste}}
    asked = order(schedule=schedule)
    with pytest.raises(Interrupted, match="while objects to paste were read"):
        _train(asked, tmp_path / "at once", stop_after=0)
    with pytest.raises(Interrupted, match="after step 2 of 4"):
        _train(asked, tmp_path / "parts", stop_after=2)
    folder, result = _train(asked, tmp_path / "parts")
    at_once, expected = _train(asked, tmp_path / "at once")
    assert folder.model.read_bytes() == at_once.model.read_bytes()
    assert result.metrics == pytest.approx(expected.metrics, nan_ok=True)
    # Something was pasted, and only in the first half.
    plain = order(schedule={**schedule, "augment": {}})
    without, _ = _train(plain, tmp_path / "without")
    lines = [[line["batch"] for line in each.steps()] for each in (folder, without)]
    assert lines[0] == lines[1]
    assert folder.steps()[0]["loss"] != without.steps()[0]["loss"]


def test_job_leaves_nuscenes_files_and_all_metrics(trained, smoke_root):
    folder, result = trained
    predictions = json.loads((folder.path / "predictions.json").read_text())
    assert set(predictions["results"]) == set(smoke_root.tokens("synthetic_val"))
    assert predictions["meta"]["use_lidar"]
    assert not predictions["meta"]["use_camera"]
    assert (folder.path / "metrics_summary.json").is_file()
    assert {"mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE"} < result.metrics.keys()
    assert {f"AP/{name}" for name in CLASSES} < result.metrics.keys()


def test_students_of_one_seed_start_from_the_same_weights_and_batches(order, trained, tmp_path):
    uninterrupted, _ = trained
    spec = order().spec
    losses = {"response": {"weight": 0.0}}
    distilled = order(
        spec=spec.model_copy(update={"teacher": "a teacher", "losses": losses}),
        teacher_spec=spec,
        teacher_weights=uninterrupted.model,
    )
    folder, _ = _train(distilled, tmp_path / "distilled")
    first, expected = folder.steps()[0], uninterrupted.steps()[0]
    # A loss of weight zero leaves no trace but its own line in the log.
    assert first["raw/heatmap"] == expected["raw/heatmap"]
    assert first["weighted/response"] == 0
    assert first["raw/response"] > 0
    # Adding a gradient of zeros may change the memory layout of a sum, and with it a last bit, but nothing more.
    distilled_weights, expected_weights = load_file(folder.model), load_file(uninterrupted.model)
    for name, tensor in expected_weights.items():
        torch.testing.assert_close(distilled_weights[name], tensor, atol=1e-5, rtol=1e-4)


def test_gradient_that_is_not_finite_stops_the_training(order, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "clip_grad_norm_", lambda *args: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match=r"step 2 is nan.* 2 updates were left out before"):
        _train(_limited(order, 2), tmp_path / "broken")
    assert not (tmp_path / "broken" / "model.safetensors").exists()


def _limited(order, limit):
    """A job that may leave out so many updates."""
    spec = order().spec
    schedule = spec.schedule.model_copy(update={"skip_non_finite": limit})
    return order(spec=spec.model_copy(update={"schedule": schedule}))


def test_given_weights_are_scored_as_they_are(order, trained, tmp_path):
    uninterrupted, expected = trained
    spec = order().spec.model_copy(update={"schedule": None, "weights": "their hash"})
    folder, result = _train(order(spec=spec, given_weights=uninterrupted.model), tmp_path / "given")
    assert folder.model.read_bytes() == uninterrupted.model.read_bytes()
    assert result.metrics == pytest.approx(expected.metrics, nan_ok=True)
    assert folder.steps() == []


def _main(path, stdin=subprocess.DEVNULL):
    return subprocess.run([sys.executable, "-m", "harness.jobs.worker", str(path)], stdin=stdin, capture_output=True)


@pytest.mark.slow
def test_worker_records_why_it_failed(order, tmp_path):
    folder = RunFolder(tmp_path / "job")
    broken = order(root=tmp_path / "nowhere")
    folder.write("job.json", broken.model_dump(mode="json"))
    with subprocess.Popen(
        [sys.executable, "-m", "harness.jobs.worker", str(folder.path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.wait() == 1
    reason, wrong_input = folder.failure()
    assert "nowhere does not exist" in reason
    assert wrong_input
    assert folder.result() is None


@pytest.mark.slow
def test_worker_whose_parent_is_gone_saves_and_stops(order, trained, tmp_path):
    uninterrupted, _ = trained
    folder = RunFolder(tmp_path / "job")
    folder.write("job.json", order().model_dump(mode="json"))
    # Standard input at its end is what a worker sees when its parent dies.
    assert _main(folder.path).returncode == STOPPED
    assert folder.result() is None
    assert 0 < len(folder.steps()) < 4
    assert folder.state.is_file()
    again, _ = _train(order(), folder.path)
    assert again.model.read_bytes() == uninterrupted.model.read_bytes()


def test_untrained_detector_is_scored_with_the_weights_a_training_of_its_seed_begins_with(order, trained, tmp_path):
    spec = order().spec.model_copy(update={"schedule": None})
    folder, result = _train(order(spec=spec), tmp_path / "untrained")
    with seeded(spec.seed, "weights"):
        expected = PRESETS["tiny_lidar"].build().state_dict()
    for name, tensor in load_file(folder.model).items():
        assert torch.equal(tensor, expected[name])
    assert folder.steps() == []
    assert result.began == {}


def test_warm_started_student_begins_with_the_teachers_head_and_its_own_encoder(order, trained, tmp_path, monkeypatch):
    uninterrupted, baseline = trained
    seen = {}
    fit = detector.fit

    def watched(machine, trainings, *rest):
        (training,) = trainings
        seen.update({name: tensor.clone() for name, tensor in training.objective.student.state_dict().items()})
        assert training.teacher is None  # it has nothing to say any more
        fit(machine, trainings, *rest)

    monkeypatch.setattr(detector, "fit", watched)
    spec = order().spec.model_copy(update={"teacher": "a teacher", "warm_start": True})
    _, result = _train(
        order(spec=spec, teacher_spec=order().spec, teacher_weights=uninterrupted.model), tmp_path / "warm"
    )
    theirs = load_file(uninterrupted.model)
    assert all(torch.equal(seen[name], theirs[name]) for name in theirs if name.startswith(("neck.", "head.")))
    assert any(not torch.equal(seen[name], theirs[name]) for name in theirs if name.startswith("lidar."))
    # Paired all the same: what it began with before the copy, and the order of samples.
    assert result.began == baseline.began


def test_weights_of_the_losses_grow_as_the_schedule_says(order, trained, tmp_path):
    uninterrupted, _ = trained
    schedule = order().spec.schedule.model_copy(update={"distillation_warmup": 0.75})  # 3 of 4 steps
    fields = {"teacher": "a teacher", "losses": {"response": {"weight": 2.0}}, "schedule": schedule}
    distilled = order(
        spec=order().spec.model_copy(update=fields), teacher_spec=order().spec, teacher_weights=uninterrupted.model
    )
    folder, _ = _train(distilled, tmp_path / "ramped")
    factors = [line["weighted/response"] / line["raw/response"] for line in folder.steps()]
    assert factors == pytest.approx([2 / 3, 4 / 3, 2, 2])


@pytest.mark.parametrize(
    ("shares", "factors"),
    [
        ({"distillation_cooldown": 0.75}, [1, 1, 2 / 3, 1 / 3]),
        ({"distillation_cooldown": 0.75, "distillation_warmup": 0.5}, [1 / 2, 1, 2 / 3, 1 / 3]),
        ({"distillation_warmup": 0.75}, [1 / 3, 2 / 3, 1, 1]),
    ],
)
def test_weights_grow_and_fall(shares, factors):
    schedule = ScheduleSpec(steps=4, **shares)
    assert [trainer._ramp(step, schedule) for step in range(4)] == pytest.approx(factors)


def _taught(order, trained, losses, **schedule):
    schedule = order().spec.schedule.model_copy(update=schedule)
    fields = {"teacher": "a teacher", "losses": losses, "schedule": schedule}
    return order(
        spec=order().spec.model_copy(update=fields), teacher_spec=order().spec, teacher_weights=trained[0].model
    )


def test_a_weight_that_sets_itself_is_measured_first_and_then_stays(order, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "MEASURED_STEPS", 2)
    monkeypatch.setattr(trainer, "PULL_EVERY", 1)
    asked = _taught(order, trained, {"response": {"weight": {"pull": 0.5}}})
    folder, result = _train(asked, tmp_path / "pulled")
    steps = folder.steps()
    weights = [line["weighted/response"] / line["raw/response"] for line in steps]
    detection = [line["map_gradient/detection"] for line in steps[:2]]
    raw = [line["map_gradient/response"] / weight for line, weight in zip(steps[:2], weights, strict=False)]
    assert weights[0] == pytest.approx(0.5 * detection[0] / raw[0], rel=1e-4)
    assert weights[1:] == pytest.approx([0.5 * sum(detection) / sum(raw)] * 3, rel=1e-4)
    assert result.weights == {"response": pytest.approx(weights[-1])}
    assert folder.result() == result


def test_a_loss_that_never_pulls_fails_with_its_name(order, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("distill.balance.Balance.add", lambda *given: None)
    folder = RunFolder(tmp_path)
    asked = _taught(order, trained, {"response": {"weight": {"pull": 0.5}}})
    folder.write("job.json", asked.model_dump(mode="json"))
    assert worker._attempt(folder, lambda: False) == worker.FAILED
    reason, wrong_input = folder.failure()
    assert wrong_input
    assert "weight {pull: 0.5} of loss 'response': in the first 50 steps it has no gradient" in reason


@pytest.mark.parametrize("teacher", ["an oracle", "a mirrored one"])
def test_a_student_of_a_control_ends_with_the_same_bits_when_interrupted(order, trained, tmp_path, teacher):
    fields = {"losses": {"response": {"weight": 1.0}}}
    if teacher == "an oracle":
        asked = order(spec=order().spec.model_copy(update=fields | {"oracle": True}))
    else:
        asked = _taught(order, trained, **fields)
        asked = asked.model_copy(update={"spec": asked.spec.model_copy(update={"mirrored": True})})
    whole, _ = _train(asked, tmp_path / "whole")
    with pytest.raises(Interrupted):
        _train(asked, tmp_path / "parts", stop_after=2)
    folder, _ = _train(asked, tmp_path / "parts")
    assert folder.model.read_bytes() == whole.model.read_bytes()
    plain, _ = _train(_taught(order, trained, fields["losses"]), tmp_path / "plain")
    assert plain.steps()[0]["raw/response"] != whole.steps()[0]["raw/response"]
    assert plain.steps()[0]["raw/heatmap"] == whole.steps()[0]["raw/heatmap"]


def test_training_killed_after_a_periodic_save_goes_on_from_it_to_the_same_bits(order, trained, tmp_path, monkeypatch):
    uninterrupted, _ = trained
    saved = []
    save = trainer.Training.save
    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "SAVING_SHARE", math.inf)
    monkeypatch.setattr(trainer.Training, "save", lambda self: (save(self), saved.append(self.next)))

    class Killed(BaseException):
        pass

    def killed(self, step, values, log_step=RunFolder.log_step):
        if step == 2 and not resumed:
            raise Killed
        log_step(self, step, values)

    resumed = False
    monkeypatch.setattr(RunFolder, "log_step", killed)
    with pytest.raises(Killed):
        _train(order(), tmp_path / "parts")
    assert saved == [1, 2]
    resumed = True
    folder, _ = _train(order(), tmp_path / "parts")
    assert saved == [1, 2, 3, 4, 4]  # two of the four steps are not done again; the last save is the end's
    assert folder.model.read_bytes() == uninterrupted.model.read_bytes()
    assert [line["loss"] for line in folder.steps()] == [line["loss"] for line in uninterrupted.steps()]


def test_a_diagnosis_that_fails_costs_no_result(order, tmp_path, monkeypatch, capfd):
    def broken(*given):
        raise ZeroDivisionError("no boxes")

    monkeypatch.setattr("harness.diagnose.examine.examine", broken)
    folder = RunFolder(tmp_path)
    folder.write("job.json", order().model_dump(mode="json"))
    assert worker._attempt(folder, lambda: False) == worker.UNEXAMINED
    assert folder.result() is not None
    assert folder.failure() is None
    assert "ZeroDivisionError: no boxes" in capfd.readouterr().err
    assert worker._attempt(folder, lambda: False) == worker.DONE
