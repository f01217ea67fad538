"""SegmenterSpec and Segmenter: images to instance masks, the image teacher of camera students."""

from typing import Self

from jaxtyping import Float, UInt8
from pydantic import model_validator
from torch import Tensor, nn

from detectors.batch import Instances
from detectors.encoders.image import ImageSpec
from detectors.heads.instance_mask import (
    UPSAMPLE,
    FoundInstances,
    InstanceDecodeSpec,
    InstanceLoss,
    InstanceMaps,
    InstanceMaskSpec,
    instance_counts,
    instance_targets,
)
from detectors.spec import Spec


class SegmenterSpec(Spec):
    """An image encoder and the head on its features."""

    image_size: tuple[int, int]
    """Height and width that whole images are resized to, multiples of 8."""
    image: ImageSpec
    head: InstanceMaskSpec
    decode: InstanceDecodeSpec = InstanceDecodeSpec()

    @model_validator(mode="after")
    def _size_is_possible(self) -> Self:
        self.image.require_size(self.image_size)
        return self

    def build(self) -> "Segmenter":
        """The segmenter with fresh weights from torch's global random state, which the caller seeds."""
        return Segmenter(self)


class Segmenter(nn.Module):
    """Images to maps, what these cost, and which instances they mean."""

    def __init__(self, spec: SegmenterSpec) -> None:
        super().__init__()
        self.spec = spec
        self.image = spec.image.build()
        self.head = spec.head.build(spec.image.channels)

    def forward(self, images: UInt8[Tensor, "v 3 h w"]) -> InstanceMaps:
        """Maps of RGB images with values from 0 to 255."""
        return self.head(self.image(images))

    def loss(self, maps: InstanceMaps, instances: Instances) -> InstanceLoss:
        """What the maps cost against annotations of the same images."""
        return self.head.loss(maps, instance_targets(instances, maps.size, self.spec.head))

    def counts(self, instances: Instances) -> dict[str, Float[Tensor, "1"]]:
        """What `loss` divides by, by the names of its terms."""
        rows, columns = (size // self.spec.image.stride * UPSAMPLE for size in instances.owner.shape[-2:])
        centers, masks = instance_counts(instance_targets(instances, (rows, columns), self.spec.head)).split(1)
        return {"heatmap": centers, "masks": masks}

    def decode(self, maps: InstanceMaps) -> list[FoundInstances]:
        """The instances of each image, in its pixels, best first."""
        return self.head.decode(maps, self.spec.image_size, self.spec.decode)
