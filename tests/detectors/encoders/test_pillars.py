"""PointPillars: what is said of each point, and the maximum over a pillar."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from detectors.batch import Points
from detectors.conv_block import NormSpec
from detectors.encoders.pillars import PillarSpec
from detectors.encoders.point_net import PointNet

SPEC = PillarSpec(pillars_per_cell=2, most_points=3, widths=(8, 6))


def _cloud(rng, count=60):
    low, extent = torch.tensor([-4.0, -8.0, -3.0, 0.0, 0.0]), torch.tensor([16.0, 12.0, 8.0, 1.0, 0.5])
    points = low + extent * torch.rand(count, 5, generator=rng)
    points[: count // 2, :2] = 0.1 + 0.3 * torch.rand(count // 2, 2, generator=rng)  # in one pillar
    return Points(points, torch.arange(count) * 2 // count)


def _encoder(grid, spec, rng):
    torch.manual_seed(0)
    encoder = spec.build(grid).eval()
    for norm in encoder.points.norms:
        norm.running_mean.normal_(generator=rng)
        norm.running_var.uniform_(0.5, 2, generator=rng)
        norm.bias.data.normal_(generator=rng)
    return encoder


def _layer(rows, linear, norm):
    return F.batch_norm(
        rows @ linear.weight.T, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=1e-3
    ).relu()


def test_pillar_by_pillar(rng, grid):
    cloud, encoder = _cloud(rng), _encoder(grid, SPEC, rng)
    bev = encoder(cloud, 2)
    assert bev.shape == (2, 6, 2 * grid.rows, 2 * grid.columns)
    expected = torch.zeros_like(bev)
    pillars = {}
    for values, sample in zip(cloud.values, cloud.sample.tolist(), strict=True):
        place = sample, int((values[1] + 8) / 0.5), int((values[0] + 4) / 0.5)
        pillars.setdefault(place, []).append(values)
    assert max(map(len, pillars.values())) > 3
    linears, norms = encoder.points.linears, encoder.points.norms
    for (sample, row, column), points in pillars.items():
        points = torch.stack(points[:3])
        middle = torch.tensor([-4 + (column + 0.5) / 2, -8 + (row + 0.5) / 2, 1.0])
        described = torch.cat([points, points[:, :3] - points[:, :3].mean(dim=0), points[:, :3] - middle], dim=1)
        assert described.shape[1] == 11
        slots = torch.zeros(3, 11)
        slots[: len(points)] = described
        hidden = _layer(slots, linears[0], norms[0])
        hidden = torch.cat([hidden, hidden.amax(dim=0).expand(3, -1)], dim=1)
        expected[sample, :, row, column] = _layer(hidden, linears[1], norms[1]).amax(dim=0)
    assert_close(bev, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "values"), [({}, 11), ({"middle_axes": 2}, 10), ({"middle_axes": 2, "age": False}, 9)]
)
def test_points_have_nine_to_eleven_values(rng, grid, fields, values):
    spec = PillarSpec(**fields)
    assert spec.point_features == values
    assert spec.build(grid).eval()(_cloud(rng), 2).isfinite().all()


def test_no_points_give_an_empty_map_and_zero_gradients(grid):
    encoder = SPEC.build(grid)
    bev = encoder(Points(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)), 1)
    bev.sum().backward()
    assert not bev.any()
    assert not encoder.points.linears[0].weight.grad.any()


def test_statistics_count_empty_slots(rng):
    net = PointNet(2, (4,), NormSpec(momentum=1.0), repeats_maximum=True)
    points = torch.randn(5, 3, 2, generator=rng)
    is_point = torch.rand(5, 3, generator=rng) < 0.5
    net(points, is_point)
    rows = (points * is_point[..., None]).flatten(0, 1) @ net.linears[0].weight.T
    assert_close(net.norms[0].running_mean, rows.mean(dim=0))
    assert_close(net.norms[0].running_var, rows.var(dim=0))


@pytest.mark.skipif(not (torch.version.cuda and torch.cuda.is_available()), reason="no CUDA device")
def test_cuda_computes_what_a_cpu_does(rng, grid):
    cloud, encoder = _cloud(rng), _encoder(grid, SPEC, rng)
    on_cpu = encoder(cloud, 2)
    assert_close(encoder.cuda()(cloud.to("cuda"), 2).cpu(), on_cpu, atol=1e-5, rtol=1e-5)
