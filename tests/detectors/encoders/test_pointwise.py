"""A detector takes no convolution that oneDNN computes past the end of its memory."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.encoders.image import ImageSpec
from detectors.encoders.pointwise import SAFE_CHANNELS, StridedPointwise, is_unsafe, replace_unsafe
from detectors.encoders.resnet import ResNetSpec
from detectors.presets import SEGMENTERS, TINY_PRESETS

# The smallest program that shows the fault: alone it ends in a crash, in most runs, and else in a wrong gradient. With
# two threads it may also wait for ever.
RAW = """
import torch
import torch.nn.functional as F

torch.set_num_threads(1)
x = torch.ones(4, 4, 16, 44).contiguous(memory_format=torch.channels_last)
weight = torch.ones(6, 4, 1, 1, requires_grad=True)
F.conv2d(x, weight, stride=2).sum().backward()
assert torch.equal(weight.grad, torch.full_like(weight.grad, 4 * 8 * 22.0))
"""
# The same as a detector does it, at every width at which the library's own is wrong on some processor.
MENDED = """
import torch
from torch import nn
from detectors.encoders.pointwise import replace_unsafe

torch.set_num_threads({threads})
for channels in range(1, 16):
    x = torch.ones(4, channels, 16, 44).contiguous(memory_format=torch.channels_last)
    model = nn.Sequential(nn.Conv2d(channels, 6, 1, stride=2, bias=False))
    replace_unsafe(model)
    model(x).sum().backward()
    (weight,) = model.parameters()
    assert torch.equal(weight.grad, torch.full_like(weight.grad, 4 * 8 * 22.0)), channels
"""


def _run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_gradient_of_narrow_maps_is_right_and_nothing_crashes(threads):
    done = _run(MENDED.format(threads=threads))
    assert done.returncode == 0, done.stderr


@pytest.mark.exhaustive
def test_the_library_still_has_the_fault():
    # If this fails with a newer torch, on a processor with AVX2: the file under test can go.
    assert any(_run(RAW).returncode for _ in range(10))


def _models():
    narrow = ResNetSpec(stem_width=4, widths=(4, 6, 8, 10), depths=(1, 1, 1, 1))
    yield "narrow", ImageSpec(backbone=narrow, channels=7)
    yield from TINY_PRESETS.items()
    yield from SEGMENTERS.items()


@pytest.mark.parametrize("spec", [pytest.param(spec, id=name) for name, spec in _models()])
def test_no_model_has_an_unsafe_convolution(spec):
    assert not any(map(is_unsafe, spec.build().modules()))


@pytest.mark.parametrize(("stride", "size"), [(2, (5, 8)), ((1, 3), (4, 7)), (3, (1, 1))])
def test_replacing_changes_no_value_no_name_and_draws_nothing(rng, stride, size):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(6, 4, 1, stride=stride, groups=2)).double()
    torch.manual_seed(0)
    safe = nn.Sequential(nn.Conv2d(6, 4, 1, stride=stride, groups=2)).double()
    state = torch.get_rng_state()
    replace_unsafe(safe)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(safe[0]) is StridedPointwise
    assert safe.state_dict().keys() == plain.state_dict().keys()

    x = torch.randn(2, 6, *size, generator=rng, dtype=torch.float64)
    results = []
    for model in (plain, safe):
        own = x.clone().requires_grad_()
        y = model(own)
        results.append((y, *torch.autograd.grad(y.sin().sum(), [own, *model.parameters()])))
    assert_close(results[1], results[0])


def test_what_the_library_computes_right_is_left_to_it():
    right = [
        nn.Conv2d(SAFE_CHANNELS, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 4, 1, stride=2, padding=1),
    ]
    model = nn.Sequential(*right)
    replace_unsafe(model)
    assert list(model) == right
