"""GT-paste: objects keep their returns, overlap nothing, and come up to their counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detectors.batch import BoxFacts, Inputs, Sample
from detectors.geometry.boxes import CLASSES, Boxes
from detectors.geometry.overlap import bev_iou
from harness.data import objects as objects_module
from harness.data.augment import bev_matrix, draw_sweeps, move_bev
from harness.data.loader import SampleSet, training_batches
from harness.data.nuscenes import read
from harness.data.objects import Objects, returns_in
from harness.data.paste import _overlaps, paste
from harness.errors import InputError
from harness.study.schedule import AugmentSpec, PasteSpec, ScheduleSpec

INPUTS = Inputs(lidar_sweeps=2)
ALL = PasteSpec(counts=dict.fromkeys(CLASSES, 12), min_points=1)


@pytest.fixture(scope="module")
def objects(smoke_root):
    """Of the smallest world's training samples."""
    made = Objects(smoke_root, smoke_root.tokens("synthetic_train"), INPUTS)
    assert made.make()
    return made


@pytest.fixture
def sample(smoke_root):
    """A sample of the other scenes."""
    return read(smoke_root, smoke_root.tokens("synthetic_val")[0], INPUTS)


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _boxes(*rows):
    """Boxes by x, y, length, width, yaw; 2 m high, on the ground, cars."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    count = len(table)
    return Boxes(
        center=torch.cat([table[:, :2], torch.ones(count, 1)], dim=1),
        size=torch.cat([table[:, 2:4], torch.full((count, 1), 2.0)], dim=1),
        yaw=table[:, 4],
        velocity=torch.zeros(count, 2),
        label=torch.zeros(count, dtype=torch.long),
        score=torch.ones(count),
    )


class _Few(Objects):
    """Objects by hand: boxes, each with three returns at its middle, of ages 0, 0 and 0.05 s."""

    def __init__(self, boxes):
        self.boxes = boxes

    def of_class(self, label, min_returns):
        return (self.boxes.label == label).nonzero()[:, 0] if min_returns <= 3 else torch.zeros(0, dtype=torch.long)

    def returns(self, number):
        rest = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.5, 0.05]])
        return torch.cat([self.boxes.center[number].expand(3, 3), rest], dim=1)


def _sample(boxes, *places):
    lidar = torch.tensor([[*place, 0.1, 0.0] for place in places], dtype=torch.float32).reshape(-1, 5)
    facts = BoxFacts(*torch.ones(4, len(boxes), dtype=torch.long).unbind())
    return Sample("a", None, lidar, None, boxes, facts)


def test_returns_in_a_turned_box_by_hand():
    # 4 m long and 2 m wide, turned by a right angle: 1 m along x and 2 m along y to either side.
    box = _boxes((10, 5, 4, 2, math.pi / 2))
    places = [(10, 6.9, 1), (10.9, 5, 1), (11.1, 5, 1), (10, 7.1, 1), (10, 5, 2.1), (10, 5, 1.9), (-10, 5, 1)]
    lidar = np.array([[*place, 0, 0] for place in places], np.float32)
    assert returns_in(box, 0, lidar).tolist() == [0, 1, 5]


@given(
    st.floats(-40, 40),
    st.floats(-40, 40),
    st.floats(0.3, 12),
    st.floats(0.3, 4),
    st.floats(-3.2, 3.2),
    st.integers(0, 99),
)
def test_the_far_returns_that_are_skipped_are_in_no_box(x, y, length, width, yaw, seed):
    box = _boxes((x, y, length, width, yaw))
    lidar = torch.rand(300, 5, generator=_rng(seed)) * 16 - 8
    lidar[:, :3] += box.center
    offset = lidar[:, :3].double() - box.center.double()
    cos, sin = math.cos(box.yaw[0]), math.sin(box.yaw[0])
    along, across = cos * offset[:, 0] + sin * offset[:, 1], cos * offset[:, 1] - sin * offset[:, 0]
    inside = torch.stack([along, across, offset[:, 2]], dim=1).abs() <= box.size.double() / 2
    assert returns_in(box, 0, lidar.numpy()).tolist() == inside.all(dim=1).nonzero()[:, 0].tolist()


def test_pasting_by_hand():
    scene = _boxes((0, 0, 4, 2, 0))
    spec = PasteSpec(counts={"car": 3}, min_points=3)
    here = _sample(scene, (0, 0, 1), (20, 0, 1), (20, 0, 5), (9, 9, 1))
    # It may be put there twice at most, but stands where it stood: the second overlaps the first.
    pasted = paste(here, spec, _Few(_boxes((20, 0, 4, 2, 0.5))), _rng())
    assert len(pasted.boxes) == 2
    assert_close(pasted.boxes.center, torch.tensor([[0.0, 0, 1], [20, 0, 1]]))
    # Its three returns come first; the scene's within it is gone, that above it stays.
    assert_close(pasted.lidar[:, :3], torch.tensor([[20.0, 0, 1]] * 3 + [[0, 0, 1], [20, 0, 5], [9, 9, 1]]))
    # Of the keyframe are two.
    assert pasted.facts.lidar_points.tolist() == [1, 2]
    assert pasted.facts.attribute.tolist() == [1, -1]
    assert here.lidar.shape == (4, 5)


@pytest.mark.parametrize(
    ("spec", "stands"),
    [
        (PasteSpec(counts={"car": 1}, min_points=1), (20, 0, 4, 2, 0)),  # there is one already
        (PasteSpec(counts={"truck": 5}, min_points=1), (20, 0, 4, 2, 0)),  # of another class
        (PasteSpec(counts={"car": 3}, min_points=4), (20, 0, 4, 2, 0)),  # of too few returns
        (PasteSpec(counts={"car": 3}, min_points=1), (2.5, 1.5, 4, 2, 0.7)),  # over the one that is there
    ],
)
def test_what_is_not_pasted(spec, stands):
    here = _sample(_boxes((0, 0, 4, 2, 0)), (0, 0, 1))
    pasted = paste(here, spec, _Few(_boxes(stands)), _rng())
    assert torch.equal(pasted.lidar, here.lidar)
    assert len(pasted.boxes) == 1


def test_of_two_that_overlap_the_first_is_pasted():
    # A chain, each of which overlaps the next: the first and the third are free.
    chain = _boxes((20, 0, 4, 2, 0), (23, 0, 4, 2, 0), (26, 0, 4, 2, 0))
    chain = replace(chain, label=torch.tensor([0, 1, 2]))
    spec = PasteSpec(counts={"car": 1, "truck": 1, "bus": 1}, min_points=1)
    pasted = paste(_sample(_boxes(), (0, 0, 0)), spec, _Few(chain), _rng())
    assert pasted.boxes.label.tolist() == [0, 2]


@given(
    st.lists(
        st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(0.3, 12), st.floats(0.3, 4), st.floats(-3, 3)),
        max_size=9,
    ),
    st.integers(0, 9),
)
def test_pairs_that_are_far_apart_are_rightly_skipped(rows, cut):
    first, second = _boxes(*rows[:cut]), _boxes(*rows[cut:])
    assert torch.equal(_overlaps(first, second), bev_iou(first, second) > 0)


def test_the_database_has_every_annotated_object_with_its_returns(smoke_root, objects):
    number = 0
    for token in smoke_root.tokens("synthetic_train"):
        sample = read(smoke_root, token, INPUTS)
        for index in range(len(sample.boxes)):
            inside = returns_in(sample.boxes, index, sample.lidar.numpy())
            if len(inside):
                assert torch.equal(objects.returns(number), sample.lidar[inside])
                for name in ("center", "size", "yaw", "label"):
                    assert torch.equal(getattr(objects.boxes, name)[number], getattr(sample.boxes, name)[index])
                velocity = objects.boxes.velocity[number], sample.boxes.velocity[index]
                assert_close(*velocity, rtol=0, atol=0, equal_nan=True)
                number += 1
    assert number == len(objects.boxes) > 50


def test_objects_are_chosen_by_class_and_returns(objects):
    for label in range(len(CLASSES)):
        few, many = (set(objects.of_class(label, least).tolist()) for least in (1, 20))
        assert many <= few
        assert {number for number in few if len(objects.returns(number)) >= 20} == many
        assert set(objects.boxes.label[list(few)].tolist()) <= {label}


@pytest.mark.parametrize("seed", range(3))
def test_pasted_boxes_keep_their_returns_and_overlap_nothing(sample, objects, seed):
    pasted = paste(sample, ALL, objects, _rng(seed))
    new = pasted.boxes[len(sample.boxes) :]
    assert len(new) > 5
    overlap = bev_iou(new, pasted.boxes)
    overlap[:, len(sample.boxes) :].fill_diagonal_(0)
    assert (overlap == 0).all()
    counts, before = (boxes.label.bincount(minlength=len(CLASSES)) for boxes in (pasted.boxes, sample.boxes))
    assert (counts <= before.clamp(min=12)).all()
    by_place = {tuple(center.tolist()): number for number, center in enumerate(objects.boxes.center)}
    begin = 0
    for index in range(len(new)):
        returns = objects.returns(by_place[tuple(new.center[index].tolist())])
        # They are there, in their order, and nothing else is in the box.
        assert torch.equal(pasted.lidar[begin : begin + len(returns)], returns)
        assert returns_in(new, index, pasted.lidar.numpy()).tolist() == list(range(begin, begin + len(returns)))
        begin += len(returns)
    # The rest is the scene's, in its order.
    rest = {tuple(row) for row in pasted.lidar[begin:].tolist()}
    assert pasted.lidar[begin:].tolist() == [row for row in sample.lidar.tolist() if tuple(row) in rest]
    # A velocity and a class come with each.
    assert set(new.label.tolist()) <= set(objects.boxes.label.tolist())
    moved = move_bev(pasted, bev_matrix(angle=0.7, flip_y=True, shift=(1.0, 2.0, 0.5)))
    # Boxes keep their returns when the frame moves, up to those on the border.
    grown = replace(moved.boxes, size=moved.boxes.size + 1e-3)
    for index in range(len(pasted.boxes)):
        inside = set(returns_in(pasted.boxes, index, pasted.lidar.numpy()).tolist())
        assert inside <= set(returns_in(grown, index, moved.lidar.numpy()).tolist())


def test_what_is_pasted_depends_on_the_draw_alone(sample, objects):
    one, same, other = (paste(sample, ALL, objects, _rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.lidar, same.lidar)
    assert one.lidar.shape != other.lidar.shape


def _batches(smoke_root, objects, steps, until, workers=0):
    spec = AugmentSpec(paste={"counts": dict.fromkeys(CLASSES, 12), "min_points": 1, "until": until})
    samples = SampleSet(smoke_root, smoke_root.tokens("synthetic_train"), INPUTS, spec, objects=objects)
    return [(b.lidar.values.clone(), int(b.is_box.sum())) for b in training_batches(samples, 2, steps, 1, 2, workers)]


def test_nothing_is_pasted_in_the_last_part_of_a_training(smoke_root, objects):
    plain = AugmentSpec()
    samples = SampleSet(smoke_root, smoke_root.tokens("synthetic_train"), INPUTS, plain)
    without = [int(b.is_box.sum()) for b in training_batches(samples, 2, range(8), 1, 2)]
    pasted = [boxes for _, boxes in _batches(smoke_root, objects, range(8), until=0.75)]
    assert [more > less for more, less in zip(pasted, without, strict=True)] == [True] * 6 + [False] * 2
    assert pasted[6:] == without[6:]


def test_an_interrupted_training_pastes_what_it_would_have_pasted(smoke_root, objects):
    complete = _batches(smoke_root, objects, range(4), until=0.75)
    resumed = _batches(smoke_root, objects, range(2, 4), until=0.75)
    assert all(torch.equal(one[0], two[0]) for one, two in zip(complete[2:], resumed, strict=True))


@pytest.mark.slow
def test_processes_paste_the_same(smoke_root, objects):
    here, there = (_batches(smoke_root, objects, range(4), until=1.0, workers=workers) for workers in (0, 2))
    assert all(torch.equal(one[0], two[0]) for one, two in zip(here, there, strict=True))


@pytest.fixture
def parts(monkeypatch, tmp_path, smoke_root):
    """``parts()``: a database of files of two samples each in a cache that is empty; and the tokens that were read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(objects_module, "_PART", 2)
    tokens_read = []
    monkeypatch.setattr(
        objects_module, "read", lambda root, token, inputs: tokens_read.append(token) or read(root, token, inputs)
    )
    return lambda: Objects(smoke_root, smoke_root.tokens("synthetic_train"), INPUTS), tokens_read


