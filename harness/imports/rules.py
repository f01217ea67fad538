"""Rules: which tensor of another program each of ours is, and how it has to be changed."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """What makes of their tensor ours, and of ours theirs. Theirs may have several layouts, which the shape tells."""

    to_ours: Callable[[Tensor, Shape, bool], Tensor]
    """Of their tensor, our shape, and what to do where the shape does not tell."""
    to_theirs: Callable[[Tensor], Tensor]


def _same(tensor: Tensor, _: Shape, __: bool = False) -> Tensor:
    return tensor


SAME = Change(_same, lambda tensor: tensor)


def _from_spconv_1(tensor: Tensor) -> Tensor:
    return rearrange(tensor, "kz ky kx i o -> o kz ky kx i")


def _to_spconv_1(tensor: Tensor) -> Tensor:
    return rearrange(tensor, "o kz ky kx i -> kz ky kx i o")


def _unlaid(tensor: Tensor, shape: Shape, first_layout: bool) -> Tensor:
    """A sparse kernel of spconv 1 or 2 (ours); the shape decides unless it fits both."""
    if tensor.dim() != 5:
        return tensor
    turned = _from_spconv_1(tensor)
    fits, fits_turned = tuple(tensor.shape) == shape, tuple(turned.shape) == shape
    return turned if (first_layout if fits and fits_turned else fits_turned) else tensor


SPARSE = Change(_unlaid, lambda tensor: tensor)
"""A kernel of spconv 2, or of spconv 1, whose axes are in another order."""


def _turned_1x1(tensor: Tensor, shape: Shape, transposed: bool) -> Tensor:
    """A 1x1 convolution that was a transposed one: the same map with its channels exchanged."""
    if tensor.dim() != 4 or tuple(tensor.shape[2:]) != (1, 1) or tuple(shape[2:]) != (1, 1):
        return tensor
    other = tensor.transpose(0, 1).contiguous()
    fits, fits_other = tuple(tensor.shape) == shape, tuple(other.shape) == shape
    return other if (transposed if fits and fits_other else fits_other) else tensor


def resampling(transposed: bool) -> Change:
    """A convolution of SECOND's pyramid, whose 1x1 kernel may have been a transposed convolution's."""

    def theirs(tensor: Tensor) -> Tensor:
        is_1x1 = tensor.dim() == 4 and tuple(tensor.shape[2:]) == (1, 1)
        return tensor.transpose(0, 1).contiguous() if transposed and is_1x1 else tensor

    return Change(lambda tensor, shape, _: _turned_1x1(tensor, shape, transposed), theirs)


def rows(order: Sequence[int], sign: float = 1.0) -> Change:
    """Output channels in another order, which is its own inverse, and perhaps with the other sign."""
    indices = list(order)
    assert [indices[i] for i in indices] == list(range(len(indices))), "an order that is not its own inverse"

    def exchanged(tensor: Tensor) -> Tensor:
        return sign * tensor[indices] if len(tensor) == len(indices) else tensor

    return Change(lambda tensor, _, __: exchanged(tensor), exchanged)


def halves_exchanged(*axes: int) -> Change:
    """The first and the second half of these axes exchanged: two sensors' channels joined in the other order."""

    def exchanged(tensor: Tensor) -> Tensor:
        for axis in axes:
            first, second = tensor.chunk(2, dim=axis)
            tensor = torch.cat([second, first], dim=axis)
        return tensor

    return Change(lambda tensor, _, __: exchanged(tensor), exchanged)


def scaled_input(channel: int, factor: float, axis: int, change: Change = SAME) -> Change:
    """A weight whose input had so many times our values in one channel.

    Args:
        channel: Of the input.
        factor: Theirs divided by ours.
        axis: Of our weight, its input channels.
        change: That is to be done besides.
    """

    def scaled(tensor: Tensor, larger: bool) -> Tensor:
        if tensor.dim() < 2 or tensor.shape[axis] <= channel:
            return tensor  # of another network, which its shape will tell
        result = tensor.clone()
        values = result.select(axis, channel)
        values.copy_(values * factor if larger else values / factor)
        return result

    return Change(
        lambda tensor, shape, hint: scaled(change.to_ours(tensor, shape, hint), larger=True),
        lambda tensor: change.to_theirs(scaled(tensor, larger=False)),
    )


