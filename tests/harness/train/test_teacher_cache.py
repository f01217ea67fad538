"""The teacher is asked once about each variant of a sample; what is kept serves every student."""

from dataclasses import replace

import pytest
import torch

from detectors.presets import PRESETS
from distill.loss import Reading
from distill.objective import FrozenTeacher
from distill.reading import cells_read
from harness.data.loader import SampleSet, training_batches
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.jobs import worker
from harness.runs.folder import RunFolder
from harness.study.schedule import AugmentSpec
from harness.train.streams import stream_seed
from harness.train.teacher_cache import FOLDER, CachedTeacher, SeenStore
from harness.train.trainer import Interrupted

LOW, HEAD = Reading("bev_low", "points"), Reading("head", "gaussian", 0.1)


@pytest.fixture
def looks(monkeypatch):
    """The batches that a teacher was really asked about."""
    draws = []
    observe = FrozenTeacher.observe
    monkeypatch.setattr(FrozenTeacher, "observe", lambda self, batch: draws.append(batch.draws) or observe(self, batch))
    return draws


@pytest.fixture
def samples(smoke_root):
    return SampleSet(smoke_root, smoke_root.tokens("synthetic_train"), PRESETS["tiny_lidar"].inputs, AugmentSpec())


@pytest.fixture
def teacher(samples, tmp_path):
    """``teacher(readings, rounds)``: a detector whose cache, in one folder for all, is filled."""

    def make(readings=(LOW, HEAD), rounds=1, augment=AugmentSpec(), precision="32-true"):
        torch.manual_seed(0)
        varied = replace(samples, augmentation=augment)
        machine = Machine(torch.device("cpu"), precision)
        made = CachedTeacher(PRESETS["tiny_lidar"].build(), readings, tmp_path, varied, 2, machine)
        made.fill(rounds, lambda: False)
        return made

    return make


def _batches(samples, epochs, variants):
    steps = range(epochs * len(samples) // 2)
    return list(training_batches(samples, 2, steps, 1, stream_seed(0, "augmentation"), variants=variants))


def _points(batches):
    """Draw and LiDAR points of every sample, by its token."""
    return {
        token: (draw, batch.lidar.values[batch.lidar.sample == number])
        for batch in batches
        for number, (token, draw) in enumerate(zip(batch.tokens, batch.draws, strict=True))
    }


def test_samples_have_as_many_variants_as_asked_and_all_of_them_come(samples):
    drawn = {}
    for batch in _batches(samples, epochs=6, variants=3):
        for token, draw in zip(batch.tokens, batch.draws, strict=True):
            drawn.setdefault(token, []).append(draw)
    assert len(drawn) == len(samples)
    for draws in drawn.values():
        assert len(set(draws)) == 3
        assert draws[:3] == draws[3:]
    assert len({draw for draws in drawn.values() for draw in draws}) == 3 * len(samples)


def test_equal_draws_are_equal_samples(samples):
    batches = _batches(samples, epochs=4, variants=2)
    epoch = len(batches) // 4
    first, other, again = (_points(batches[epoch * number : epoch * (number + 1)]) for number in range(3))
    for token, (draw, points) in first.items():
        assert again[token][0] == draw != other[token][0]
        assert torch.equal(again[token][1], points)


def test_it_is_asked_once_about_each_variant_and_answers_for_ever(samples, looks, teacher):
    first = teacher(rounds=1)
    assert len(looks) == 2  # six samples, four together
    teacher(rounds=1)
    assert len(looks) == 2
    filled = teacher(rounds=5)  # two variants, whatever the number of rounds
    assert len(looks) == 4
    for batch in _batches(samples, epochs=4, variants=2):
        seen = filled.observe(batch)
        assert seen.bev_low.any()
    assert len(looks) == 4
    batch = _batches(samples, epochs=1, variants=2)[0]
    assert torch.equal(first.observe(batch).bev_low, filled.observe(batch).bev_low)
    # A student with another loss: of that map there is nothing yet.
    teacher([LOW, Reading("bev_high", "points")], rounds=1)
    assert len(looks) == 6


def test_it_answers_what_the_detector_says(samples, teacher):
    batch = _batches(samples, 1, variants=2)[0]
    cached = teacher()
    whole = cached.detector(batch)
    read = cells_read(LOW, batch, cached.detector.spec)[:, None].expand_as(whole.bev_low)
    seen = cached.observe(batch).bev_low
    torch.testing.assert_close(seen[read], whole.bev_low[read], atol=1e-3, rtol=1e-3)
    assert not seen[~read].any()


def test_without_a_record_it_says_of_what(samples, teacher):
    batches = _batches(samples, epochs=2, variants=2)
    with pytest.raises(KeyError, match=rf"no record of sample {batches[-1].tokens[0]}"):
        teacher(rounds=1).observe(batches[-1])


@pytest.mark.parametrize("change", [{"precision": "bf16-mixed"}, {"augment": AugmentSpec(rotation_degrees=9.0)}])
def test_what_was_made_otherwise_is_not_taken(looks, teacher, change):
    teacher()
    teacher(**change)
    assert len(looks) == 4


def test_a_stopped_teacher_goes_on_where_it_was(looks, teacher, monkeypatch):
    fill = CachedTeacher.fill
    monkeypatch.setattr(CachedTeacher, "fill", lambda self, rounds, stop: fill(self, rounds, lambda: len(looks) == 1))
    with pytest.raises(Interrupted, match="round 1"):
        teacher()
    monkeypatch.setattr(CachedTeacher, "fill", fill)
    teacher()
    assert len(looks) == 2


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "broken.sqlite").write_text("this is no database, and long enough to be taken for one" * 20)
    with pytest.raises(InputError, match=r"teacher cache .*broken.sqlite: .*delete the file"):
        SeenStore(tmp_path / "broken.sqlite")