def _content(objects):
    return [objects.returns(number).tolist() for number in range(len(objects.boxes))]


def test_a_database_is_read_once_and_goes_on_where_it_stopped(parts, objects, tmp_path):
    opened, tokens_read = parts
    asked = []
    # Six samples in three files: stopped after the first, then after the second.
    assert not opened().make(lambda: asked.append(1) or True)
    assert len(tokens_read) == 2
    assert not list(tmp_path.rglob("manifest.json"))
    made = opened()
    assert made.make()
    assert len(tokens_read) == len(set(tokens_read)) == 6
    assert opened().make()
    assert len(tokens_read) == 6
    assert _content(made) == _content(objects)


@pytest.mark.slow
def test_processes_read_the_same_database(parts, objects):
    opened, tokens_read = parts
    made = opened()
    assert made.make(workers=2)
    assert not tokens_read  # here
    assert _content(made) == _content(objects)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sweep_is_one_message_whoever_reads_it(parts, monkeypatch, workers):
    def broken(*_):
        raise InputError("sweeps/LIDAR_TOP/a.pcd.bin is truncated")

    monkeypatch.setattr(objects_module, "read", broken)
    with pytest.raises(InputError) as caught:
        parts[0]().make(workers=workers)
    assert str(caught.value) == "sweeps/LIDAR_TOP/a.pcd.bin is truncated"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_one_message(parts, monkeypatch, workers):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(objects_module, "new_arrays", full)
    with pytest.raises(
        InputError, match=r"objects to paste cannot be stored in .*/objects/\w+: No space left"
    ) as caught:
        parts[0]().make(workers=workers)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("damage", ["torn", "deleted", "manifest"])