@dataclass(frozen=True)
class Rule:
    """Our names of a pattern, and theirs."""

    ours: str
    """A regular expression for all of a name."""
    theirs: str | Callable[[re.Match[str]], str]
    """The name there: a template with groups, or a function of the match."""
    change: Change = SAME
    bias: str | None = None
    """For a running mean: template of the name of a bias that their convolution before the norm may have, and ours has
    not. It is folded into the mean."""


@dataclass
class Fit:
    """What came of putting their tensors in the place of ours."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Our names of tensors that the checkpoint does not have, and their names there."""
    extra: list[str] = field(default_factory=list)
    """Their names of tensors that no rule uses."""
    misshapen: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    """Their names of tensors of another shape: that, and the one that is needed."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Our names, and theirs."""

    @property
    def is_complete(self) -> bool:
        """Whether every tensor there is used, and every one of ours filled."""
        return not (self.missing or self.extra or self.misshapen)


def find(rules: Iterable[Rule], name: str) -> tuple[Rule, re.Match[str]] | None:
    """The first rule for one of our names."""
    for rule in rules:
        if match := re.fullmatch(rule.ours, name):
            return rule, match
    return None


def theirs_of(rule: Rule, match: re.Match[str]) -> str:
    """The name of the other program."""
    return match.expand(rule.theirs) if isinstance(rule.theirs, str) else rule.theirs(match)


def fit(rules: Sequence[Rule], theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], known: Iterable[str]) -> Fit:
    """Their tensors in the place of ours.

    Args:
        rules: Of their program.
        theirs: By their names.
        ours: Tensors of the right shapes by our names; their values do not matter.
        known: Names of theirs that are no weights, and of no use here.
    """
    result, used = Fit(), set(known)
    first_layout = _is_first_layout(rules, theirs, ours)
    named = {theirs_of(*each) for name in ours if (each := find(rules, name))}
    for name, like in ours.items():
        rule_and_match = find(rules, name)
        if rule_and_match is None:
            result.missing[name] = "no rule names it; the preset has a part that this program does not"
            continue
        rule, match = rule_and_match
        there = theirs_of(rule, match)
        result.renamed[name] = there
        if there not in theirs:
            # A count of batches, which older programs did not keep, and which nothing here reads.
            if name.endswith("num_batches_tracked"):
                result.tensors[name] = torch.zeros_like(like)
            else:
                result.missing[name] = there
            continue
        used.add(there)
        tensor = rule.change.to_ours(theirs[there], tuple(like.shape), first_layout)
        if tuple(tensor.shape) != tuple(like.shape):
            result.misshapen[there] = tuple(theirs[there].shape), tuple(like.shape)
            continue
        if rule.bias is not None and (bias := match.expand(rule.bias)) in theirs and bias not in named:
            used.add(bias)
            tensor = tensor - theirs[bias]
        result.tensors[name] = tensor.to(like.dtype)
    result.extra = sorted(theirs.keys() - used)
    return result


def exported(rules: Sequence[Rule], ours: Mapping[str, Tensor], spconv: int = 2) -> dict[str, Tensor]:
    """Our tensors by the names and in the layout of another program: what `fit` undoes.

    Args:
        rules: Of that program.
        ours: Of a detector.
        spconv: The version whose layout sparse kernels get.
    """
    result = {}
    for name, tensor in ours.items():
        rule_and_match = find(rules, name)
        assert rule_and_match is not None, f"no rule for {name}"
        rule, match = rule_and_match
        turned = rule.change.to_theirs(tensor)
        result[theirs_of(rule, match)] = _to_spconv_1(turned) if spconv == 1 and turned.dim() == 5 else turned
    return result


def _is_first_layout(rules: Sequence[Rule], theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> bool:
    """Whether sparse kernels are those of spconv 1, by all whose shape tells."""
    votes = 0
    for name, like in ours.items():
        if like.dim() != 5 or (rule_and_match := find(rules, name)) is None:
            continue
        tensor = theirs.get(theirs_of(*rule_and_match))
        if tensor is not None and tensor.dim() == 5:
            fits = tuple(tensor.shape) == tuple(like.shape)
            fits_turned = tuple(_from_spconv_1(tensor).shape) == tuple(like.shape)
            votes += int(fits_turned) - int(fits)
    return votes > 0
