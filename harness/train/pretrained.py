"""Instance segmentation models of transformers by name, as image teachers."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import UInt8

from detectors.heads.instance_mask import FoundInstances
from harness.data.pseudo_labels import map_classes
from harness.errors import InputError

# Those whose image processors give one mask an instance.
_KNOWN = ("mask2former", "maskformer")
SCORE_FLOOR = 0.05
"""Instances that the model is less sure of are not written down; a loss has a threshold of its own."""


def check_pretrained(name: str) -> None:
    """Raise InputError for a model that cannot be had, is for something else, or knows none of the ten classes."""
    _mapped(_config(name), name)


class PretrainedLabeller:
    """A model for instance segmentation (Mask2Former, MaskFormer), looking at single images."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load it; raises InputError where that is impossible."""
        # Its image processors are imported here: some of them want packages that only they need.
        from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

        config = _config(name)
        self._classes = _mapped(config, name)
        self._device = device
        try:
            model, loading_info = AutoModelForUniversalSegmentation.from_pretrained(name, output_loading_info=True)
            # Not the processors on torchvision, which is no dependency of ours.
            self._processor = AutoImageProcessor.from_pretrained(name, backend="pil")
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"model {name!r} of transformers cannot be loaded: {_first_line(error)}") from error
        # The weights of the classes in its training loss may be missing, all others would be random ones.
        absent = [*loading_info["missing_keys"], *loading_info["mismatched_keys"]]
        if absent := sorted(str(key) for key in absent if not str(key).startswith("criterion.")):
            raise InputError(f"model {name!r} of transformers has no weights for {absent[0]} ({len(absent)} such)")
        if spoilt := [each for each, tensor in model.named_parameters() if not tensor.isfinite().all()]:
            raise InputError(f"model {name!r} of transformers: tensor {spoilt[0]} contains NaN or infinity")
        self._model = model.to(device).eval()

    def __call__(self, images: Sequence[UInt8[Any, "_ _ 3"]]) -> list[FoundInstances]:
        """What is seen in each image, the surest first.

        One image at a time: processors pad a batch of several sizes, and stretch its masks with the padding.
        """
        return [self._look(image) for image in images]

    @torch.no_grad()
    def _look(self, image: UInt8[Any, "h w 3"]) -> FoundInstances:
        inputs = self._processor(images=[image], return_tensors="pt").to(self._device)
        (seen,) = self._processor.post_process_instance_segmentation(
            self._model(**inputs),
            threshold=SCORE_FLOOR,
            target_sizes=[image.shape[:2]],
            return_binary_maps=True,
        )
        return self._instances(seen, image.shape[:2])

    def _instances(self, seen: dict[str, Any], size: tuple[int, int]) -> FoundInstances:
        segments = [(i, info) for i, info in enumerate(seen["segments_info"]) if info["label_id"] in self._classes]
        segments.sort(key=lambda pair: -pair[1]["score"])
        masks = [seen["segmentation"][i].cpu() > 0.5 for i, _ in segments]
        return FoundInstances(
            mask=torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool),
            label=torch.tensor([self._classes[info["label_id"]] for _, info in segments], dtype=torch.long),
            score=torch.tensor([float(info["score"]) for _, info in segments], dtype=torch.float32),
        )


def _config(name: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"model {name!r} of transformers cannot be read: {_first_line(error)}") from error
    if config.model_type not in _KNOWN:
        raise InputError(f"model {name!r} is a {config.model_type}; allowed: {' and '.join(_KNOWN)}")
    return config


def _mapped(config: Any, name: str) -> dict[int, int]:
    return map_classes({int(number): label for number, label in config.id2label.items()}, f"model {name!r}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
