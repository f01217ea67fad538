"""Earlier keyframes: what stands still is in one place of the present BEV frame, whichever keyframe saw it."""

import pytest
import torch
from einops import rearrange

from detectors.batch import Inputs
from detectors.encoders.view_transform import splat
from detectors.geometry.lift import join_plans
from detectors.presets import PRESETS
from harness.data.loader import SampleSet, evaluation_batches
from harness.data.nuscenes import global_from_bev, read
from harness.study.roles import StudentSpec

HALF_A_CELL = 0.4
"""Metres, of the tiny presets."""


@pytest.fixture(scope="module")
def pairs(smoke_root):
    """Samples that have one before them, as a camera of two keyframes reads them, and the earlier one on its own."""
    found = []
    for row in smoke_root.devkit.sample:
        if row["prev"]:
            inputs = Inputs(image_size=(80, 224), keyframes=2)
            now = read(smoke_root, row["token"], inputs)
            before = read(smoke_root, row["prev"], Inputs(image_size=(80, 224)))
            found.append((now, before))
    assert len(found) >= 4
    return found


def _standing(root, token, before):
    """Centres of the annotated boxes that stand still, in the BEV frames of the sample and of the one before it."""
    found = []
    for annotation in root.devkit.get("sample", token)["anns"]:
        here = root.devkit.get("sample_annotation", annotation)
        if not here["prev"]:
            continue
        there = root.devkit.get("sample_annotation", here["prev"])
        places = [torch.tensor([*row["translation"], 1.0], dtype=torch.float64) for row in (here, there)]
        if (places[0] - places[1]).norm() > 0.01:
            continue
        frames = [torch.as_tensor(global_from_bev(root, t)).double().inverse() for t in (token, before)]
        found.append([frame @ place for frame, place in zip(frames, places, strict=True)])
    return found


def test_what_the_earlier_keyframe_saw_is_where_it_is_now(smoke_root, pairs):
    """Pixels of the earlier sample, by its own calibration, carried back by that of the present one's older views."""
    seen = 0
    moved = 0.0
    for now, before in pairs:
        cameras = len(before.views.age)
        assert len(now.views.age) == 2 * cameras
        assert torch.equal(now.views.images[cameras:], before.views.images)
        for place, earlier in _standing(smoke_root, now.token, before.token):
            for view in range(cameras):
                intrinsics = before.views.intrinsics[view].double()
                point = before.views.ego_from_camera[view].double().inverse() @ earlier
                pixel = intrinsics @ point[:3]
                column, row = pixel[:2] / pixel[2]
                if pixel[2] < 1.0 or not (0 <= column < 224 and 0 <= row < 80):
                    continue
                older = cameras + view
                ray = now.views.intrinsics[older].double().inverse() @ pixel
                back = now.views.ego_from_camera[older].double() @ torch.cat([ray, ray.new_ones(1)])
                assert (back - place)[:2].norm() < HALF_A_CELL
                seen += 1
                moved = max(moved, (earlier - place)[:2].norm().item())
    assert seen > 20
    assert moved > 2 * HALF_A_CELL  # without the ego motion it would be elsewhere


def test_each_keyframe_falls_into_a_map_of_its_own(pairs):
    preset = PRESETS["tiny_camera"]
    one = preset.camera.lift(preset.grid)
    two = one.model_copy(update={"keyframes": 2})
    samples = [now for now, _ in pairs[:2]]
    n = len(samples[0].views.age)
    h, w = one.feature_size
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2, n, 3, h, w, generator=rng)
    depth = torch.rand(2, n, one.depth_bins, h, w, generator=rng)
    views = [(sample.views.intrinsics, sample.views.ego_from_camera) for sample in samples]
    plan = join_plans([two.plan(*each) for each in views])
    together = rearrange(splat(features, depth, plan, one.grid), "(b f) c y x -> b f c y x", f=2)
    for number, part in enumerate((slice(0, n // 2), slice(n // 2, n))):
        plans = [one.plan(intrinsics[part], pose[part]) for intrinsics, pose in views]
        alone = splat(features[:, part], depth[:, part], join_plans(plans), one.grid)
        assert torch.equal(together[:, number], alone)
    assert not torch.equal(together[:, 0], together[:, 1])


def test_samples_of_a_batch_do_not_mix(smoke_root, pairs):
    spec = StudentSpec(preset="tiny_camera", keyframes=2).detector_spec
    samples = SampleSet(smoke_root, [now.token for now, _ in pairs[:2]], spec.inputs)
    torch.manual_seed(0)
    detector = spec.build().eval()
    with torch.no_grad():
        (both,) = (detector(batch).camera_bev for batch in evaluation_batches(samples, batch_size=2, workers=0))
        alone = [detector(batch).camera_bev for batch in evaluation_batches(samples, batch_size=1, workers=0)]
    assert not torch.allclose(both[0], both[1], atol=1e-3)
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_views_that_are_not_of_so_many_keyframes_are_refused(pairs):
    preset = PRESETS["tiny_camera"]
    geometry = preset.camera.lift(preset.grid).model_copy(update={"keyframes": 5})
    views = pairs[0][0].views
    with pytest.raises(ValueError, match="12 views are not those of 5 keyframes"):
        geometry.plan(views.intrinsics, views.ego_from_camera)


@pytest.mark.slow
def test_a_camera_of_two_keyframes_trains(smoke_root):
    """Its loss falls on one batch, and the older images take part in it."""
    spec = StudentSpec(preset="tiny_camera", keyframes=2).detector_spec
    assert spec.camera.keyframes == 2
    samples = SampleSet(smoke_root, smoke_root.tokens("synthetic_val")[-2:], spec.inputs)
    (batch,) = evaluation_batches(samples, batch_size=2, workers=0)
    torch.manual_seed(0)
    detector = spec.build()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        output = detector(batch)
        loss = detector.loss(output, batch)
        total = loss.heatmap + loss.boxes
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.7 * losses[0]
    older = detector.camera.join[0].weight.grad[:, spec.camera.channels :]
    assert older.abs().sum() > 0
