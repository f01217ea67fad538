"""Which library convolves sparse maps on CUDA: spconv, spconv-triton, or none of them."""

import importlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions, version
from types import ModuleType
from typing import Any

import torch

SPCONV_LAST = (9, 0)
"""The last compute capability that spconv's kernels are built for."""
TRITON, PLAIN = "spconv-triton", "plain torch"


@dataclass(frozen=True)
class SparsePackages:
    """The installed packages for sparse convolution."""

    builds: tuple[str, ...] = ()
    """Distributions of spconv, such as spconv-cu126; spconv alone is the build for CPUs, or one made from source."""
    cpu_only: bool = False
    """Whether the module spconv is the build for CPUs."""
    triton: bool = False

    @property
    def for_cuda(self) -> tuple[str, ...]:
        """The builds for CUDA."""
        return tuple(name for name in self.builds if name != "spconv")

    def lacks_overwritten(self, capability: tuple[int, int]) -> bool:
        """Whether the build for CPUs lies over one for CUDA, in files of the same names, that the GPU would use."""
        return self.cpu_only and bool(self.for_cuda) and capability <= SPCONV_LAST

    def choose(self, capability: tuple[int, int]) -> str | None:
        """The distribution that convolves on a GPU of this compute capability; None: plain torch."""
        if self.builds and not self.cpu_only and capability <= SPCONV_LAST:
            return (*self.for_cuda, "spconv")[0]
        return TRITON if self.triton else None


def installed_packages() -> SparsePackages:
    """Detect the packages of this environment."""
    names = sorted({re.sub(r"[-_.]+", "-", each.metadata["Name"] or "").lower() for each in distributions()})
    builds = tuple(name for name in names if re.fullmatch(r"spconv(-cu\d+)?", name))
    there = importlib.util.find_spec("spconv") is not None
    cpu_only = there and importlib.import_module("spconv.cppconstants").CPU_ONLY_BUILD
    return SparsePackages(builds if there else (), cpu_only, importlib.util.find_spec("spconv_triton") is not None)


@cache
def chosen_package() -> str | None:
    """The distribution that convolves on this process's GPU; None: plain torch."""
    return installed_packages().choose(torch.cuda.get_device_capability())


@cache
def cuda_library() -> ModuleType | None:
    """spconv, or spconv-triton, which has the same interface; None where neither is there for this GPU."""
    package = chosen_package()
    if package is None:
        return None
    return importlib.import_module("spconv_triton.pytorch" if package == TRITON else "spconv.pytorch")


def sparse_text(device: str) -> str:
    """Name what convolves sparse maps on a type of device, with its version: ``spconv-cu126 2.3.8``."""
    package = chosen_package() if device == "cuda" else None
    return PLAIN if package is None else f"{package} {version(package)}"


def allows_tf32(dtype: torch.dtype) -> bool:
    """Whether the library may multiply in TF32 where features of this type are asked for.

    TF32 has float32's range and ten bits of mantissa: it holds every bfloat16 number. Float32 numbers it rounds, which
    torch permits its own convolutions by `torch.backends.cudnn.allow_tf32`.
    """
    return dtype != torch.float32 or torch.backends.cudnn.allow_tf32


def let_multiply_in_tf32(library: ModuleType, allowed: bool) -> None:
    """Set whether a library multiplies float32 numbers in TF32, forward and backward, from the next call on.

    spconv keeps the algorithm that it has tuned for the first call of a size, with TF32 or without. A process therefore
    sticks to one precision, as a training does.
    """
    # Of the package, not of its module `pytorch`, which has constants of its own.
    constants: Any = importlib.import_module(library.__name__.partition(".")[0] + ".constants")
    constants.SPCONV_ALLOW_TF32 = allowed