def test_a_damaged_database_is_made_again_where_it_is_damaged(parts, objects, tmp_path, damage):
    opened, tokens_read = parts
    assert opened().make()
    if damage == "manifest":
        (path,) = tmp_path.rglob("manifest.json")
        path.write_text("{")
    else:
        path = sorted(tmp_path.rglob("*.objects"))[1]
        path.write_bytes(path.read_bytes()[:-9]) if damage == "torn" else path.unlink()
    again = opened()
    assert again.make()
    assert len(tokens_read) == (6 if damage == "manifest" else 8)
    assert _content(again) == _content(objects)


def test_other_sweeps_or_samples_are_another_database(smoke_root):
    tokens = smoke_root.tokens("synthetic_train")
    kinds = [
        Objects(smoke_root, tokens, INPUTS),
        Objects(smoke_root, tokens[:3], INPUTS),
        Objects(smoke_root, tokens, replace(INPUTS, lidar_sweeps=3)),
        Objects(smoke_root, tokens, replace(INPUTS, lidar_near=True)),
        Objects(smoke_root, tokens, replace(INPUTS, bev_frame="lidar")),
    ]
    assert len({kind._folder for kind in kinds}) == len(kinds)
    # What a sample is trained on beside that makes no other.
    assert Objects(smoke_root, tokens, replace(INPUTS, lidar_pool=10))._folder == kinds[0]._folder


