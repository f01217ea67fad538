"""A folder of maps is described by its files; what does not fit is one message with the file and what is allowed."""

import json

import pytest
import torch
from safetensors.torch import save_file

from detectors.geometry.boxes import CLASSES
from detectors.geometry.grid import BevGrid
from distill.maps import MapsSpec
from harness.errors import InputError
from harness.study.load import load_study
from harness.study.maps_folder import BOXES, METADATA, check_maps, maps_hash, maps_spec
from harness.study.plan import plan_study

GRID = BevGrid(x_range=(-16.0, 16.0), y_range=(-16.0, 16.0), z_range=(-3.0, 5.0), cell=0.8)
GROUND = {"grid": GRID.model_dump(mode="json"), "bev_frame": "ego", "sensors": ["lidar"]}
FEATURES = {"bev_low": torch.zeros(5, 40, 40), "bev_high": torch.zeros(7, 40, 40)}
HEAD = {"heatmap": torch.zeros(10, 40, 40), "box_codes": torch.zeros(6, 10, 40, 40)}
LIST = {
    f"boxes.{name}": torch.zeros(3, *shape, dtype=torch.long if name == "label" else torch.float)
    for name, shape in BOXES.items()
}
STUDY = """\
schedule: {steps: 5}
teachers:
  theirs: {maps: %s}
students:
  camera: {preset: tiny_camera}
paths: [theirs -> camera]
losses:
  feature: {weight: 2.0, adapter: conv3x3}
arms:
  both: [feature]
"""


@pytest.fixture
def write(tmp_path):
    """``write(tensors, token, **changes)``: a file of maps in the folder that comes back."""

    def make(tensors=None, token="a", **changes):
        written = {**GROUND, **changes}
        metadata = {METADATA: json.dumps({key: value for key, value in written.items() if value is not None})}
        save_file(FEATURES if tensors is None else tensors, tmp_path / f"{token}.safetensors", metadata)
        return tmp_path

    return make


@pytest.fixture
def load(tmp_path, write):
    """``load(*overrides, text=...)``: a study whose teacher is the folder of maps."""

    def make(*overrides, text=STUDY):
        file = tmp_path / "study.yaml"
        file.write_text(text % tmp_path)
        return load_study(file, overrides)

    write(FEATURES | HEAD)
    return make


def test_a_file_says_what_its_maps_are_like(write):
    folder = write(FEATURES | HEAD, classes=list(CLASSES))
    expected = {"grid": GRID, "bev_frame": "ego", "sensors": ("lidar",), "low_channels": 5, "high_channels": 7}
    assert maps_spec(folder) == MapsSpec(**expected, boxes="maps")
    assert maps_spec(write(LIST)).boxes == "list"
    spec = maps_spec(write({"bev_high": FEATURES["bev_high"].half()}))
    assert (spec.low_channels, spec.high_channels, spec.boxes, spec.head) == (None, 7, None, None)
    # A finer map of the same ground.
    assert maps_spec(write({"bev_low": torch.zeros(5, 160, 160)})).low_channels == 5


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        ({}, {}, "contains no tensor"),
        ({"bev_lo": torch.zeros(1, 40, 40)}, {}, "unknown tensor 'bev_lo'; did you mean 'bev_low'?"),
        ({"bev_low": torch.zeros(5, 40, 41)}, {}, r"tensor bev_low is \[5, 40, 41\]; expected channels, 40 rows"),
        ({"bev_low": torch.zeros(5, 40, 40).long()}, {}, "tensor bev_low is I64; allowed: F16"),
        ({"heatmap": HEAD["heatmap"]}, {}, "tensor box_codes is missing beside heatmap"),
        (HEAD | {"heatmap": torch.zeros(9, 40, 40)}, {}, r"heatmap is \[9, 40, 40\]; expected \[10, 40, 40\]"),
        (HEAD | LIST, {}, "both heatmap and boxes.center"),
        ({k: v for k, v in LIST.items() if k != "boxes.yaw"}, {}, "tensor boxes.yaw is missing"),
        (LIST | {"boxes.yaw": torch.zeros(2)}, {}, r"tensor boxes.yaw is \[2\]; expected \[3\]"),
        (None, {"grid": None}, "metadata crossbev_maps: grid: Field required"),
        (None, {"bev_frame": "camera"}, "bev_frame: Input should be 'ego' or 'lidar'"),
        (None, {"sensors": []}, "sensors"),
        (None, {"classes": list(reversed(CLASSES))}, "its classes are .*; allowed: car, truck"),
        (None, {"gird": 1}, "unknown key 'gird'; did you mean 'grid'?"),
        (None, {"grid": GROUND["grid"] | {"cell": 0.7}}, "not a whole number of cells"),
    ],
)
def test_what_does_not_fit_is_named(write, tensors, changes, message):
    folder = write(tensors, **changes)
    with pytest.raises(InputError, match=f"a.safetensors.*{message}"):
        maps_spec(folder)


def test_a_folder_without_maps_is_named(tmp_path):
    with pytest.raises(InputError, match=r"not a folder with a \.safetensors file"):
        maps_spec(tmp_path)
    with pytest.raises(InputError, match=r"missing is not a folder"):
        maps_spec(tmp_path / "missing")


