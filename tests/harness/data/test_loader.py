"""Batches are a pure function of seed and step, every sample gets its turn, and processes change nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.batch import Inputs
from detectors.presets import PRESETS, TINY_PRESETS
from harness.data import loader
from harness.data.loader import SampleSet, batch_indices, evaluation_batches, training_batches
from harness.errors import InputError
from harness.study.schedule import AugmentSpec


@given(samples=st.integers(1, 30), batch_size=st.integers(1, 12), seed=st.integers(0, 2**60), rounds=st.integers(1, 4))
def test_each_round_draws_every_sample_once(samples, batch_size, seed, rounds):
    steps = -(-samples * rounds // batch_size)
    drawn = [index for step in range(steps) for index in batch_indices(samples, batch_size, step, seed)]
    for begin in range(0, samples * rounds, samples):
        assert sorted(drawn[begin : begin + samples]) == list(range(samples))


def test_order_depends_on_seed_and_round():
    first, second = (batch_indices(50, 50, step, seed=3) for step in (0, 1))
    assert first != second
    assert first != sorted(first)
    assert first == batch_indices(50, 50, 0, seed=3)
    assert first != batch_indices(50, 50, 0, seed=4)


@pytest.fixture
def samples(smoke_root):
    """A set of the training split with all sensors: ``samples(augmentation)``."""
    inputs = Inputs(image_size=(32, 48), lidar_sweeps=2, radar_sweeps=2)

    def make(augmentation=None):
        return SampleSet(smoke_root, smoke_root.tokens("synthetic_train"), inputs, augmentation)

    return make


def _content(batches):
    return [
        (
            b.tokens,
            *(t.clone() for t in (b.views.images, b.views.intrinsics, b.lidar.values, b.radar.values, b.boxes.yaw)),
        )
        for b in batches
    ]


def _same(one, other):
    return all(
        a[0] == b[0] and all(torch.equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
def test_workers_change_no_batch(samples):
    state = torch.get_rng_state()
    drawn = [_content(training_batches(samples(AugmentSpec()), 2, range(5), 1, 2, workers)) for workers in (0, 1, 2)]
    assert len(drawn[0]) == 5
    assert _same(drawn[0], drawn[1])
    assert _same(drawn[0], drawn[2])
    assert not _same(drawn[0], _content(training_batches(samples(AugmentSpec()), 2, range(5), 1, 3)))
    in_order = [_content(evaluation_batches(samples(), 4, workers)) for workers in (0, 2)]
    assert _same(*in_order)
    assert [token for batch in in_order[0] for token in batch[0]] == samples().tokens
    # Nor does loading draw from the generator that weights and dropout use.
    assert torch.equal(torch.get_rng_state(), state)


def test_a_resumed_training_goes_on_with_the_same_batches(samples):
    whole = _content(training_batches(samples(AugmentSpec()), 2, range(6), 1, 2))
    resumed = _content(training_batches(samples(AugmentSpec()), 2, range(4, 6), 1, 2))
    assert _same(whole[4:], resumed)


def test_a_training_sees_sweeps_that_its_draw_chooses(smoke_root):
    tokens = smoke_root.tokens("synthetic_train")
    pool = Inputs(lidar_sweeps=2, lidar_pool=4)

    def ages(steps, seed=2):
        batches = training_batches(SampleSet(smoke_root, tokens, pool, AugmentSpec()), 3, steps, 1, seed)
        return [[each[:, 4].unique().tolist() for each in _by_sample(batch.lidar)] for batch in batches]

    drawn = ages(range(8))
    assert {len(each) for batch in drawn for each in batch} == {2}
    assert {each[0] for batch in drawn for each in batch} == {0}
    assert len({each[1] for batch in drawn for each in batch}) > 2
    assert ages(range(5, 8)) == drawn[5:]
    assert ages(range(8), seed=3) != drawn


def _by_sample(points):
    return [points.values[points.sample == index] for index in points.sample.unique()]


def test_samples_of_a_set_with_augmentation_are_not_had_as_they_are(samples):
    with pytest.raises(RuntimeError, match="with augmentation"):
        samples(AugmentSpec()).plain(0)
    with pytest.raises(RuntimeError, match="with augmentation"):
        next(evaluation_batches(samples(AugmentSpec()), 2))


def test_what_is_kept_in_memory_is_read_once_and_never_beyond_the_limit(samples, monkeypatch):
    read_tokens = []
    read = loader.read
    monkeypatch.setattr(
        loader, "read", lambda root, token, *rest: read_tokens.append(token) or read(root, token, *rest)
    )
    kept = samples()
    for _ in range(3):
        assert kept.plain(0).token == kept.tokens[0]
    assert read_tokens == [kept.tokens[0]]
    tight = samples()
    tight.cache.limit = 10
    for _ in range(3):
        tight.plain(1)
    assert read_tokens[1:] == [kept.tokens[1]] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_one_message_whoever_reads_it(samples, monkeypatch, workers):
    def broken(*_):
        raise InputError("samples/CAM_FRONT/a.jpg is truncated")

    monkeypatch.setattr(loader, "read", broken)
    with pytest.raises(InputError) as caught:
        list(loader.evaluation_batches(samples(), 2, workers))
    assert str(caught.value) == "samples/CAM_FRONT/a.jpg is truncated"


@pytest.mark.parametrize("augmented", [False, True])
def test_a_batch_brings_the_plan_that_the_detector_would_make(smoke_root, augmented):
    spec = PRESETS["tiny_camera"]
    samples = SampleSet(
        smoke_root, smoke_root.tokens("synthetic_train"), spec.inputs, AugmentSpec() if augmented else None
    )
    batches = training_batches(samples, 2, range(1), 1, 2) if augmented else evaluation_batches(samples, 2)
    batch = next(iter(batches))
    camera = spec.build().camera
    ahead, here = batch.lifts[camera.geometry], camera._plan(batch.views)
    assert ahead.cells == here.cells
    assert torch.equal(ahead.cell, here.cell)


def test_a_gpu_gets_no_plan_and_a_cpu_does(smoke_root):
    inputs = PRESETS["tiny_camera"].inputs
    assert inputs.read_for(torch.device("cpu")) == inputs
    for_gpu = inputs.read_for(torch.device("cuda", 0))
    assert for_gpu.sensors == inputs.sensors
    assert not SampleSet(smoke_root, smoke_root.tokens("synthetic_val"), for_gpu).plain(0).lifts


def test_without_augmentation_a_plan_is_made_once(smoke_root):
    samples = SampleSet(smoke_root, smoke_root.tokens("synthetic_val"), PRESETS["tiny_camera"].inputs)
    assert samples.plain(0).lifts
    assert samples.plain(0) is samples.plain(0)


@pytest.mark.parametrize("preset", sorted(TINY_PRESETS))
def test_every_detector_runs_on_a_real_frame(real_root, preset):
    spec = PRESETS[preset]
    (batch,) = evaluation_batches(SampleSet(real_root, real_root.tokens("mini_train"), spec.inputs), 1)
    detector = spec.build().eval()
    with torch.no_grad():
        output = detector(batch)
    assert output.bev_low.shape[2:] == (spec.grid.rows, spec.grid.columns)
    # Sensors saw something, and what came of it is finite.
    assert output.bev_low.any()
    assert all(map_.isfinite().all() for map_ in (output.bev_low, output.head.heatmap, output.head.boxes))
    (boxes,) = detector.decode(output)
    assert boxes.center.isfinite().all()
