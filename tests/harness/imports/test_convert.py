"""Weights come back from each program's layout as they were, and whatever does not fit is named."""

import pytest
import torch

from detectors.cost import example_batch
from harness.errors import InputError
from harness.imports.checkpoint import read_checkpoint
from harness.imports.convert import ORDER, Mismatch, convert
from harness.imports.sources import SOURCES, constants
from tests.harness.imports.conftest import CASES, Case

VOXELS = Case("mmdet3d", "centerpoint_voxel0075")
DET3D = Case("det3d", "centerpoint_voxel0075")
BEVDEPTH = Case("bevdepth", "bevdepth_r50")
ENDS = {"mmdet3d": "state_dict", "det3d": "state_dict", "openpcdet": "model_state", "unidistill": "model_state"}


def _imported(case, path, **more):
    return convert(read_checkpoint(path), SOURCES[case.program], case.spec, case.preset, **more)


def _equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix", ["", "module.", "model.module."])
def test_weights_come_back_to_the_last_bit(case, save, prefix):
    detector = case.detector()
    state = {prefix + name: tensor for name, tensor in case.state(detector).items()}
    found = _imported(case, save({ENDS.get(case.program, "state_dict"): state, "epoch": 20}))
    assert _equal(found.state_dict(), detector.state_dict())


def test_outputs_come_back_to_the_last_bit(case, save):
    detector = case.detector()
    found = _imported(case, save({"state_dict": case.state(detector)}))
    batch = example_batch(case.spec, 1)
    with torch.no_grad():
        outputs = [model.head(model.neck(model.encode(batch).bev_low)) for model in (detector, found)]
    assert torch.equal(outputs[0].heatmap, outputs[1].heatmap)
    assert torch.equal(outputs[0].boxes, outputs[1].boxes)
    assert outputs[0].heatmap.isfinite().all()


def test_no_program_has_our_names(case):
    """So that a round trip shows anything."""
    ours = case.detector().state_dict()
    theirs = case.state(case.detector())
    assert len(theirs) == len(ours)
    assert len(theirs.keys() - ours.keys()) > len(ours) / 2


def test_each_missing_extra_and_misshapen_tensor_is_named(save):
    state = VOXELS.state(VOXELS.detector())
    del state["pts_backbone.blocks.1.3.weight"]
    state["pts_bbox_head.task_heads.0.reg.1.bias"] = torch.zeros(3)
    state["pts_neck.deblocks.2.0.weight"] = torch.zeros(1, 2)
    with pytest.raises(Mismatch, match=r"1 missing, 1 extra, 1 misshapen of its \d+ tensors") as caught:
        _imported(VOXELS, save({"state_dict": state}))
    rows = {(each.what, each.theirs, each.ours, each.detail) for each in caught.value.misfits}
    assert rows == {
        ("missing", "pts_backbone.blocks.1.3.weight", "neck.blocks.1.3.weight", ""),
        ("extra", "pts_neck.deblocks.2.0.weight", "", "[1, 2]"),
        ("misshapen", "pts_bbox_head.task_heads.0.reg.1.bias", "head.tasks.0.reg.3.bias", "[3] there, [2] needed"),
    }


def test_a_bias_before_a_norm_is_folded_into_it(save):
    detector = DET3D.detector()
    state = DET3D.state(detector)
    for conv, norm in (
        ("backbone.conv2.3.conv1", "backbone.conv2.3.bn1"),
        ("bbox_head.shared_conv.0", "bbox_head.shared_conv.1"),
        ("bbox_head.tasks.1.hm.0", "bbox_head.tasks.1.hm.1"),
    ):
        bias = torch.arange(len(state[f"{norm}.running_mean"])) / 32
        state[f"{conv}.bias"] = bias
        state[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] + bias
    assert _equal(_imported(DET3D, save({"state_dict": state})).state_dict(), detector.state_dict())


