"""BEV trunks: residual stages on a BEV map, brought back to its resolution as BEVDepth and BEVDet do."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.encoders.bev_trunk import ResNetFpnTrunkSpec, ResNetUpTrunkSpec

FPN = ResNetFpnTrunkSpec(stem_width=6, widths=(6, 8), depths=(2, 1), strides=(1, 2), up_width=5)
UP = ResNetUpTrunkSpec(widths=(4, 6, 8), depths=(2, 1, 1), strides=(2, 2, 2), channels=3)
TRUNKS = pytest.mark.parametrize("spec", [FPN, UP], ids=["fpn", "up"])


@TRUNKS
@pytest.mark.parametrize("size", [(16, 24), (13, 10)])
def test_the_map_keeps_its_size(spec, size):
    trunk = spec.build(7)
    assert trunk(torch.randn(2, 7, *size)).shape == (2, spec.out_channels, *size)
    assert spec.out_channels == {"resnet_fpn": 15, "resnet_up": 3}[spec.kind]


@TRUNKS
def test_every_weight_learns(spec):
    torch.manual_seed(0)
    trunk = spec.build(7)
    with torch.no_grad():
        # The last norm of a block begins at zero, and lets nothing through to what is before it.
        for name, weight in trunk.named_parameters():
            if name.endswith("bn2.weight"):
                weight.fill_(1.0)
    output = trunk(torch.randn(2, 7, 16, 24))
    (output * torch.randn_like(output)).sum().backward()
    assert [name for name, weight in trunk.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def _statistics(trunk, rng):
    with torch.no_grad():
        for name, tensor in trunk.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=rng) - (0.0 if "running_var" in name else 0.3))
    return trunk.double().eval()


def _norm(state, name, x, eps=1e-5):
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    mean, variance, weight, bias = (part[:, None, None] for part in parts)
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def _block(state, name, x, stride, shortcut):
    inner = F.relu(_norm(state, f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)))
    inner = _norm(state, f"{name}.bn2", F.conv2d(inner, state[f"{name}.conv2.weight"], padding=1))
    return F.relu(inner + shortcut(x))


def test_bevdepths_trunk_step_by_step(rng):
    """A 7x7 convolution, two stages, and beside the map itself each of them in windows of its stride."""
    trunk = _statistics(FPN.build(7), rng)
    state = trunk.state_dict()
    bev = torch.randn(1, 7, 8, 12, generator=rng, dtype=torch.float64)
    stem = F.relu(_norm(state, "bn1", F.conv2d(bev, state["conv1.weight"], stride=2, padding=3)))
    fine = _block(state, "layers.0.0", stem, 1, lambda x: x)
    fine = _block(state, "layers.0.1", fine, 1, lambda x: x)

    def narrowed(x):
        return _norm(state, "layers.1.0.downsample.1", F.conv2d(x, state["layers.1.0.downsample.0.weight"], stride=2))

    coarse = _block(state, "layers.1.0", fine, 2, narrowed)
    parts = []
    for i, (level, factor) in enumerate(((bev, 1), (fine, 2), (coarse, 4))):
        weight = state[f"deblocks.{i}.0.weight"]
        up = F.conv2d(level, weight) if factor == 1 else F.conv_transpose2d(level, weight, stride=factor)
        parts.append(F.relu(_norm(state, f"deblocks.{i}.1", up, eps=1e-3)))
    assert_close(trunk(bev), torch.cat(parts, dim=1))


def _corner_aligned(x, factor):
    """Interpolated so that the corners stay where they are, pixel by pixel."""
    h, w = x.shape[-2:]
    rows, columns = h * factor, w * factor
    result = x.new_zeros(*x.shape[:2], rows, columns)
    for r in range(rows):
        for c in range(columns):
            at = r * (h - 1) / (rows - 1), c * (w - 1) / (columns - 1)
            top, left = (min(int(place), size - 2) for place, size in zip(at, (h, w), strict=True))
            down, right = at[0] - top, at[1] - left
            for i in (0, 1):
                for j in (0, 1):
                    share = (down if i else 1 - down) * (right if j else 1 - right)
                    result[..., r, c] += share * x[..., top + i, left + j]
    return result


def test_bevdets_trunk_step_by_step(rng):
    """Three stages whose shortcuts are 3x3 convolutions with a bias; the last one joins the first one."""
    trunk = _statistics(UP.build(7), rng)
    state = trunk.state_dict()
    bev = torch.randn(1, 7, 16, 24, generator=rng, dtype=torch.float64)
    level, stages = bev, []
    for stage, depth in enumerate(UP.depths):
        prefix = f"layers.{stage}"
        weight, bias = (state[f"{prefix}.0.downsample.{part}"] for part in ("weight", "bias"))
        level = _block(
            state, f"{prefix}.0", level, 2, lambda x, w=weight, b=bias: F.conv2d(x, w, b, stride=2, padding=1)
        )
        for i in range(1, depth):
            level = _block(state, f"{prefix}.{i}", level, 1, lambda x: x)
        stages.append(level)
    joined = torch.cat([stages[0], _corner_aligned(stages[2], 4)], dim=1)
    for conv, norm in (("conv.0", "conv.1"), ("conv.3", "conv.4")):
        joined = F.relu(_norm(state, norm, F.conv2d(joined, state[f"{conv}.weight"], padding=1)))
    refined = F.conv2d(_corner_aligned(joined, 2), state["up2.0.weight"], padding=1)
    refined = F.relu(_norm(state, "up2.1", refined))
    assert_close(trunk(bev), F.conv2d(refined, state["up2.3.weight"], state["up2.3.bias"]))


def test_a_block_of_bevdepths_trunk_begins_as_the_identity():
    trunk = FPN.build(7).eval()
    x = torch.rand(1, 6, 4, 4)
    assert torch.equal(trunk.layers[0][0](x), x)


@TRUNKS
def test_stages_without_a_depth_or_a_stride_are_refused(spec):
    for name in ("depths", "strides"):
        with pytest.raises(ValidationError, match=f"1 {name} for"):
            type(spec)(**(spec.model_dump() | {name: (1,)}))
