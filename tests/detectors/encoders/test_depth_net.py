"""The camera-aware depth net weighs features by 27 numbers of a view, and looks around each of them."""

import math

import pytest
import torch
from torch.testing import assert_close

from detectors.batch import CameraViews
from detectors.encoders.depth_net import (
    AtrousPyramid,
    CameraAwareDepthSpec,
    ChannelGate,
    PlainDepthSpec,
    calibration_numbers,
)


def _relu(value):
    return value if value > 0 else value * 0


def _norm(module, channel, value):
    """Batch norm of one value in evaluation."""
    scaled = (value - module.running_mean[channel]) / (module.running_var[channel] + module.eps) ** 0.5
    return scaled * module.weight[channel] + module.bias[channel]


def _randomised(module, rng):
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
    return module.double().eval()


def test_the_gate_by_loops(rng):
    gate = _randomised(ChannelGate(3), rng)
    features = torch.randn(2, 3, 2, 2, generator=rng, dtype=torch.float64)
    numbers = torch.randn(2, 3, generator=rng, dtype=torch.float64)
    reduce, expand = gate.conv_reduce, gate.conv_expand
    wanted = torch.zeros_like(features)
    for v in range(2):
        inner = [
            _relu(sum(reduce.weight[j, i, 0, 0] * numbers[v, i] for i in range(3)) + reduce.bias[j]) for j in range(3)
        ]
        for c in range(3):
            raw = sum(expand.weight[c, j, 0, 0] * inner[j] for j in range(3)) + expand.bias[c]
            wanted[v, c] = features[v, c] / (1 + math.exp(-raw.item()))
    assert_close(gate(features, numbers), wanted.detach())


