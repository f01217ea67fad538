"""Jobs whose batches are computed in parts, whose updates are left out, and whose training draws numbers."""

import os
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from detectors.detector import Detector
from detectors.encoders.image import SwinSpec
from detectors.heads import center_loss
from detectors.presets import PRESETS
from harness.data.loader import SampleSet
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.evidence.results import _warning
from harness.jobs.detector import predict
from harness.jobs.worker import run
from harness.runs.folder import SKIPPED, RunFolder
from harness.study.schedule import ScheduleSpec
from harness.train import trainer
from harness.train.trainer import Interrupted


def _train(order, path, stop_after=None):
    folder = RunFolder(path)
    folder.write("job.json", order.model_dump(mode="json"))
    return folder, run(order, folder, lambda: stop_after is not None and len(folder.steps()) >= stop_after)


def _in_parts(micro, **schedule):
    return {"steps": 4, "batch_size": {"global": 4, "micro": micro}, **schedule}


def test_a_job_in_parts_ends_with_the_same_bits_when_interrupted_and_says_so(order, tmp_path):
    asked = order("tiny_radar", schedule=_in_parts(3))
    whole, result = _train(asked, tmp_path / "at once")
    with pytest.raises(Interrupted):
        _train(asked, tmp_path / "parts", stop_after=2)
    folder, _ = _train(asked, tmp_path / "parts")
    assert folder.model.read_bytes() == whole.model.read_bytes()
    assert [line["loss"] for line in folder.steps()] == [line["loss"] for line in whole.steps()]
    assert result.machine["micro_batch"] == "3"
    # The same samples make the same batches, however they are cut.
    uncut, result = _train(order("tiny_radar", schedule={"steps": 4, "batch_size": 4}), tmp_path / "uncut")
    assert [line["batch"] for line in uncut.steps()] == [line["batch"] for line in whole.steps()]
    assert uncut.steps()[0]["loss"] == pytest.approx(whole.steps()[0]["loss"], rel=0.2)  # norms differ
    assert "micro_batch" not in result.machine


def test_a_job_does_not_go_on_with_other_parts(order, tmp_path, monkeypatch):
    asked = order("tiny_radar", schedule=_in_parts("auto"))
    with pytest.raises(Interrupted):
        _train(asked, tmp_path, stop_after=1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (state["micro"], state["together"]) == (4, 4)
    torch.save(state | {"together": 8}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="begun with 8 samples in each batch statistic, which 1 GPUs a job cannot"):
        _train(asked, tmp_path)


def test_updates_without_a_finite_gradient_are_left_out_counted_and_told(order, tmp_path, monkeypatch):
    clip, calls = trainer.clip_grad_norm_, []

    def sometimes_broken(*given):
        calls.append(None)
        norm = clip(*given)
        return torch.tensor(float("nan")) if len(calls) == 2 else norm

    monkeypatch.setattr(trainer, "clip_grad_norm_", sometimes_broken)
    folder, result = _train(order("tiny_radar"), tmp_path)
    assert [line.get("skipped", 0) for line in folder.steps()] == [0, 1, 0, 0]
    assert result.warnings == {SKIPPED: "1 of 4 updates were left out, for their gradient was not finite"}
    assert _warning(*next(iter(result.warnings.items()))) == result.warnings[SKIPPED]
    assert all(tensor.isfinite().all() for tensor in load_file(folder.model).values())


def test_the_term_whose_gradient_is_not_finite_is_named(order, tmp_path, monkeypatch):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("nan")

    loss = center_loss.box_loss
    monkeypatch.setattr(center_loss, "box_loss", lambda *given: Broken.apply(loss(*given)))
    asked = order("tiny_radar", schedule={"steps": 4, "batch_size": 2, "skip_non_finite": 0})
    with pytest.raises(FloatingPointError, match="the gradient of 'boxes' in step 0 is nan, and all losses are finite"):
        _train(asked, tmp_path)


@pytest.mark.slow
def test_a_training_that_drops_paths_ends_with_the_same_bits_when_interrupted(order, tmp_path):
    swin = SwinSpec(width=24, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=5, drop_path=0.5)
    camera = PRESETS["tiny_camera"].camera
    camera = camera.model_copy(update={"image": camera.image.model_copy(update={"backbone": swin})})
    spec = PRESETS["tiny_camera"].model_copy(update={"camera": camera})
    asked = order(spec=order("tiny_camera").spec.model_copy(update={"detector": spec}))
    whole, _ = _train(asked, tmp_path / "at once")
    with pytest.raises(Interrupted):
        _train(asked, tmp_path / "parts", stop_after=2)
    torch.rand(7)  # what others draw meanwhile
    folder, _ = _train(asked, tmp_path / "parts")
    assert folder.model.read_bytes() == whole.model.read_bytes()


def test_samples_that_do_not_fit_are_scored_in_smaller_batches(smoke_root, monkeypatch):
    spec = PRESETS["tiny_radar"]
    student = spec.build()
    samples = SampleSet(smoke_root, smoke_root.tokens("synthetic_train"), spec.inputs)
    machine = Machine(torch.device("cpu"))
    expected = predict(student, samples, machine, 0)
    sizes, forward = [], Detector.forward

    def limited(self, batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no memory")
        return forward(self, batch)

    monkeypatch.setattr(Detector, "forward", limited)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert predict(student, samples, machine, 0).keys() == expected.keys()
    assert max(sizes) > 2
    assert sum(size for size in sizes if size <= 2) == len(samples)


@pytest.mark.parametrize(("seconds", "saved"), [(0.0, [1, 2, 3, 4]), (1.0, [1, 4])])
def test_a_state_that_takes_long_to_save_is_saved_less_often(order, tmp_path, monkeypatch, seconds, saved):
    calls, clock = [], [0.0]
    save, log_step = trainer.Training.save, RunFolder.log_step

    def slow_save(self):
        calls.append(self.next)
        clock[0] += seconds
        save(self)

    def slow_step(self, step, values):
        clock[0] += 10.0
        log_step(self, step, values)

    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", 5.0)
    monkeypatch.setattr(trainer.Training, "save", slow_save)
    monkeypatch.setattr(RunFolder, "log_step", slow_step)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: clock[0], process_time=lambda: 0.0))
    _train(order("tiny_radar"), tmp_path)
    assert list(dict.fromkeys(calls)) == saved


def test_the_learning_rate_is_that_of_the_batch():
    assert ScheduleSpec(steps=1, lr=1e-3, batch_size=64, lr_for_batch=16).peak_lr == pytest.approx(4e-3)
    assert ScheduleSpec(steps=1, lr=1e-3, batch_size=64).peak_lr == 1e-3


@pytest.fixture
def restored_switches(monkeypatch):
    """What a deterministic job sets in its process is set back."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.deterministic
    yield
    torch.use_deterministic_algorithms(before[0])
    cudnn.benchmark, cudnn.deterministic = before[1:]
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_a_deterministic_job_sets_the_switches_and_changes_no_bit_of_a_cpu(order, tmp_path, restored_switches):
    plain, result = _train(order("tiny_radar"), tmp_path / "plain")
    assert "deterministic" not in result.machine
    fixed, _ = _train(order("tiny_radar", deterministic=True), tmp_path / "fixed")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert fixed.model.read_bytes() == plain.model.read_bytes()
