"""The teacher is asked once about each variant of a sample; what is kept serves every student."""

import pytest
import torch

from detectors.presets import PRESETS
from distill.objective import FrozenTeacher
from distill.reading import Reading
from harness.data.loader import SampleSet, training_batches
from harness.errors import InputError
from harness.jobs import worker
from harness.runs.folder import RunFolder
from harness.study.schedule import AugmentSpec
from harness.train.teacher_cache import FOLDER, CachedTeacher, SeenStore

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


def _teacher(run, readings=(LOW, HEAD), augment=AugmentSpec(), precision="32-true"):
    torch.manual_seed(0)
    return CachedTeacher(PRESETS["tiny_lidar"].build(), readings, run, augment, precision)


def _batches(samples, epochs, variants):
    steps = range(epochs * len(samples) // 2)
    return list(training_batches(samples, 2, steps, order_seed=1, augment_seed=5, variants=variants))


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


def test_the_second_look_is_the_first_ones_without_asking(samples, looks, tmp_path):
    batch = _batches(samples, 1, variants=2)[0]
    first = _teacher(tmp_path).observe(batch)
    again = _teacher(tmp_path).observe(batch)
    assert looks == [batch.draws]
    assert torch.equal(first.bev_low, again.bev_low)
    assert torch.equal(first.head.heatmap, again.head.heatmap)
    assert first.bev_low.any()
    # A student with another loss asks once more: of that map there is nothing yet.
    _teacher(tmp_path, [LOW, Reading("bev_high", "points")]).observe(batch)
    assert len(looks) == 2


@pytest.mark.parametrize("change", [{"precision": "bf16-mixed"}, {"augment": AugmentSpec(rotation_degrees=9.0)}])
def test_what_was_made_otherwise_is_not_taken(samples, looks, tmp_path, change):
    batch = _batches(samples, 1, variants=2)[0]
    _teacher(tmp_path).observe(batch)
    _teacher(tmp_path, **change).observe(batch)
    assert len(looks) == 2


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "broken.sqlite").write_text("this is no database, and long enough to be taken for one" * 20)
    with pytest.raises(InputError, match=r"teacher cache .*broken.sqlite: .*delete the file"):
        SeenStore(tmp_path / "broken.sqlite")


def test_records_of_another_process_stay(tmp_path):
    one, other = SeenStore(tmp_path / "a.sqlite"), SeenStore(tmp_path / "a.sqlite")
    one.put({("sample", 1): b"first"})
    other.put({("sample", 1): b"second", ("sample", 2): b"third"})
    assert one.get([("sample", 1), ("sample", 2), ("sample", 3)]) == [b"first", b"third", None]


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
    # Six samples are three batches; the fourth step has seen its batch before.
    assert asked == [3, 3]
    assert len(list((teacher.path / FOLDER).glob("*.sqlite"))) == 3