def test_the_pyramid_by_loops(rng):
    """Each branch is a convolution with holes, the last one the mean of the map; a 1x1 convolution joins them."""
    width, h, w, dilations = 2, 5, 4, (2, 3)
    pyramid = _randomised(AtrousPyramid(width, dilations, dropout=0.5), rng)
    x = torch.randn(1, width, h, w, generator=rng, dtype=torch.float64)

    def block(sequence, read):
        conv, norm, _ = sequence
        side = conv.kernel_size[0]
        values = []
        for o in range(width):
            total = sum(
                conv.weight[o, i, r, c] * read(i, r - side // 2, c - side // 2)
                for i in range(conv.in_channels)
                for r in range(side)
                for c in range(side)
            )
            values.append(_relu(_norm(norm, o, total)))
        return values

    wanted = torch.zeros(1, width, h, w, dtype=torch.float64)
    for row in range(h):
        for column in range(w):

            def tap(step, row=row, column=column):
                def read(channel, down, right):
                    r, c = row + step * down, column + step * right
                    return x[0, channel, r, c] if 0 <= r < h and 0 <= c < w else 0.0

                return read

            parts = block(pyramid.branches[0], tap(1))
            for branch, dilation in zip(pyramid.branches[1:], dilations, strict=True):
                parts += block(branch, tap(dilation))
            parts += block(pyramid.pooled, lambda channel, down, right: x[0, channel].mean())
            joined = block(pyramid.merge, lambda channel, down, right, parts=parts: parts[channel])
            wanted[0, :, row, column] = torch.stack(joined)
    assert_close(pyramid(x), wanted.detach())


def test_dropout_is_for_training(rng):
    torch.manual_seed(0)
    pyramid = AtrousPyramid(8, (2,), dropout=0.5).train()
    x = torch.randn(3, 8, 5, 4, generator=rng)
    assert not torch.equal(pyramid(x), pyramid(x))
    assert torch.equal(pyramid.eval()(x), pyramid(x))


@pytest.fixture
def views(rng):
    """Two samples of two views each, whose images were halved and cropped and whose world was turned."""
    camera = torch.tensor([[1260.0, 0, 800], [0, 1250, 450], [0, 0, 1]])
    fit = torch.tensor([[0.5, 0.01, -32], [-0.02, 0.4, -140], [0, 0, 1]])
    mount = torch.eye(4).repeat(2, 2, 1, 1)
    mount[..., :3, :] = torch.randn(2, 2, 3, 4, generator=rng)
    turn = torch.tensor([[0.0, -1.1, 0, 0], [1.1, 0, 0, 0], [0, 0, 1.1, 0], [0, 0, 0, 1]])
    views = CameraViews(
        images=torch.zeros(2, 2, 3, 8, 8, dtype=torch.uint8),
        intrinsics=(fit @ camera).expand(2, 2, 3, 3),
        ego_from_camera=turn @ mount,
        age=torch.zeros(2, 2),
        from_file=fit.expand(2, 2, 3, 3),
        moved=turn.expand(2, 2, 4, 4),
    )
    return views, mount


def test_27_numbers_in_bevdepths_order(views):
    seen, mount = views
    numbers = calibration_numbers(seen)
    assert numbers.shape == (2, 2, 27)
    lens, image, world = [1260, 1250, 800, 450], [0.5, 0.01, -32, -0.02, 0.4, -140], [0, -1.1, 1.1, 0, 1.1]
    assert_close(numbers[1, 0, :15], torch.tensor([*lens, *image, *world]), rtol=1e-4, atol=1e-3)
    assert_close(numbers[1, 0, 15:], mount[1, 0, :3].flatten(), rtol=1e-4, atol=1e-5)


def test_earlier_keyframes_hang_where_the_newest_do(views):
    seen, mount = views
    numbers = calibration_numbers(seen, keyframes=2)
    assert_close(numbers[:, 1, 15:], mount[:, 0, :3].flatten(1), rtol=1e-4, atol=1e-5)


def test_views_that_do_not_tell_were_not_changed(views):
    seen, _ = views
    plain = CameraViews(seen.images, seen.intrinsics, seen.ego_from_camera, seen.age)
    numbers = calibration_numbers(plain)
    assert_close(numbers[0, 0, :4], seen.intrinsics[0, 0][[0, 1, 0, 1], [0, 1, 2, 2]])
    assert numbers[0, 0, 4:15].tolist() == [1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1]
    assert_close(numbers[0, 0, 15:], seen.ego_from_camera[0, 0, :3].flatten())


SPEC = CameraAwareDepthSpec(width=8, dilations=(2,), groups=2, dropout=0.0)


def test_depth_and_context_depend_on_the_calibration(rng):
    torch.manual_seed(0)
    net = SPEC.build(6, 5, 3)
    features, numbers = torch.randn(4, 6, 3, 4, generator=rng), torch.randn(4, 27, generator=rng)
    assert net(features, numbers).shape == (4, 8, 3, 4)
    net.eval()
    first, other = net(features, numbers), net(features, numbers + torch.randn(4, 27, generator=rng))
    for part in (slice(0, 5), slice(5, 8)):
        assert not torch.allclose(first[:, part], other[:, part])


def test_every_weight_learns(rng):
    torch.manual_seed(0)
    net = SPEC.build(6, 5, 3)
    output = net(torch.randn(4, 6, 3, 4, generator=rng), torch.randn(4, 27, generator=rng))
    (output * torch.randn(output.shape, generator=rng)).sum().backward()
    assert [name for name, weight in net.named_parameters() if not weight.grad.any()] == []


def test_autocast_does_not_round_it(rng):
    torch.manual_seed(0)
    net = SPEC.build(6, 5, 3).eval()
    features, numbers = torch.randn(4, 6, 3, 4, generator=rng), torch.randn(4, 27, generator=rng)
    exact = net(features, numbers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(features, numbers), exact)


def test_parts_can_be_left_out():
    bare = CameraAwareDepthSpec(width=8, blocks=0, dilations=(), deformable=False).build(6, 5, 3)
    assert len(bare.depth_conv) == 1


def test_the_plain_net_is_a_1x1_convolution(rng):
    net = PlainDepthSpec().build(6, 5, 3)
    assert set(net.state_dict()) == {"weight", "bias"}
    features = torch.randn(2, 6, 3, 4, generator=rng)
    assert torch.equal(net(features, None), torch.nn.functional.conv2d(features, net.weight, net.bias))
