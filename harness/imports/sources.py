"""Sources: the programs whose checkpoints can be imported, with their names and conventions.

The facts are those of the repositories' code: mmdetection3d v1, CenterPoint (det3d), OpenPCDet, BEVDet of 2022,
BEVDepth and UniDistill.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detectors.detector import DetectorSpec
from detectors.encoders.voxel_net import VoxelNetSpec
from detectors.geometry.grid import BevFrame
from harness.imports.rules import SAME, SPARSE, Change, Rule, halves_exchanged, resampling, rows, scaled_input

SourceName = Literal["mmdet3d", "det3d", "openpcdet", "bevdet", "bevdepth", "unidistill"]
Boxes = Literal["lwh", "wlh", "lwh_cos_first"]
"""Whether a head says length or width first, and whether yaw counts counter-clockwise from x as here, or ("wlh") is
-yaw - pi / 2 as in det3d and in mmdetection3d before 1.0. OpenPCDet has the cosine before the sine."""
RAW_INTENSITY = 255.0
"""Theirs divided by ours."""
_INTENSITY = 3
"""Which value of a point it is."""
_NORM = "(weight|bias|running_mean|running_var|num_batches_tracked)"


@dataclass(frozen=True)
class Source:
    """One program."""

    name: SourceName
    frames: tuple[BevFrame, ...]
    """BEV frames in which its detectors are trained."""
    boxes: Boxes
    """Of its head, if the file does not tell."""
    rules: Callable[[DetectorSpec, Boxes, float], list[Rule]]
    """For a detector, by the convention of boxes and the scale of intensities."""
    constants: str = ""
    """Prefix of what it keeps of its grid and its depth bins beside the weights; none without."""
    ignored: tuple[str, ...] = ()
    """Patterns of names that are no weights."""


def _norm(ours: str, theirs: str, conv: str | None = None) -> list[Rule]:
    """The five tensors of a batch norm, after a convolution that may have a bias there."""
    last = len(re.compile(ours).groupindex) + re.compile(ours).groups + 1
    bias = None if conv is None else f"{conv}.bias"
    return [
        Rule(f"{ours}\\.running_mean", f"{theirs}.running_mean", bias=bias),
        Rule(f"{ours}\\.{_NORM}", f"{theirs}.\\{last}"),
    ]


def _unit(ours: str, theirs: str, conv: str = "0", norm: str = "1", change: Change = SAME) -> list[Rule]:
    """A convolution and its batch norm; ours are in one row of layers."""
    last = re.compile(ours).groups + 1
    return [
        Rule(f"{ours}\\.0\\.(weight|bias)", f"{theirs}.{conv}.\\{last}", change),
        *_norm(f"{ours}\\.1", f"{theirs}.{norm}", f"{theirs}.{conv}"),
    ]


def _sparse_unit(ours: str, theirs: str, conv: str = "0", norm: str = "1", change: Change = SPARSE) -> list[Rule]:
    last = re.compile(ours).groups + 1
    return [
        Rule(f"{ours}\\.conv\\.(weight|bias)", f"{theirs}.{conv}.\\{last}", change),
        *_norm(f"{ours}\\.norm", f"{theirs}.{norm}", f"{theirs}.{conv}"),
    ]


def _image_backbone(theirs: str) -> list[Rule]:
    return [Rule(r"camera\.image\.backbone\.(.+)", theirs + r".\1")]


def _image_second_fpn(theirs: str) -> list[Rule]:
    return _unit(r"camera\.image\.lateral\.(\d)", theirs + r".deblocks.\1", change=resampling(transposed=True))


def _pillars(theirs: str, intensity: float) -> list[Rule]:
    first = scaled_input(_INTENSITY, intensity, axis=1)
    return [
        Rule(r"lidar\.points\.linears\.0\.weight", f"{theirs}.pfn_layers.0.linear.weight", first),
        Rule(r"lidar\.points\.linears\.(\d)\.weight", theirs + r".pfn_layers.\1.linear.weight"),
        *_norm(r"lidar\.points\.norms\.(\d)", theirs + r".pfn_layers.\1.norm"),
    ]


def _stem(theirs: str, intensity: float) -> list[Rule]:
    return _sparse_unit(r"lidar\.stem", theirs, change=scaled_input(_INTENSITY, intensity, axis=-1, change=SPARSE))


def _blocks(theirs: Callable[[int, int], str], levels: int, blocks: int) -> list[Rule]:
    """Residual blocks of sparse convolutions."""
    result = []
    for level in range(levels):
        for block in range(blocks):
            ours, there = rf"lidar\.levels\.{level}\.{block}", theirs(level, block)
            for part in (1, 2):
                result += [
                    Rule(rf"{ours}\.conv{part}\.(weight|bias)", rf"{there}.conv{part}.\1", SPARSE),
                    *_norm(rf"{ours}\.norm{part}", f"{there}.bn{part}", f"{there}.conv{part}"),
                ]
    return result


def _depth(spec: DetectorSpec) -> tuple[int, int]:
    """Levels, and blocks of each, of a sparse residual encoder."""
    lidar = spec.lidar
    return (len(lidar.widths), lidar.blocks) if isinstance(lidar, VoxelNetSpec) else (0, 0)


def _second_neck(blocks: str, deblocks: str, shift: int, transposed: bool) -> list[Rule]:
    """SECOND's neck.

    Args:
        blocks: Their name of the stages.
        deblocks: Their name of what brings these to one resolution.
        shift: Layers before the first convolution of a stage there, such as padding.
        transposed: Whether a 1x1 convolution of the deblocks is a transposed one.
    """

    def layer(match: re.Match[str]) -> str:
        return f"{blocks}.{match[1]}.{int(match[2]) + shift}.{match[3]}"

    return [
        Rule(r"neck\.blocks\.(\d+)\.(\d+)\.(.+)", layer),
        *_unit(r"neck\.deblocks\.(\d+)", deblocks + r".\1", change=resampling(transposed)),
    ]


_BRANCHES = ("reg", "height", "dim", "rot", "vel", "heatmap", "iou")


def _head(
    shared: str,
    tasks: str,
    boxes: Boxes,
    names: dict[str, str] | None = None,
    first: tuple[str, str] = ("0", "1"),
    shared_parts: tuple[str, str] = ("0", "1"),
    last: str = "3",
) -> list[Rule]:
    """CenterPoint's head.

    Args:
        shared: Their name of the shared convolution.
        tasks: Their name of the list of tasks.
        boxes: The convention of their boxes.
        names: Their names of branches, where these are not det3d's.
        first: Of a branch, their names of the convolution and the norm.
        shared_parts: The same of the shared convolution.
        last: Of a branch, their name of the last convolution.
    """
    changes = dict.fromkeys(_BRANCHES, SAME)
    if boxes == "wlh":
        # yaw = -rot - pi / 2: its sine is -cos(rot), its cosine is -sin(rot).
        changes |= {"dim": rows((1, 0, 2)), "rot": rows((1, 0), sign=-1.0)}
    elif boxes == "lwh_cos_first":
        changes |= {"rot": rows((1, 0))}
    result = _unit(r"head\.shared", shared, *shared_parts)
    for branch in _BRANCHES:
        there = (names or {"heatmap": "hm"}).get(branch, branch)
        ours, theirs = rf"head\.tasks\.(\d)\.{branch}", rf"{tasks}.\1.{there}"
        result += [
            *_unit(ours, theirs, *first),
            Rule(rf"{ours}\.3\.(weight|bias)", rf"{theirs}.{last}.\2", changes[branch]),
        ]
    return result


def _mmdet3d_head(prefix: str, boxes: Boxes) -> list[Rule]:
    parts = {"first": ("0.conv", "0.bn"), "shared_parts": ("conv", "bn"), "last": "1"}
    names = {"heatmap": "heatmap"}
    return _head(f"{prefix}.shared_conv", f"{prefix}.task_heads", boxes, names, **parts)  # type: ignore[arg-type]


def _mmdet3d(spec: DetectorSpec, boxes: Boxes, intensity: float) -> list[Rule]:
    levels, blocks = _depth(spec)
    middle = "pts_middle_encoder"
    sparse = [
        *_stem(f"{middle}.conv_input", intensity),
        *_blocks(lambda level, block: f"{middle}.encoder_layers.encoder_layer{level + 1}.{block}", levels, blocks),
        *_sparse_unit(r"lidar\.out", f"{middle}.conv_out"),
    ]
    # The strided convolution is the last of the level before it.
    for level in range(levels - 1):
        ours, theirs = rf"lidar\.down\.{level}", f"{middle}.encoder_layers.encoder_layer{level + 1}.{blocks}"
        sparse += _sparse_unit(ours, theirs)
    return [
        *_pillars("pts_voxel_encoder", intensity),
        *sparse,
        *_second_neck("pts_backbone.blocks", "pts_neck.deblocks", shift=0, transposed=False),
        *_mmdet3d_head("pts_bbox_head", boxes),
    ]


def _residual_stages(prefix: str, out: str, spec: DetectorSpec, unit: tuple[str, str], later: int) -> list[Rule]:
    """det3d's and OpenPCDet's sparse encoder: the strided convolution is the first of its level.

    Args:
        prefix: Of all names.
        out: Their name of the last convolution.
        spec: Of the detector.
        unit: In a level, their names of the strided convolution and its norm.
        later: In a level with such a one, the number of the first residual block.
    """
    levels, blocks = _depth(spec)
    result = [
        *_blocks(lambda level, block: f"{prefix}.conv{level + 1}.{block + later * (level > 0)}", levels, blocks),
        *_sparse_unit(r"lidar\.out", f"{prefix}.{out}"),
    ]
    for level in range(1, levels):
        result += _sparse_unit(rf"lidar\.down\.{level - 1}", f"{prefix}.conv{level + 1}", *unit)
    return result


def _det3d(spec: DetectorSpec, boxes: Boxes, intensity: float) -> list[Rule]:
    return [
        *_pillars("reader", intensity),
        *_stem("backbone.conv_input", intensity),
        *_residual_stages("backbone", "extra_conv", spec, ("0", "1"), later=3),
        *_second_neck("neck.blocks", "neck.deblocks", shift=1, transposed=False),
        *_head("bbox_head.shared_conv", "bbox_head.tasks", boxes),
    ]


def _openpcdet(spec: DetectorSpec, boxes: Boxes, intensity: float) -> list[Rule]:
    names = {"reg": "center", "height": "center_z", "heatmap": "hm"}
    parts = {"first": ("0.0", "0.1"), "last": "1"}
    return [
        *_pillars("vfe", intensity),
        *_stem("backbone_3d.conv_input", intensity),
        *_residual_stages("backbone_3d", "conv_out", spec, ("0.0", "0.1"), later=1),
        *_second_neck("backbone_2d.blocks", "backbone_2d.deblocks", shift=1, transposed=True),
        *_head("dense_head.shared_conv", "dense_head.heads_list", boxes, names, **parts),  # type: ignore[arg-type]
    ]


def _bevdet(spec: DetectorSpec, boxes: Boxes, intensity: float) -> list[Rule]:
    up = {"0": "1", "1": "2", "3": "4"}
    return [
        *_image_backbone("img_backbone"),
        Rule(r"camera\.image\.lateral\.(\d)\.(weight|bias)", r"img_neck.lateral_convs.\1.conv.\2"),
        Rule(r"camera\.image\.smooth\.(weight|bias)", r"img_neck.fpn_convs.0.conv.\1"),
        Rule(r"camera\.lift\.(weight|bias)", r"img_view_transformer.depthnet.\1"),
        Rule(r"neck\.layers\.(.+)", r"img_bev_encoder_backbone.layers.\1"),
        Rule(r"neck\.conv\.(.+)", r"img_bev_encoder_neck.conv.\1"),
        # An upsampling layer comes first there.
        Rule(r"neck\.up2\.(\d)\.(.+)", lambda match: f"img_bev_encoder_neck.up2.{up[match[1]]}.{match[2]}"),
        *_mmdet3d_head("pts_bbox_head", boxes),
    ]


def _bevdepth(spec: DetectorSpec, boxes: Boxes, intensity: float) -> list[Rule]:
    net, aggregation = "backbone.depth_net", "backbone.depth_aggregation_net"
    pyramid = rf"{net}.depth_conv.3"
    return [
        *_image_backbone("backbone.img_backbone"),
        *_image_second_fpn("backbone.img_neck"),
        Rule(
            r"camera\.lift\.(depth|context)_mlp\.([02])\.(weight|bias)",
            lambda match: f"{net}.{match[1]}_mlp.fc{1 + int(match[2]) // 2}.{match[3]}",
        ),
        Rule(
            r"camera\.lift\.depth_conv\.3\.branches\.(\d)\.0\.weight",
            lambda match: f"{pyramid}.aspp{int(match[1]) + 1}.atrous_conv.weight",
        ),
        Rule(
            rf"camera\.lift\.depth_conv\.3\.branches\.(\d)\.1\.{_NORM}",
            lambda match: f"{pyramid}.aspp{int(match[1]) + 1}.bn.{match[2]}",
        ),
        Rule(r"camera\.lift\.depth_conv\.3\.pooled\.0\.weight", f"{pyramid}.global_avg_pool.1.weight"),
        Rule(rf"camera\.lift\.depth_conv\.3\.pooled\.1\.{_NORM}", rf"{pyramid}.global_avg_pool.2.\1"),
        Rule(r"camera\.lift\.depth_conv\.3\.merge\.0\.weight", f"{pyramid}.conv1.weight"),
        Rule(rf"camera\.lift\.depth_conv\.3\.merge\.1\.{_NORM}", rf"{pyramid}.bn1.\1"),
        Rule(r"camera\.lift\.(.+)", rf"{net}.\1"),
        Rule(r"camera\.aggregation\.out_conv\.(.+)", rf"{aggregation}.out_conv.0.\1"),
        Rule(r"camera\.aggregation\.(.+)", rf"{aggregation}.\1"),
        Rule(r"neck\.(conv1|bn1)\.(.+)", r"head.trunk.\1.\2"),
        Rule(r"neck\.layers\.(\d)\.(.+)", lambda match: f"head.trunk.layer{int(match[1]) + 1}.{match[2]}"),
        *_unit(r"neck\.deblocks\.(\d)", r"head.neck.deblocks.\1", change=resampling(transposed=True)),
        *_mmdet3d_head("head", boxes),
    ]


def _unidistill(spec: DetectorSpec, boxes: Boxes, intensity: float) -> list[Rule]:
    camera, lidar = "camera_encoder.backbone", "lidar_encoder.backbone_3d"
    gate = "fusion_encoder.att.1"
    return [
        *_image_backbone(f"{camera}.img_backbone"),
        *_image_second_fpn(f"{camera}.img_neck"),
        Rule(r"camera\.lift\.(weight|bias)", rf"{camera}.depth_net.0.\1"),
        *_stem(f"{lidar}.conv_input", intensity),
        *_residual_stages(lidar, "conv_out", spec, ("0.0", "0.1"), later=1),
        # The LiDAR's channels come before the camera's there, and after them here.
        Rule(r"fusion\.gate\.1\.weight", f"{gate}.weight", halves_exchanged(0, 1)),
        Rule(r"fusion\.gate\.1\.bias", f"{gate}.bias", halves_exchanged(0)),
        Rule(r"fusion\.mix\.0\.weight", "fusion_encoder.reduce_conv.0.weight", halves_exchanged(1)),
        Rule(r"fusion\.mix\.(.+)", r"fusion_encoder.reduce_conv.\1"),
        *_second_neck("bev_encoder.backbone_2d.blocks", "bev_encoder.backbone_2d.deblocks", shift=1, transposed=True),
        *_head("det_head.dense_head.shared_conv", "det_head.dense_head.tasks", boxes),
        Rule(r"head\.loss_weights", "det_head.dense_head.auto_loss.params"),
    ]


SOURCES: dict[str, Source] = {
    "mmdet3d": Source("mmdet3d", ("lidar",), "lwh", _mmdet3d),
    "det3d": Source("det3d", ("lidar",), "wlh", _det3d),
    "openpcdet": Source("openpcdet", ("lidar",), "lwh_cos_first", _openpcdet, ignored=("global_step",)),
    # Of 2022 in the LiDAR's frame, of later versions in the ego car's.
    "bevdet": Source("bevdet", ("lidar", "ego"), "wlh", _bevdet, constants="img_view_transformer."),
    "bevdepth": Source("bevdepth", ("ego",), "lwh", _bevdepth, constants="backbone."),
    "unidistill": Source("unidistill", ("lidar",), "lwh", _unidistill, constants="camera_encoder.backbone."),
}
"""Programs by the name on the command line."""

CONSTANTS = ("frustum", "dx", "bx", "nx", "voxel_size", "voxel_coord", "voxel_num")
"""What LSS and what is made after it keep beside the weights."""


def constants(spec: DetectorSpec) -> dict[str, Tensor]:
    """What these would be for a detector; the frustum is (bins, rows, columns) of the images' features."""
    grid = spec.grid
    ranges = (grid.x_range, grid.y_range, grid.z_range)
    sizes = (grid.cell, grid.cell, grid.z_range[1] - grid.z_range[0])
    size = torch.tensor(sizes)
    middle = torch.tensor([low + each / 2 for (low, _), each in zip(ranges, sizes, strict=True)])
    count = torch.tensor([(high - low) / each for (low, high), each in zip(ranges, sizes, strict=True)])
    result = {"dx": size, "voxel_size": size, "bx": middle, "voxel_coord": middle, "nx": count, "voxel_num": count}
    if spec.camera is not None:
        height, width = spec.camera.image_size
        lift = spec.camera.lift(grid)
        shape = (spec.camera.depth_bins, *lift.feature_size)
        low, high = spec.camera.depth_range
        corners = (low, low + (high - low) * (shape[0] - 1) / shape[0], float(height - 1), float(width - 1))
        result["frustum"] = torch.tensor([*shape, *corners])
    return result


def stored_constants(source: Source, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """What a checkpoint says of its grid and depth bins, in the form of `constants`, by the names there."""
    result = {}
    for name, tensor in tensors:
        short = name.removeprefix(source.constants)
        if not source.constants or not name.startswith(source.constants) or short not in CONSTANTS:
            continue
        if short == "frustum" and tensor.dim() == 4:
            depths = tensor[:, 0, 0, 2]
            far = tensor[0, -1, -1]
            corners = (float(depths[0]), float(depths[-1]), float(far[1]), float(far[0]))
            tensor = torch.tensor([*tensor.shape[:3], *corners])
        result[name] = tensor.float()
    return result
