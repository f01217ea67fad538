"""Folds batch norms into the convolutions before them, for a model that is looked at and never trained."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from detectors.encoders.bev_trunk import ResNetFpnTrunk
from detectors.encoders.resnet import BasicBlock, Bottleneck, ResNet

Model = TypeVar("Model", bound=nn.Module)


def folded(model: Model) -> Model:
    """A copy of a model in eval mode that computes the same with fewer passes over its maps."""
    assert not model.training, "the statistics of a batch cannot be folded"
    result = copy.deepcopy(model)
    for parent in list(result.modules()):
        for conv_name, norm_name in _pairs(parent):
            conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and type(norm) is nn.BatchNorm2d:
                fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
                parent.add_module(conv_name, fused)
                parent.add_module(norm_name, nn.Identity())
    return result


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of children of which the second takes what the first returns, and nothing else does."""
    match parent:
        case nn.Sequential():
            # Every second pair would do, but which ones, the modules say.
            yield from list(pairwise(name for name, _ in parent.named_children()))
        case ResNet() | ResNetFpnTrunk():
            yield "conv1", "bn1"
        case BasicBlock():
            yield from (("conv1", "bn1"), ("conv2", "bn2"))
        case Bottleneck():
            yield from (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