def test_a_folded_bias_changes_nothing_that_comes_out(rng):
    """By the definition: normalising x + bias by a mean is normalising x by the mean less the bias."""
    norm = torch.nn.BatchNorm2d(4).eval()
    norm.running_mean.copy_(torch.randn(4, generator=rng))
    x, bias = torch.randn(2, 4, 3, 3, generator=rng), torch.randn(4, generator=rng)
    before = norm(x + bias[:, None, None])
    norm.running_mean -= bias
    torch.testing.assert_close(norm(x), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("program", ["det3d", "openpcdet"])
def test_boxes_turn_to_our_convention(program, save):
    """The last convolution's bias says the box of every cell, in the words of the program."""
    case = Case(program, "centerpoint_voxel0075")
    state = case.state(case.detector())
    tasks = {"det3d": "bbox_head.tasks", "openpcdet": "dense_head.heads_list"}[program]
    last = {"det3d": "3", "openpcdet": "1"}[program]
    yaw, length, width = 0.7, 4.0, 2.0
    theirs = -yaw - torch.pi / 2  # det3d's rot
    said = {
        "det3d": {"dim": [width, length, 1.5], "rot": [torch.tensor(theirs).sin(), torch.tensor(theirs).cos()]},
        "openpcdet": {"dim": [length, width, 1.5], "rot": [torch.tensor(yaw).cos(), torch.tensor(yaw).sin()]},
    }[program]
    state[f"{tasks}.0.dim.{last}.bias"] = torch.tensor(said["dim"]).log()
    state[f"{tasks}.0.rot.{last}.bias"] = torch.tensor(said["rot"])
    head = _imported(case, save({"state_dict": state})).head
    dim, rot = (head.tasks[0][name][3].bias.detach() for name in ("dim", "rot"))
    torch.testing.assert_close(dim.exp(), torch.tensor([length, width, 1.5]))
    torch.testing.assert_close(torch.atan2(rot[0], rot[1]), torch.tensor(yaw))


def test_intensities_of_255_are_folded_in(save):
    """A network that was fed 0 to 255 says of 0 to 1 what it said then."""
    for preset, ours, axis in (
        ("centerpoint_voxel0075", "lidar.stem.conv.weight", -1),
        ("centerpoint_pillar02", "lidar.points.linears.0.weight", 1),
    ):
        case = Case("mmdet3d", preset)
        detector = case.detector()
        path = save({"state_dict": case.state(detector)})
        as_it_is = _imported(case, path, intensity=1.0).state_dict()[ours]
        wanted = detector.state_dict()[ours].clone()
        wanted.select(axis, 3).div_(255)
        torch.testing.assert_close(as_it_is, wanted)


@pytest.mark.parametrize(
    ("version", "convention"), [("1.4.0", "lwh"), ("1.0.0rc4", "lwh"), ("0.17.1", "wlh"), (None, "lwh")]
)
def test_mmdetections_version_tells_the_convention_of_boxes(version, convention, save):
    detector = VOXELS.detector()
    state = VOXELS.state(detector)
    meta = {} if version is None else {"mmdet3d_version": version}
    found = _imported(VOXELS, save({"state_dict": state, "meta": meta})).state_dict()
    same = torch.equal(found["head.tasks.0.dim.3.bias"], detector.state_dict()["head.tasks.0.dim.3.bias"])
    assert same == (convention == "lwh")
    overridden = _imported(VOXELS, save({"state_dict": state, "meta": meta}), boxes="lwh").state_dict()
    assert _equal(overridden, detector.state_dict())


def _with_constants(case, **changes):
    spec = case.spec
    state = case.state(case.detector())
    prefix = SOURCES[case.program].constants
    depths = spec.camera.depth_bins
    rows, columns = spec.camera.lift(spec.grid).feature_size
    frustum = torch.zeros(depths, rows, columns, 4)
    low, high = spec.camera.depth_range
    frustum[..., 2] = torch.linspace(low, high, depths + 1)[:-1, None, None]
    frustum[..., 0] = torch.linspace(0, spec.camera.image_size[1] - 1, columns)
    frustum[..., 1] = torch.linspace(0, spec.camera.image_size[0] - 1, rows)[:, None]
    names = ("dx", "bx", "nx") if case.program == "bevdet" else ("voxel_size", "voxel_coord", "voxel_num")
    stored = {name: constants(spec)[name] for name in names} | {"frustum": frustum}
    return state | {f"{prefix}{name}": value for name, value in (stored | changes).items()}


@pytest.mark.parametrize("case", [Case("bevdet", "bevdet_r50"), BEVDEPTH], ids=lambda case: case.program)
def test_what_a_camera_keeps_of_its_grid_is_no_weight(case, save):
    detector = case.detector()
    found = _imported(case, save({"state_dict": _with_constants(case)}))
    assert _equal(found.state_dict(), detector.state_dict())


def test_another_range_is_refused(save):
    size = constants(BEVDEPTH.spec)["voxel_size"]
    state = _with_constants(BEVDEPTH, voxel_size=size + torch.tensor([0.2, 0.2, 0.0]))
    with pytest.raises(InputError, match=r"another range: backbone\.voxel_size \(cells, metres\) is \[1, 1, 8\] there"):
        _imported(BEVDEPTH, save({"state_dict": state}))
    frustum = _with_constants(BEVDEPTH)["backbone.frustum"]
    state = _with_constants(BEVDEPTH, frustum=frustum + 1)
    with pytest.raises(InputError, match=r"another range: backbone\.frustum \(bins, rows and columns"):
        _imported(BEVDEPTH, save({"state_dict": state}))


CONFIG = """
point_cloud_range = [-6.4, -8.0, -5.0, 6.4, 8.0, 3.0]
model = dict(pts_bbox_head=dict(tasks=[
    dict(num_class=1, class_names=['car']),
    dict(num_class=2, class_names=['truck', 'construction_vehicle']),
    dict(num_class=2, class_names=['bus', 'trailer']),
    dict(num_class=1, class_names=['barrier']),
    dict(num_class=2, class_names=['motorcycle', 'bicycle']),
    dict(num_class=2, class_names=['pedestrian', 'traffic_cone']),
]))
"""


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"CLASSES": ["Car", "Pedestrian"]}, "has other classes: Car, Pedestrian; allowed: car, truck"),
        ({"dataset_meta": {"classes": ["Car"]}}, "has other classes: Car"),
        ({"CLASSES": [*reversed(ORDER)]}, "has another order of classes: traffic_cone, pedestrian"),
        ({"config": CONFIG.replace("-6.4", "-54.0")}, r"another range: \[-54\.0, -8\.0"),
        ({"config": "voxel_generator=dict(range=[-6.4, -8, -5, 6.4, 8, 4])"}, "another range"),
        ({"config": CONFIG.replace("'bus', 'trailer'", "'trailer', 'bus'")}, "another order of tasks: .*trailer, bus"),
    ],
)
def test_what_a_file_says_of_itself_is_heard(meta, message, save):
    state = VOXELS.state(VOXELS.detector())
    assert _imported(VOXELS, save({"state_dict": state, "meta": {"config": CONFIG, "CLASSES": list(ORDER)}}))
    with pytest.raises(InputError, match=message):
        _imported(VOXELS, save({"state_dict": state, "meta": meta}))


