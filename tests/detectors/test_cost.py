"""The cost of a detector is counted, not guessed."""

import torch

from detectors.cost import example_batch, measure
from detectors.presets import PRESETS, TINY_PRESETS


def test_the_example_batch_carries_what_each_preset_asks_for():
    for spec in TINY_PRESETS.values():
        batch = example_batch(spec, 2)
        batch.require(spec.inputs.sensors)
        assert (batch.views is None) == (spec.inputs.image_size is None)
        assert (batch.lidar is None) == (spec.inputs.lidar_sweeps == 0)
        assert (batch.radar is None) == (spec.inputs.radar_sweeps == 0)


def test_parameters_operations_and_shape_of_the_smallest_preset():
    spec = PRESETS["tiny_radar"]
    cost = measure(spec, batch_size=1, device="cpu", steps=1)
    detector = spec.build()
    assert cost.parameters == sum(p.numel() for p in detector.parameters())
    assert cost.bev_shape == (spec.low_channels, spec.grid.rows, spec.grid.columns)
    # Convolutions of the encoder at full resolution: multiply and add for every weight in every cell.
    dense = sum(layer.weight.numel() for layer in detector.radar.spread if isinstance(layer, torch.nn.Conv2d))
    assert cost.flops > 2 * dense * spec.grid.rows * spec.grid.columns
    assert cost.step_seconds > 0
