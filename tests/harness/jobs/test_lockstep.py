"""Students that train side by side end with the bits of students that train alone, whatever happens on the way."""

import json

import pytest

from distill.objective import FrozenTeacher
from harness.jobs import worker
from harness.jobs.kind import BUSY, DONE, FAILED, STOPPED
from harness.jobs.kinds import kind_of
from harness.runs.folder import RunFolder
from harness.study.schedule import TeacherCacheSpec
from harness.train import trainer

ARMS = {
    "feature": {"losses": {"feature": {"weight": 2.0, "adapter": "conv3x3"}}},
    "relation": {"losses": {"relation": {"weight": {"pull": 0.3}}}, "warm_start": True},
    "response": {"losses": {"response": {"weight": 1.0, "parts": "split"}}},
    "warm start": {"warm_start": True},
}


@pytest.fixture(scope="module")
def teacher(order_on, smoke_root, tmp_path_factory):
    """A trained LiDAR detector."""
    order = order_on(smoke_root)
    folder = RunFolder(tmp_path_factory.mktemp("teacher") / "run")
    folder.write("job.json", order.model_dump(mode="json"))
    worker.run(order, folder, lambda: False)
    return order.spec, folder.model


@pytest.fixture
def asked(order, teacher, tmp_path):
    """``asked(group, arms)``: the folders of jobs of one student, none of them run yet."""

    def make(group, arms=ARMS, preset="tiny_camera", **changes):
        folders = []
        for name, fields in arms.items():
            base = order(preset).spec
            spec = base.model_copy(update={"teacher": "a teacher", **fields, **changes})
            folder = RunFolder(tmp_path / group / name)
            content = order(spec=spec, teacher_spec=teacher[0], teacher_weights=teacher[1], label=name)
            folder.write("job.json", content.model_dump(mode="json"))
            folders.append(folder)
        return folders

    return make


@pytest.fixture(autouse=True)
def outputs_stay(monkeypatch):
    """The test's own output goes where pytest wants it."""
    monkeypatch.setattr(worker, "_attempt_with_log", worker._attempt)


def _together(folders, stop=lambda: False):
    return worker.work([folder.path for folder in folders], stop)


def _same_bits(folders, others):
    for one, other in zip(folders, others, strict=True):
        assert one.model.read_bytes() == other.model.read_bytes(), one.path.name
        numbers = [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in one.steps()]
        assert numbers == [{k: v for k, v in line.items() if not k.endswith("seconds")} for line in other.steps()]
        assert json.loads(one.predictions.read_text()) == json.loads(other.predictions.read_text())
        assert one.result().began == other.result().began
        assert one.result().weights == other.result().weights


@pytest.fixture
def alone(asked):
    """The jobs, each run by itself."""
    folders = asked("alone")
    assert [_together([folder]) for folder in folders] == [DONE] * len(folders)
    return folders


def test_weights_are_those_of_students_that_train_alone(asked, alone, monkeypatch):
    looks = []
    observe = FrozenTeacher.observe
    monkeypatch.setattr(FrozenTeacher, "observe", lambda self, batch: looks.append(1) or observe(self, batch))
    folders = asked("together")
    assert _together(folders) == DONE
    assert len(looks) == 4, "the teacher is asked once a step, for all of them"
    _same_bits(folders, alone)


@pytest.mark.slow
def test_stopped_and_killed_at_different_steps_they_end_with_the_same_bits(asked, alone):
    folders = asked("together")
    assert _together(folders, lambda: len(folders[0].steps()) == 2) == STOPPED
    assert [folder.last_step()["step"] for folder in folders] == [1] * 4
    # Of one the state was lost, and one was not there when the others began.
    folders[0].state.unlink()
    assert worker._train_together(folders, lambda: False, lambda folder: False) == DONE
    assert [worker._attempt(folder, lambda: False) for folder in folders] == [DONE] * 4
    _same_bits(folders, alone)


@pytest.mark.slow
def test_with_a_teacher_cache_they_end_with_the_bits_of_students_that_train_alone(asked, order):
    schedule = order().spec.schedule.model_copy(update={"teacher_cache": TeacherCacheSpec(variants=1)})
    arms = {name: fields for name, fields in ARMS.items() if name != "warm start"}
    folders, others = (asked(group, arms, schedule=schedule) for group in ("together", "alone"))
    assert _together(folders) == DONE
    assert [_together([folder]) for folder in others] == [DONE] * 3
    _same_bits(folders, others)


def test_one_that_fails_tells_its_own_reason_and_the_others_go_on(asked, alone, monkeypatch):
    folders = asked("together")
    step = trainer.Training.step

    def broken(self, parts, seen=()):
        if self.run.path.name == "relation" and self.next == 2:
            raise FloatingPointError("loss 'relation' is nan")
        return step(self, parts, seen)

    monkeypatch.setattr(trainer.Training, "step", broken)
    assert _together(folders) == FAILED
    assert folders[1].failure() == ("FloatingPointError: loss 'relation' is nan", False)
    assert folders[1].result() is None
    _same_bits([folders[0], *folders[2:]], [alone[0], *alone[2:]])


def test_one_that_nobody_wants_any_more_saves_its_state_and_leaves_the_others_as_they_are(asked, alone):
    folders = asked("together")
    dropped = folders[1].path

    def is_dropped(folder):
        return folder.path == dropped and len(folder.steps()) >= 2

    assert worker.work([folder.path for folder in folders], lambda: False, is_dropped) == DONE
    assert folders[1].result() is None
    assert [line["step"] for line in folders[1].steps()] == [0, 1]
    others = [0, 2, 3]
    _same_bits([folders[n] for n in others], [alone[n] for n in others])
    # Wanted again, it goes on to the same end.
    assert _together([folders[1]]) == DONE
    _same_bits([folders[1]], [alone[1]])


def test_folder_that_another_process_owns_is_left_to_it(asked):
    first, second, *_ = asked("together")
    with second.locked():
        assert _together([first, second]) == BUSY
    assert first.result() is not None
    assert second.result() is None


def test_what_decides_whether_students_share_a_process(asked, order):
    def key(folder):
        job = worker.JobOrder.model_validate(folder.job())
        return kind_of(job.spec).lockstep_key(job.spec)

    assert len({key(folder) for folder in asked("arms")}) == 1
    ramped = asked("ramped", {"a": {}}, schedule=order().spec.schedule.model_copy(update={"distillation_warmup": 0.5}))
    others = [
        asked("seed", {"a": {}}, seed=4),
        asked("teacher", {"a": {}}, teacher="another"),
        asked("steps", {"a": {}}, schedule=order().spec.schedule.model_copy(update={"steps": 5})),
        asked("student", {"a": {}}, preset="tiny_radar"),
        asked("labels", {"a": {"losses": {"instance": {"weight": 1.0}}}}, labels="an image teacher"),
    ]
    assert key(ramped[0]) == key(asked("arms")[0])
    keys = [key(asked("arms")[0]), *(key(folder) for (folder,) in others)]
    assert len(set(keys)) == len(keys)
    assert key(asked("untaught", {"a": {}}, teacher=None)[0]) is None


def test_shares_of_a_step_add_up_to_what_it_took(asked):
    folders = asked("together")
    before = trainer.time.process_time()
    assert _together(folders) == DONE
    taken = trainer.time.process_time() - before
    trained = sum(line["cpu_seconds"] for folder in folders for line in folder.steps())
    assert 0 < trained < taken