def test_another_order_of_tasks_shows_in_the_shapes(save):
    state = VOXELS.state(VOXELS.detector())
    swapped = {}
    for name, tensor in state.items():
        new = name.replace("task_heads.0.", "task_heads.X.").replace("task_heads.1.", "task_heads.0.")
        swapped[new.replace("task_heads.X.", "task_heads.1.")] = tensor
    with pytest.raises(Mismatch, match=r"other classes or another order of tasks than \[car\], \[truck"):
        _imported(VOXELS, save({"state_dict": swapped}))


def test_another_network_is_told_as_such(save):
    for other in (Case("openpcdet", "centerpoint_voxel0075"), BEVDEPTH):
        state = other.state(other.detector())
        with pytest.raises(Mismatch, match="most tensors do not fit, so that it is of another network or another"):
            _imported(VOXELS, save({"state_dict": state}))


def test_another_frame_is_refused(save):
    path = save({"state_dict": VOXELS.state(VOXELS.detector())})
    spec = VOXELS.spec.model_copy(update={"bev_frame": "ego"})
    with pytest.raises(InputError, match=r"weights of mmdet3d are in the lidar frame.*--set bev_frame=lidar"):
        convert(read_checkpoint(path), SOURCES["mmdet3d"], spec, "a preset")


def test_damaged_numbers_are_named(save):
    state = VOXELS.state(VOXELS.detector())
    state["pts_neck.deblocks.0.1.bias"][0] = torch.nan
    with pytest.raises(InputError, match=r"tensor pts_neck\.deblocks\.0\.1\.bias contains NaN"):
        _imported(VOXELS, save({"state_dict": state}))


def test_a_count_of_batches_may_be_missing_or_beside(save):
    case = Case("openpcdet", "centerpoint_voxel0075")
    detector = case.detector()
    state = {name: each for name, each in case.state(detector).items() if not name.endswith("num_batches_tracked")}
    state["global_step"] = torch.tensor([7])
    assert _equal(_imported(case, save({"model_state": state})).state_dict(), detector.state_dict())


def test_every_program_has_a_case():
    assert {case.program for case in CASES} == set(SOURCES)
