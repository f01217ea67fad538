"""The budget of a detector that is never run: parameters by part, operations, and memory of a training step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from detectors.detector import Detector, DetectorSpec
from detectors.encoders.camera import CameraEncoder, CameraSpec
from detectors.encoders.depth_net import CALIBRATION, CameraAwareDepthNet
from detectors.encoders.pillars import PillarSpec
from detectors.geometry.grid import BevGrid
from detectors.segmenter import Segmenter, SegmenterSpec

Model = TypeVar("Model", bound=nn.Module)

CAMERAS = 6


@dataclass(frozen=True)
class Budget:
    """Of one detector."""

    parts: dict[str, int]
    """Parameters of each part that it has; together they are all."""
    gmacs: float
    """Multiply-adds of a sample's forward pass, in thousands of millions, without those of `sparse`."""
    activations: int
    """Bytes that a training step of one sample holds for its backward pass, without those of `sparse`."""
    sparse: tuple[str, ...]
    """Encoders whose operations depend on the points."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(self.parts.values())


class _Undrawn(TorchFunctionMode):
    """Inside, fresh weights are not drawn: without memory there is nothing to draw, and torch would load a compiler."""

    _DRAWS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in self._DRAWS else func(*args, **(kwargs or {}))


class _QuickNorm(TorchFunctionMode):
    """Inside, a batch norm is a product, which holds the same and takes a tenth of the time without memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        values, weight = args[0], kwargs["weight"]
        return values * weight.reshape(-1, *[1] * (values.dim() - 2))


@overload
def outline(spec: DetectorSpec) -> Detector: ...
@overload
def outline(spec: SegmenterSpec) -> Segmenter: ...
def outline(spec: DetectorSpec | SegmenterSpec) -> Detector | Segmenter:
    """The model on the meta device: shapes without memory."""
    with torch.device("meta"), _Undrawn():
        return spec.build()


def parts(detector: Detector) -> dict[str, int]:
    """Parameters by part, in the order of the data flow."""
    camera = detector.camera
    modules: dict[str, list[nn.Module | None]] = {
        "image_backbone": [camera and camera.image.backbone],
        "image_neck": [] if camera is None else [camera.image.lateral, camera.image.smooth],
        "view_transform": [] if camera is None else [camera.lift, camera.aggregation, camera.join],
        "lidar": [detector.lidar],
        "radar": [detector.radar],
        "fusion": [detector.fusion],
        "bev_neck": [detector.neck],
        "head": [detector.head],
    }
    counts = {name: sum(_count(each) for each in some if each is not None) for name, some in modules.items()}
    assert sum(counts.values()) == _count(detector), "a part of the detector is in none of these"
    return {name: count for name, count in counts.items() if count}


def budget(spec: DetectorSpec) -> Budget:
    """What a detector costs; it takes neither memory nor a GPU."""
    detector = outline(spec).train()
    macs, held = _measured(detector, _refine)
    if spec.camera is not None:
        # Of each keyframe the same.
        one = spec.camera.model_copy(update={"keyframes": 1, "history_gradient": True, "depth_weight": 0.0})
        macs_of_frame, held_of_frame = _of_keyframe(one)
        macs += spec.camera.keyframes * macs_of_frame
        held += held_of_frame * (spec.camera.keyframes if spec.camera.history_gradient else 1)
    sparse = tuple(name for name in ("lidar", "radar") if getattr(detector, name) is not None)
    return Budget(parts(detector), macs / 1e9, held, sparse)


@lru_cache
def _of_keyframe(spec: CameraSpec) -> tuple[float, int]:
    """`_measured` of one keyframe's images, up to what the view transform adds up; several presets share it."""
    cell = BevGrid(x_range=(0.0, 1.0), y_range=(0.0, 1.0), z_range=(0.0, 1.0), cell=1.0)
    with torch.device("meta"), _Undrawn():
        camera = spec.build(cell).train()

    def lift(camera: CameraEncoder) -> None:
        features = camera.image(torch.empty(CAMERAS, 3, *spec.image_size, dtype=torch.uint8, device="meta"))
        numbers = _shape(CAMERAS, CALIBRATION) if isinstance(camera.lift, CameraAwareDepthNet) else None
        logits, context = camera.lift(features, numbers).split(camera.split, dim=1)
        depth = torch.softmax(logits, dim=1)
        if camera.aggregation is not None:
            camera.aggregation(context[None], depth[None])
        else:
            # As the view transform does, which holds both.
            _ = context.sum() * depth.sum()

    return _measured(camera, lift)


def _measured(model: Model, run: Callable[[Model], None]) -> tuple[float, int]:
    """Multiply-adds of a forward pass, and the bytes that it holds."""
    held = _Held()
    with (
        _QuickNorm(),
        torch.autograd.graph.saved_tensors_hooks(held.keep, lambda tensor: tensor),
        FlopCounterMode(display=False) as counter,
    ):
        run(model)
    return counter.get_total_flops() / 2, held.bytes_of(model)


def _refine(detector: Detector) -> None:
    """From the sensors' BEV maps on."""
    spec, grid = detector.spec, detector.spec.grid
    finer = spec.lidar.pillars_per_cell if isinstance(spec.lidar, PillarSpec) else 1
    cells = (grid.rows * finer, grid.columns * finer)
    maps = []
    if detector.camera is not None and spec.camera is not None:
        join, bev = detector.camera.join, _shape(1, spec.camera.keyframes * spec.camera.channels, *cells)
        if join is None and spec.camera.keyframe_join == "convolution":
            bev = _shape(1, spec.camera.channels, *cells)
        maps.append(bev if join is None else join(bev))
    maps += [_shape(1, each.channels, *cells) for each in (spec.lidar, spec.radar) if each is not None]
    bev_low = maps[0] if detector.fusion is None else detector.fusion(maps)
    detector.head(detector.neck(bev_low))


def _shape(*size: int) -> Tensor:
    return torch.empty(size, device="meta").requires_grad_()


class _Held:
    """Storages that a backward pass needs, each once."""

    def __init__(self) -> None:
        self._storages: dict[int, Any] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        """Take note of a tensor."""
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage
        return tensor

    def bytes_of(self, model: nn.Module) -> int:
        """Of all of them, but for the weights and statistics themselves."""
        weights = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
        return sum(each.nbytes() for key, each in self._storages.items() if key not in weights)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