def test_drawn_sweeps_are_the_keyframe_and_others_at_random(smoke_root):
    token = smoke_root.tokens("synthetic_train")[-1]
    sample = read(smoke_root, token, Inputs(lidar_sweeps=2, lidar_pool=4))
    ages = sample.lidar[:, 4].unique()
    assert len(ages) == 5
    seen = set()
    for seed in range(40):
        drawn = draw_sweeps(sample, 3, _rng(seed))
        now = drawn.lidar[:, 4].unique()
        assert len(now) == 3
        assert now[0] == 0
        for age in now:
            assert torch.equal(drawn.lidar[drawn.lidar[:, 4] == age], sample.lidar[sample.lidar[:, 4] == age])
        seen.add(tuple(now.tolist()))
    # All of the six pairs of four.
    assert len(seen) == 6
    # Fewer than are wanted all stay.
    assert torch.equal(draw_sweeps(sample, 9, _rng()).lidar, sample.lidar)


def test_bad_counts_and_what_does_not_go_together():
    with pytest.raises(ValueError, match="unknown class 'cars'; did you mean 'car'"):
        PasteSpec(counts={"cars": 2})
    with pytest.raises(ValueError, match="leave one of them out"):
        ScheduleSpec(steps=1, augment={"paste": {}}, teacher_cache={})
    assert "paste" not in AugmentSpec().model_dump()
    given = AugmentSpec(paste={})
    assert AugmentSpec.model_validate(given.model_dump(mode="json")) == given