def test_records_are_those_of_all_processes(tmp_path):
    one, other = SeenStore(tmp_path / "a.sqlite"), SeenStore(tmp_path / "a.sqlite")
    one.put({("sample", 1): b"first"})
    other.put({("sample", 2): b"second"})
    assert one.get([("sample", 2), ("sample", 1)]) == [b"second", b"first"]
    assert one.has([("sample", 1), ("sample", 2)])
    assert not one.has([("sample", 1), ("sample", 3)])


def test_students_end_with_the_same_bits_whether_the_cache_was_there_or_not(order, looks, tmp_path):
    schedule = {"steps": 4, "batch_size": 2, "teacher_cache": {"variants": 1}}
    taught_by = order(schedule=schedule)
    teacher = RunFolder(tmp_path / "teacher")
    teacher.write("job.json", taught_by.model_dump(mode="json"))
    worker.run(taught_by, teacher, lambda: False)
    losses = {"feature": {"weight": 1.0}, "relation": {"weight": 0.1}, "response": {"weight": 1.0}}
    spec = order(schedule=schedule).spec.model_copy(update={"teacher": "a teacher", "losses": losses})
    models, asked = [], []
    for name in ("first", "second"):
        folder = RunFolder(tmp_path / name)
        student = order(spec=spec, teacher_spec=taught_by.spec, teacher_weights=teacher.model)
        folder.write("job.json", student.model_dump(mode="json"))
        worker.run(student, folder, lambda: False)
        models.append(folder.model.read_bytes())
        asked.append(len(looks))
    assert models[0] == models[1]
    assert asked == [2, 2]
    assert len(list((teacher.path / FOLDER).glob("*.sqlite"))) == 3


def test_what_is_kept_of_a_resampled_teacher_is_on_the_students_ground(samples, tmp_path):
    student = PRESETS["tiny_lidar"]
    torch.manual_seed(0)
    detector = student.model_copy(update={"bev_frame": "lidar"}).build()
    inputs = detector.spec.inputs.carried_by(student.inputs)
    varied = replace(samples, inputs=inputs, augmentation=AugmentSpec())
    machine = Machine(torch.device("cpu"), "32-true")
    made = CachedTeacher(detector, (LOW,), tmp_path, varied, 2, machine, student)
    made.fill(1, lambda: False)
    batch = _batches(varied, epochs=1, variants=2)[0]
    whole = FrozenTeacher(detector, student).observe(batch).bev_low
    read = cells_read(LOW, batch, student)[:, None].expand_as(whole)
    torch.testing.assert_close(made.observe(batch).bev_low[read], whole[read], atol=1e-3, rtol=1e-3)
    assert made.spec.bev_frame == "ego"
    # On other ground there is another cache.
    (first,) = (tmp_path / FOLDER).glob("*.sqlite")
    CachedTeacher(detector, (LOW,), tmp_path, samples, 2, machine, None)
    assert len(list((tmp_path / FOLDER).glob("*.sqlite"))) == 2
    assert first.exists()
