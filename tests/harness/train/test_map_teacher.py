"""A folder of a teacher's maps teaches what the teacher itself would, as far as augmentation can be applied to maps."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from detectors.detector import Detector
from detectors.presets import PRESETS
from harness.data.loader import SampleSet
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.jobs import worker
from harness.jobs.detector import DetectorKind
from harness.runs.folder import RunFolder
from harness.study.jobs import MapsIdentity
from harness.study.maps_folder import BOXES, METADATA, maps_hash, maps_spec
from harness.study.schedule import AugmentSpec
from harness.train.checkpoint import save_model
from harness.train.map_teacher import MapTeacher

SPEC = PRESETS["tiny_lidar"]


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return SPEC.build().eval()


@pytest.fixture
def samples(smoke_root):
    """``samples(augment)``: the training samples with a LiDAR."""
    return lambda augment=None: SampleSet(smoke_root, smoke_root.tokens("synthetic_train"), SPEC.inputs, augment)


def _metadata(bev_frame="ego"):
    ground = {"grid": SPEC.grid.model_dump(mode="json"), "bev_frame": bev_frame, "sensors": ["lidar"]}
    return {METADATA: json.dumps(ground)}


def _seen(detector: Detector, samples: SampleSet):
    batch = samples.drawn_batch(list(range(len(samples))), [0] * len(samples))
    with torch.no_grad():
        return batch, detector(batch)


@pytest.fixture
def folder(tmp_path, detector, samples):
    """The maps of a detector on the samples as they are."""
    batch, output = _seen(detector, samples())
    path = tmp_path / "maps"
    path.mkdir()
    for number, token in enumerate(batch.tokens):
        tensors = {
            "bev_low": output.bev_low[number],
            "bev_high": output.bev_high[number],
            "heatmap": output.head.heatmap[number],
            "box_codes": output.head.boxes[number],
        }
        tensors = {name: each.contiguous() for name, each in tensors.items()}
        save_file(tensors, path / f"{token}.safetensors", _metadata())
    return path


def _teacher(folder, student=SPEC):
    return MapTeacher(folder, maps_spec(folder), student, maps_hash(folder))


def test_it_says_of_the_recorded_world_what_the_detector_said(folder, detector, samples):
    batch, output = _seen(detector, samples())
    seen = _teacher(folder).observe(batch)
    for name in ("bev_low", "bev_high"):
        assert torch.equal(getattr(seen, name), getattr(output, name))
    assert torch.equal(seen.head.boxes, output.head.boxes)


def test_a_mirrored_world_has_mirrored_maps(folder, samples):
    plain = _teacher(folder).observe(_seen_batch(samples(AugmentSpec(mirror_probability=0.0))))
    mirrored = _teacher(folder).observe(_seen_batch(samples(AugmentSpec(mirror_probability=1.0))))
    assert_close(mirrored.bev_low, plain.bev_low.flip(2), atol=1e-4, rtol=1e-3)
    assert_close(mirrored.head.heatmap, plain.head.heatmap.flip(2), atol=1e-3, rtol=1e-3)
    # Heading and velocity along y are opposite.
    sign = torch.tensor([1.0, 1, 1, 1, 1, 1, -1, 1, 1, -1])[:, None, None]
    change = [0, 2, 3, 4, 5, 6, 7, 8, 9]  # the row within its cell counts from the other side
    found, expected = mirrored.head.boxes, plain.head.boxes.flip(3) * sign
    assert_close(found[:, :, change], expected[:, :, change], atol=1e-3, rtol=1e-3)
    assert_close(found[:, :, 1], 1 - expected[:, :, 1], atol=1e-3, rtol=1e-3)


def _seen_batch(samples):
    return samples.drawn_batch(list(range(len(samples))), [0] * len(samples))


def test_boxes_move_with_the_world(tmp_path, samples, smoke_root):
    """The annotations as a teacher's boxes: under any augmentation they are the batch's annotations."""
    folder = tmp_path / "boxes"
    folder.mkdir()
    recorded = _seen_batch(samples())
    for number, token in enumerate(recorded.tokens):
        boxes = recorded.boxes[number][recorded.is_box[number]]
        boxes = replace(boxes, velocity=boxes.velocity.nan_to_num(0.0), score=torch.full_like(boxes.score, 0.9))
        tensors = {f"boxes.{name}": getattr(boxes, name).contiguous() for name in BOXES}
        save_file(tensors, folder / f"{token}.safetensors", _metadata())
    augment = AugmentSpec(rotation_degrees=30.0, scale=(0.9, 1.1), flip_probability=0.5, shift=0.5)
    batch = _seen_batch(samples(augment))
    head = _teacher(folder).observe(batch).head
    on_grid = batch.is_box & SPEC.grid.contains(batch.boxes.center[..., :2])
    column, row = SPEC.grid.cells_from_metres(batch.boxes.center[..., :2]).floor().long().unbind(dim=-1)
    found = [
        head.heatmap[sample, batch.boxes.label[sample, number], row[sample, number], column[sample, number]].sigmoid()
        for sample, number in on_grid.nonzero().tolist()
    ]
    assert len(found) > 10
    # Rounding may move a centre over an edge.
    assert (torch.stack(found) > 0.89).float().mean() > 0.95


def test_missing_maps_are_nan(folder, samples):
    for file in folder.glob("*"):
        save_file({"bev_low": load_file(file)["bev_low"]}, file, _metadata())
    seen = _teacher(folder).observe(_seen_batch(samples()))
    assert seen.bev_high.isnan().all()
    assert seen.bev_low.isfinite().all()


def test_damage_is_named(folder, samples):
    teacher = _teacher(folder)
    teacher.check_unchanged()
    batch = _seen_batch(samples())
    file = folder / f"{batch.tokens[0]}.safetensors"
    tensors = load_file(file)
    tensors["bev_low"][0, 0, 0] = torch.nan
    save_file(tensors, file, _metadata())
    with pytest.raises(InputError, match=rf"{batch.tokens[0]}\.safetensors: tensor bev_low contains NaN"):
        teacher.observe(batch)
    save_file({name: each + 1 for name, each in tensors.items()}, file, _metadata())
    with pytest.raises(InputError, match="have changed since the study was planned"):
        teacher.check_unchanged()
    file.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        teacher.observe(batch)
    with pytest.raises(ValueError, match="does not say where its BEV frame lies"):
        teacher.observe(replace(batch, frames=None))


def test_a_student_learns_from_maps_as_from_the_detector(folder, detector, order, tmp_path, smoke_root):
    """Without augmentation of BEV, to the last digits."""
    schedule = {"steps": 2, "batch_size": 2, "augment": {"mirror_probability": 0.0}}
    losses = {"feature": {"weight": 1.0}, "output": {"weight": 1.0, "score_threshold": 0.01}}
    save_model(tmp_path / "teacher.safetensors", detector)
    taught_by = order(schedule=schedule)
    maps = MapsIdentity(spec=maps_spec(folder), content=maps_hash(folder))
    logs = []
    for name, changes, more in (
        (
            "detector",
            {"teacher": "x"},
            {"teacher_spec": taught_by.spec, "teacher_weights": tmp_path / "teacher.safetensors"},
        ),
        ("maps", {"maps": maps}, {"source": folder}),
    ):
        run = RunFolder(tmp_path / name)
        spec = order(schedule=schedule).spec.model_copy(update=changes | {"losses": losses})
        student = order(spec=spec, **more)
        run.write("job.json", student.model_dump(mode="json"))
        worker.run(student, run, lambda: False)
        logs.append([(line["raw/feature"], line["raw/output"]) for line in run.steps()])
    assert logs[0][0] == pytest.approx(logs[1][0], rel=1e-3)
    assert all(value > 0 for value in logs[1][0])


def test_a_sample_without_maps_stops_the_study_before_anything_is_trained(folder, order, smoke_root):
    maps = MapsIdentity(spec=maps_spec(folder), content=maps_hash(folder))
    spec = order().spec.model_copy(update={"maps": maps, "losses": {"feature": {"weight": 1.0}}})
    DetectorKind().check([(spec, folder)], smoke_root)
    missing = sorted(folder.glob("*"))[0]
    missing.unlink()
    with pytest.raises(InputError, match=f"no file of the training sample {missing.stem}"):
        DetectorKind().check([(spec, folder)], smoke_root)


def test_students_of_the_same_maps_train_side_by_side(folder, order):
    maps = MapsIdentity(spec=maps_spec(folder), content=maps_hash(folder))
    one, other = (
        order().spec.model_copy(update={"maps": maps, "losses": {"feature": {"weight": weight}}})
        for weight in (1.0, 2.0)
    )
    kind = DetectorKind()
    assert kind.lockstep_key(one) == kind.lockstep_key(other) is not None
    assert kind.lockstep_key(order().spec) is None


def test_a_student_learns_from_a_detector_of_another_frame(order, tmp_path):
    elsewhere = SPEC.model_copy(update={"bev_frame": "lidar"})
    torch.manual_seed(0)
    save_model(tmp_path / "teacher.safetensors", elsewhere.build())
    taught_by = order().spec.model_copy(update={"detector": elsewhere})
    changes = {"teacher": "x", "resample_teacher": True, "losses": {"feature": {"weight": 1.0}}}
    spec = order(schedule={"steps": 2, "batch_size": 2}).spec.model_copy(update=changes)
    student = order(spec=spec, teacher_spec=taught_by, teacher_weights=tmp_path / "teacher.safetensors")
    run = RunFolder(tmp_path / "run")
    run.write("job.json", student.model_dump(mode="json"))
    worker.run(student, run, lambda: False)
    assert all(line["raw/feature"] > 0 for line in run.steps())
    refused = order(
        spec=spec.model_copy(update={"resample_teacher": False}),
        teacher_spec=taught_by,
        teacher_weights=tmp_path / "teacher.safetensors",
    )
    with pytest.raises(InputError, match="one detector needs bev_frame ego, the other lidar"):
        DetectorKind().run(refused, refused.spec, Machine(torch.device("cpu")), run, lambda: False)