def test_a_file_without_metadata_or_torn_is_named(tmp_path, write):
    save_file(FEATURES, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors: the metadata need JSON with grid.*no such key"):
        maps_spec(tmp_path)
    whole = (write() / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.safetensors cannot be read as safetensors"):
        maps_spec(tmp_path)


def test_every_sample_needs_a_file_of_the_same_kind(write):
    folder = write()
    spec = maps_spec(folder)
    check_maps(folder, spec, ["a"])
    with pytest.raises(InputError, match=r"no file of the training sample b: b\.safetensors is missing"):
        check_maps(folder, spec, ["a", "b"])
    write(token="b", bev_frame="lidar")
    with pytest.raises(InputError, match=r'b\.safetensors: bev_frame is "lidar" here, "ego" in other files'):
        check_maps(folder, spec, ["a", "b"])


def test_the_hash_tells_of_other_values_names_and_files(write, tmp_path, rng):
    first = maps_hash(write())
    assert first == maps_hash(tmp_path)
    changed = torch.randn(5, 40, 40, generator=rng)
    assert (other := maps_hash(write({"bev_low": changed, "bev_high": FEATURES["bev_high"]}))) != first
    write(token="b")
    assert maps_hash(tmp_path) not in (first, other)
    (tmp_path / "._c.safetensors").write_bytes(b"a Mac's")
    before = maps_hash(tmp_path)
    (tmp_path / "._c.safetensors").unlink()
    assert maps_hash(tmp_path) == before


def test_maps_make_a_job_of_the_student_alone(load):
    plan = plan_study(load(), "data", lambda: 6)
    assert sorted(row.role for row in plan.rows) == ["baseline", "student"]
    (student,) = (row for row in plan.rows if row.role == "student")
    assert student.published_as == "lidar->camera"
    job = plan.jobs[student.job]
    assert job.spec.teacher is None
    assert job.spec.maps.spec.low_channels == 5
    assert job.source is not None
    assert "maps" not in plan.jobs[student.baseline].spec.model_dump(mode="json")


def test_other_maps_are_another_job(load, write, rng):
    before = plan_study(load(), "data", lambda: 6)
    write({**FEATURES, **HEAD, "bev_low": torch.randn(5, 40, 40, generator=rng)})
    assert set(plan_study(load(), "data", lambda: 6).jobs) ^ set(before.jobs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teachers.theirs.preset=tiny_lidar"], "theirs: maps stand for a detector that is not here, so that preset"),
        (["teachers.theirs.trained=false"], "so that trained has no effect"),
        (["teachers.theirs.maps=nowhere"], r"teachers\.theirs\.maps: nowhere is not a folder"),
        (["losses={depth: {weight: 1.0}}", "arms={both: [depth]}"], "needs a teacher with a LiDAR"),
        (["arms={both: [feature, warm_start]}"], "cannot start with the weights of a folder of maps"),
    ],
)
def test_what_a_folder_of_maps_cannot_do_is_refused(load, overrides, message):
    with pytest.raises(InputError, match=message):
        load(*overrides)


@pytest.mark.parametrize(
    ("loss", "tensors", "message"),
    [
        ("feature: {weight: 1.0, adapter: conv3x3, level: low}", {"bev_high": FEATURES["bev_high"]}, "no bev_low"),
        ("response: {weight: 1.0}", FEATURES, "has no heatmap and box_codes"),
        ("response: {weight: 1.0}", LIST, "has boxes, but no heatmap and box_codes"),
        ("output: {weight: 1.0}", FEATURES, "neither boxes nor heatmap"),
    ],
)
def test_a_loss_is_refused_what_the_folder_does_not_have(load, write, loss, tensors, message):
    write(tensors)
    with pytest.raises(InputError, match=message):
        load("losses={" + loss + "}", "arms={both: [" + loss.partition(":")[0] + "]}")


@pytest.mark.parametrize("changes", [{"bev_frame": "lidar"}, {"grid": GROUND["grid"] | {"cell": 1.6}}])
def test_other_ground_is_refused_unless_it_is_resampled(load, write, changes):
    cells = 20 if "grid" in changes else 40
    write({"bev_low": torch.zeros(5, cells, cells), "bev_high": torch.zeros(7, cells, cells)}, **changes)
    with pytest.raises(InputError, match=r"different (grids|BEV frames): .*teachers\.theirs\.resample: true brings"):
        load()
    assert load("teachers.theirs.resample=true").teachers["theirs"].resample


def test_a_detector_on_other_ground_is_refused_unless_it_is_resampled(load):
    text = STUDY.replace("{maps: %s}", "{preset: tiny_lidar, set: {bev_frame: lidar}}") + "# %s"
    with pytest.raises(InputError, match=r"different BEV frames: 'lidar', 'ego'; teachers\.theirs\.resample"):
        load(text=text)
    plan = plan_study(load("teachers.theirs.resample=true", text=text), "data", lambda: 6)
    (student,) = (plan.jobs[row.job].spec for row in plan.rows if row.role == "student")
    assert student.resample_teacher
    assert student.compared_with is None
    # On the same ground the option changes nothing, not even the job.
    same = STUDY.replace("{maps: %s}", "{preset: tiny_lidar}") + "# %s"
    jobs = [
        set(plan_study(load(*more, text=same), "d", lambda: 6).jobs) for more in ((), ["teachers.theirs.resample=true"])
    ]
    assert jobs[0] == jobs[1]
    with pytest.raises(InputError, match="weights of a detector with other BEV frames"):
        load("teachers.theirs.resample=true", "arms={both: [warm_start]}", text=text)
