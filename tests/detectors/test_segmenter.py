"""A segmenter that is whole learns an image by heart; one with a wrong axis, target or gradient cannot."""

import pytest
import torch
from pydantic import ValidationError

from detectors.batch import Instances
from detectors.cost import segmenter_step_seconds
from detectors.encoders.image import ImageSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.heads.instance_mask import InstanceMaskSpec, mask_iou
from detectors.presets import SEGMENTERS
from detectors.segmenter import SegmenterSpec

SIZE = (48, 80)
TALL, WIDE = (slice(8, 40), slice(16, 28)), (slice(8, 24), slice(36, 72))
"""Of a tall thing and of a wide one."""
PEDESTRIAN, TRUCK = 5, 1
"""Any two classes."""


@pytest.fixture
def spec():
    image = ImageSpec(backbone=ResNetSpec(stem_width=8, widths=(8, 12, 16, 20), depths=(1, 1, 1, 1)), channels=16)
    return SegmenterSpec(image_size=SIZE, image=image, head=InstanceMaskSpec(width=16))


@pytest.fixture
def scene():
    """An image of two things before a grey wall, and their masks."""
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(100, 120, (1, 3, *SIZE), dtype=torch.uint8, generator=rng)
    owner = torch.zeros(1, *SIZE, dtype=torch.uint8)
    for number, (color, place) in enumerate((((220, 40, 40), TALL), ((40, 60, 230), WIDE)), start=1):
        image[0, :, *place] = torch.tensor(color, dtype=torch.uint8)[:, None, None]
        owner[0][place] = number
    return image, Instances(owner, torch.tensor([[PEDESTRIAN, TRUCK]]), torch.ones(1, 2))


def test_one_image_is_learned_by_heart(spec, scene):
    image, instances = scene
    steps = 80
    torch.manual_seed(4)
    segmenter = spec.build().train()
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=4e-3)
    # Slower towards the end, or the running statistics lag behind the weights.
    course = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        loss = segmenter.loss(segmenter(image), instances)
        optimizer.zero_grad()
        (loss.heatmap + spec.head.mask_weight * loss.masks).backward()
        optimizer.step()
        course.step()
    with torch.no_grad():
        (found,) = segmenter.eval().decode(segmenter(image))
    assert found.mask.shape[1:] == SIZE
    sure = found.score > 0.3
    assert sorted(found.label[sure].tolist()) == [TRUCK, PEDESTRIAN]
    for number, label in enumerate((PEDESTRIAN, TRUCK), start=1):
        overlap = mask_iou(found.mask[sure & (found.label == label)], instances.owner == number)
        assert overlap.item() > 0.7


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0)])
def test_maps_show_what_is_in_the_image_where_it_is(spec, scene, corner):
    image, _ = scene
    segmenter = spec.build().eval()
    other = image.clone()
    height, width = SIZE
    rows, columns = (slice(side - 8, None) if end else slice(8) for side, end in zip(SIZE, corner, strict=True))
    other[..., rows, columns] = 255 - other[..., rows, columns]
    with torch.no_grad():
        difference = (segmenter(other).feature - segmenter(image).feature).abs().sum((0, 1))
    row, column = divmod(difference.argmax().item(), width // 4)
    assert (row >= height // 8, column >= width // 8) == tuple(map(bool, corner))


def test_every_weight_learns(spec, scene):
    image, instances = scene
    segmenter = spec.build().train()
    loss = segmenter.loss(segmenter(image), instances)
    (loss.heatmap + loss.masks).backward()
    idle = [name for name, weight in segmenter.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


def test_every_preset_segments_images_of_its_size():
    for spec in SEGMENTERS.values():
        height, width = spec.image_size
        with torch.no_grad():
            segmenter = spec.build().eval()
            maps = segmenter(torch.zeros(1, 3, height, width, dtype=torch.uint8))
        # Features have a stride of 8, the head's maps half of it.
        assert maps.size == (height // 4, width // 4)
        (found,) = segmenter.decode(maps)
        assert found.mask.shape[1:] == (height, width)


@pytest.mark.parametrize("size", [(44, 80), (48, 84), (0, 80)])
def test_an_impossible_size_is_refused(spec, size):
    with pytest.raises(ValidationError, match="multiples of 8"):
        type(spec)(**(spec.model_dump() | {"image_size": size}))


def test_a_step_of_a_segmenter_is_timed(spec):
    assert 0 < segmenter_step_seconds(spec, batch_size=2, device="cpu", steps=1) < 60
