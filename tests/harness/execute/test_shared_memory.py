"""What loading needs of shared memory is what batches take, and a lack of it is told before anything trains."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from harness import run
from harness.data.loader import SampleSet, evaluation_batches, training_batches
from harness.errors import InputError
from harness.execute import shared_memory as module
from harness.execute.shared_memory import SharedMemory, shared_memory
from harness.execute.site import Site
from harness.jobs.detector import SCORED_TOGETHER
from harness.study.load import load_study
from harness.study.plan import plan_study

SMOKE = Path(__file__).parents[3] / "studies" / "smoke.yaml"


@pytest.fixture
def plan(smoke_root):
    return plan_study(load_study(SMOKE), smoke_root.fingerprint(), int)


@pytest.fixture
def free(monkeypatch):
    """Set what shared memory there is."""

    def set_free(count):
        monkeypatch.setattr(SharedMemory, "free", property(lambda memory: count))

    return set_free


def _nbytes(value):
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if is_dataclass(value):
        return sum(_nbytes(getattr(value, field.name)) for field in fields(value))
    return sum(map(_nbytes, value.values())) if isinstance(value, dict) else 0


def test_needed_are_the_batches_ahead_of_each_process_and_those_in_hand(free):
    free(10_000)
    memory = SharedMemory(batch=300, trainings=2, processes=4)
    assert memory.needed == 2 * (2 * 4 + 1) * 300 == 5400
    memory.check()
    assert "2 x (2 x 4 loading processes + 1) x 300 B per batch" in memory.text
    free(5399)
    # With three processes it is 2 x 7 x 300 = 4200.
    with pytest.raises(InputError, match=r"5\.4 kB of shared memory.*--loader-workers 3, .*docker run --shm-size=1g"):
        memory.check()
    free(700)
    with pytest.raises(InputError, match="--loader-workers 0,"):
        memory.check()
    free(None)
    memory.check()


def test_batch_is_as_large_as_those_that_processes_hand_over(smoke_root, plan, tmp_path):
    # The student that learns reads what it and its teacher read.
    (row,) = (row for row in plan.rows if row.role == "student")
    spec = plan.jobs[row.job].spec
    memory = shared_memory(plan, [plan.jobs[row.job]], Site(tmp_path, smoke_root, "cpu", 4, loader_workers=3))
    assert (memory.trainings, memory.processes) == (1, 3)
    inputs = spec.detector.training_inputs.joined(plan.detector_spec(spec.teacher).detector.inputs)
    tokens = smoke_root.tokens(spec.data.train_split)
    samples = SampleSet(smoke_root, tokens, inputs, spec.schedule.augment)
    training = next(training_batches(samples, spec.schedule.batch_size, range(1), 1, 2))
    samples = SampleSet(smoke_root, smoke_root.tokens(spec.data.eval_split), spec.detector.inputs)
    scoring = next(evaluation_batches(samples, SCORED_TOGETHER))
    assert memory.batch == pytest.approx(max(_nbytes(training), _nbytes(scoring)), rel=0.1)


def test_nothing_is_needed_where_no_process_loads_for_another(smoke_root, plan, tmp_path):
    jobs = list(plan.jobs.values())
    assert shared_memory(plan, jobs, Site(tmp_path, smoke_root, "cpu", 2)) is None
    assert shared_memory(plan, [], Site(tmp_path, smoke_root, "cpu", 2, loader_workers=2)) is None


def test_samples_are_read_once_for_jobs_that_load_the_same(smoke_root, tmp_path, monkeypatch):
    plan = plan_study(load_study(SMOKE, ["seeds=[0-3]"]), smoke_root.fingerprint(), int)
    sized = []
    monkeypatch.setattr(module, "kind_of", lambda spec: _Sizer(sized))
    shared_memory(plan, list(plan.jobs.values()), Site(tmp_path, smoke_root, "cpu", 2, loader_workers=1))
    # Teacher, baseline and student, whatever the seed.
    assert len(sized) == 3 < len(plan.jobs)


class _Sizer:
    def __init__(self, sized):
        self._sized = sized

    def batch_bytes(self, spec, source, plan, root):
        self._sized.append(spec)
        return 1


@pytest.mark.slow
def test_study_that_would_not_fit_ends_before_it_trains_and_a_dry_run_tells(smoke_path, tmp_path, monkeypatch, free):
    monkeypatch.chdir(tmp_path)
    free(1000)
    words = [str(SMOKE), "--data-root", str(smoke_path), "--version", "v1.0-synthetic", "--device", "cpu"]
    words += ["--split", "synthetic_train:synthetic_val", "--loader-workers", "2"]
    done = CliRunner().invoke(run.app, words)
    assert done.exit_code == 2
    assert "/dev/shm has 1.0 kB; allowed: --loader-workers 0" in " ".join(done.output.split())
    assert not any((tmp_path / "runs").glob("*/metrics.jsonl"))
    done = CliRunner().invoke(run.app, [*words, "--dry-run"])
    assert done.exit_code == 0
    assert "loading needs up to" in done.output
