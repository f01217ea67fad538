"""MapTeacher: a teacher that is a folder of maps, brought to where augmentation has left the student's world."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.geometry.boxes import CLASSES, Boxes
from detectors.outputs import DetectorOutput, HeadOutput
from distill.maps import MapsSpec, head_of_boxes
from distill.objective import GROUND
from distill.resample import Resampling, between
from harness.errors import InputError
from harness.study.maps_folder import BOXES, FEATURES, file_of, maps_hash


class MapTeacher:
    """Maps of each sample from a folder, read when a batch has it.

    They were made of the recorded world. Where augmentation mirrors, turns, scales or shifts the world, and where the
    student has another grid or frame, maps are read bilinearly at the place that each cell comes from; boxes are moved.
    A mirrored map has the features of the recorded world at mirrored places, not those that the teacher would have
    found in a mirrored world. Augmentation of single images changes nothing here.

    Args:
        folder: Of the maps.
        maps: What they are like.
        student: Onto whose grid, and into whose frame, they are brought.
        content: Their hash.
    """

    def __init__(self, folder: Path, maps: MapsSpec, student: DetectorSpec, content: str) -> None:
        self._folder, self._maps, self._content = folder, maps, content
        self._ground = {name: getattr(student, name) for name in GROUND}

    @property
    def spec(self) -> MapsSpec:
        """With the grid and the frame that the maps are brought to."""
        return self._maps.model_copy(update=self._ground)

    @torch.no_grad()
    def observe(self, batch: Batch) -> DetectorOutput:
        """The maps of a batch's samples; NaN in those that the folder does not have."""
        if batch.frames is None:
            raise ValueError("the batch does not say where its BEV frame lies, so that no map can be brought there")
        device, grid = batch.boxes.center.device, self.spec.grid
        way = between(batch.frames, self._maps.bev_frame, undo_augmentation=True).cpu()
        path = Resampling(way, self._maps.grid, grid)
        still = torch.equal(way, torch.eye(4).expand_as(way)) and self._maps.grid == grid
        loaded = [self._load(token) for token in batch.tokens]

        def maps(name: str, channels: int | None) -> Tensor:
            if channels is None:
                return torch.full((), torch.nan).expand(len(batch), 1, grid.rows, grid.columns)
            values = torch.stack([each[name] for each in loaded]).float()
            return values if still and values.shape[-2:] == (grid.rows, grid.columns) else path.maps(values)

        low, high = (maps(name, getattr(self.spec, f"{name.removeprefix('bev_')}_channels")) for name in FEATURES)
        head = self._head(loaded, way, None if still else path)
        return DetectorOutput(None, None, None, None, None, low, high, head).to(device)

    def move(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> None:
        """Do nothing: it holds no tensor, and what it reads goes where the batch is."""

    def check_unchanged(self) -> None:
        """Raise InputError if the files are no longer those that the study was planned with."""
        if maps_hash(self._folder) != self._content:
            raise InputError(f"maps {self._folder} have changed since the study was planned; the training is no answer")

    def _head(
        self, loaded: Sequence[Mapping[str, Tensor]], way: Float[Tensor, "b 4 4"], path: Resampling | None
    ) -> HeadOutput:
        if self._maps.boxes == "maps":
            stacked = (torch.stack([each[name] for each in loaded]).float() for name in ("heatmap", "box_codes"))
            head = HeadOutput(*stacked)
            return head if path is None else path.head(head)
        boxes = [
            Boxes(**{name: each[f"boxes.{name}"] for name in BOXES}).moved(matrix)
            if self._maps.boxes == "list"
            else _NO_BOXES
            for each, matrix in zip(loaded, torch.linalg.inv(way), strict=True)
        ]
        return head_of_boxes(boxes, self.spec.grid)

    def _load(self, token: str) -> dict[str, Tensor]:
        file = file_of(self._folder, token)
        try:
            tensors = load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"maps {file} cannot be read as safetensors: {error}") from error
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise InputError(f"maps {file}: tensor {name} contains NaN or infinity")
        if (labels := tensors.get("boxes.label")) is not None:
            if ((labels < 0) | (labels >= len(CLASSES))).any():
                raise InputError(f"maps {file}: boxes.label are not all from 0 to {len(CLASSES) - 1}")
            tensors["boxes.label"] = labels.long()
        return {name: each if name == "boxes.label" else each.float() for name, each in tensors.items()}


_NO_BOXES = Boxes(
    **{name: torch.zeros(0, *shape) for name, shape in BOXES.items() if name != "label"},
    label=torch.zeros(0, dtype=torch.long),
)
