"""CenterPoint's sparse encoder computes what a dense network of masked convolutions does."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import ValidationError
from torch.testing import assert_close

from detectors.batch import Points
from detectors.encoders.voxel_net import VoxelNetSpec
from detectors.geometry.grid import BevGrid

# 21 heights become 11, 5 and, for the map, 2.
SPEC = VoxelNetSpec(
    voxels_per_cell=4, height_bins=20, widths=(3, 4, 5), blocks=2, column_width=6, bias=True, most_points=3
)


@pytest.fixture
def grid():
    """4 rows by 6 columns, for dense convolutions take long."""
    return BevGrid(x_range=(-4.0, 2.0), y_range=(-8.0, -4.0), z_range=(-3.0, 5.0), cell=1.0)


def _cloud(rng, count, samples=2):
    low, extent = torch.tensor([-4.0, -8.0, -3.0, 0.0, 0.0]), torch.tensor([6.0, 4.0, 8.0, 1.0, 0.5])
    points = low + extent * torch.rand(count, 5, generator=rng)
    points[: count // 2, :3] = points[:1, :3] + 0.6 * torch.rand(count // 2, 3, generator=rng)
    return Points(points.double(), torch.arange(count) * samples // count)


def _encoder(grid, rng, spec=SPEC):
    torch.manual_seed(0)
    encoder = spec.build(grid).double().eval()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for values in (module.running_mean, module.bias.data):
                values.normal_(generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
    for name, parameter in encoder.named_parameters():
        if "conv" in name and name.endswith("bias"):
            parameter.data.normal_(generator=rng)
    return encoder


def _voxels(cloud, grid):
    """Mean of the first points of each voxel, and where there is one; point by point."""
    dense = torch.zeros(2, 21, 16, 24, 5, dtype=torch.double)
    count = torch.zeros(2, 21, 16, 24)
    for values, sample in zip(cloud.values, cloud.sample.tolist(), strict=True):
        x, y, z = values[:3].tolist()
        place = sample, int((z + 3) / 0.4), int((y + 8) / 0.25), int((x + 4) / 0.25)
        if count[place] < SPEC.most_points:
            dense[place] += values
            count[place] += 1
    mask = rearrange(count > 0, "b z y x -> b 1 z y x").double()
    return rearrange(dense, "b z y x c -> b c z y x") / rearrange(count, "b z y x -> b 1 z y x").clamp(min=1), mask


def _dense_network(encoder, features, mask):
    def conv(x, module, **how):
        return F.conv3d(x, rearrange(module.weight, "o kz ky kx i -> o i kz ky kx"), module.bias, **how)

    def norm(x, module):
        return F.batch_norm(
            x, module.running_mean, module.running_var, module.weight, module.bias, training=False, eps=1e-3
        )

    def reached(mask, kernel, **how):
        return (F.conv3d(mask, torch.ones(1, 1, *kernel).double(), **how) > 0).double()

    x = mask * norm(conv(features, encoder.stem.conv, padding=1), encoder.stem.norm).relu()
    for i, level in enumerate(encoder.levels):
        if i:
            how = {"stride": 2, "padding": 1 if i == 1 else (0, 1, 1)}
            down, mask = encoder.down[i - 1], reached(mask, (3, 3, 3), **how)
            x = mask * norm(conv(x, down.conv, **how), down.norm).relu()
        for block in level:
            inner = mask * norm(conv(x, block.conv1, padding=1), block.norm1).relu()
            x = mask * (norm(conv(inner, block.conv2, padding=1), block.norm2) + x).relu()
    how = {"stride": (2, 1, 1)}
    x = reached(mask, (3, 1, 1), **how) * norm(conv(x, encoder.out.conv, **how), encoder.out.norm).relu()
    return rearrange(x, "b c z y x -> b (c z) y x")


def test_it_equals_a_dense_network_in_values_and_gradients(rng, grid):
    cloud, encoder = _cloud(rng, 150), _encoder(grid, rng)
    sparse = encoder(cloud, 2)
    dense = _dense_network(encoder, *_voxels(cloud, grid))
    assert sparse.shape == (2, SPEC.channels, grid.rows, grid.columns) == (2, 12, 4, 6)
    assert sparse.count_nonzero() > 100
    assert_close(sparse, dense, atol=1e-10, rtol=1e-10)
    parameters = dict(encoder.named_parameters())
    mine, theirs = (torch.autograd.grad(bev.sin().sum(), list(parameters.values())) for bev in (sparse, dense))
    for name, one, other in zip(parameters, mine, theirs, strict=True):
        assert one.abs().sum() > 0, name
        assert_close(one, other, atol=1e-9, rtol=1e-9, msg=name)


def test_published_norms_and_map():
    spec = VoxelNetSpec()
    assert spec.channels == 256
    assert spec.strides[2] == ((3, 3, 3), (2, 2, 2), (0, 1, 1))
    assert (spec.norm.eps, spec.norm.momentum) == (1e-3, 0.01)


def test_two_encoders_of_one_kind_share_what_the_points_say(rng, grid):
    cloud = _cloud(rng, 50)
    wide = SPEC.model_copy(update={"widths": (5, 6, 7)})
    one, other = _encoder(grid, rng), _encoder(grid, rng, wide)
    one(cloud, 2), other(cloud, 2)
    assert len(cloud.derived) == 1
    one.train()(cloud, 2)  # with as many voxels as in training
    assert len(cloud.derived) == 2


def test_no_points_give_an_empty_map_and_zero_gradients(grid, rng):
    encoder = _encoder(grid, rng).train()
    bev = encoder(Points(torch.zeros(0, 5).double(), torch.zeros(0, dtype=torch.long)), 2)
    bev.sum().backward()
    assert bev.shape == (2, 12, 4, 6)
    assert not bev.any()
    assert not encoder.stem.conv.weight.grad.any()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"voxels_per_cell": 8}, "3 widths need 4"), ({"height_bins": 4}, "height_bins 4 are too few for 3 levels")],
)
def test_levels_that_do_not_reach_the_grid_are_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        VoxelNetSpec(**(SPEC.model_dump() | change))


@pytest.mark.skipif(not (torch.version.cuda and torch.cuda.is_available()), reason="no CUDA device")
def test_cuda_computes_what_a_cpu_does(rng, grid):
    cloud, encoder = _cloud(rng, 300), _encoder(grid, rng).float()
    cloud = Points(cloud.values.float(), cloud.sample)
    on_cpu = encoder(cloud, 2)
    mine = torch.autograd.grad(on_cpu.sin().sum(), list(encoder.parameters()))
    encoder.cuda()
    on_cuda = encoder(cloud.to("cuda"), 2)
    theirs = torch.autograd.grad(on_cuda.sin().sum(), list(encoder.parameters()))
    assert_close(on_cuda.cpu(), on_cpu, atol=1e-4, rtol=1e-4)
    assert_close([each.cpu() for each in theirs], list(mine), atol=1e-3, rtol=1e-3)
