"""A device that pretends to be CUDA: its tensors say that they are on cuda:0, and hold their values on the CPU.

It works with builds of torch without CUDA, and needs a C++ compiler once. Unlike FakeTensorMode it computes, so that
code whose shapes depend on data runs. An operation that mixes devices fails, autocast follows CUDA's own rules, and
every place is counted where the host would wait for a card. It cannot know whether a kernel is missing, slow, or adds
in another order every time. Import this module before torch, which asks only once whether there is CUDA.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from unittest import mock

_LIBRARY = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, getDevice()); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(getDevice()); }
  c10::Stream getDefaultStream(c10::Device) const override { return getStream(getDevice()); }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
};
namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, ::Hooks)
}
"""


def compiler() -> str | None:
    """The C++ compiler that the device needs, if there is one."""
    return shutil.which(os.environ.get("CXX", "c++"))


def _load_library() -> None:
    """Add what a build of torch without CUDA lacks: a guard of the device that does nothing, and hooks that find it."""
    base = Path(importlib.util.find_spec("torch").origin).parent
    library = Path(tempfile.gettempdir()) / f"pretend_cuda_{os.getuid()}_{version('torch')}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder) / "pretend.cpp", Path(folder) / "pretend.so"
            source.write_text(_LIBRARY)
            command = [compiler() or "c++", "-std=c++20", "-shared", "-fPIC", f"-I{base / 'include'}", str(source)]
            subprocess.run([*command, "-o", str(made), f"-L{base / 'lib'}", "-lc10", "-ltorch_cpu"], check=True)
            # In one step: another process may want it at the same time.
            shutil.copy(made, beside := library.with_suffix(f".{os.getpid()}"))
            beside.replace(library)
    ctypes.CDLL(str(base / "lib" / "libtorch_cpu.so"))
    ctypes.CDLL(str(library))


assert "torch" not in sys.modules, "torch asks only once whether there is CUDA: import tests.gpu.pretend.device first"
_load_library()

import torch  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing  # noqa: E402
from torch.utils._pytree import tree_flatten, tree_map_only  # noqa: E402

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
REPOSITORY = Path(__file__).parents[3]

_WAITS = {
    aten._local_scalar_dense: "item",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.equal: "equal",
    aten._linalg_check_errors: "check of linalg",
    aten.bincount: "bincount",
}
"""Operations whose result's size, or whose success, the host has to hear from the card."""
_INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class MixedDevices(RuntimeError):
    """An operation has tensors of both devices, which a GPU refuses."""


@dataclass
class Log:
    """What a card would be asked, and where the host would wait for it."""

    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By kind and by file:line of the innermost frame in the repository."""
    operations: Counter[str] = field(default_factory=Counter)
    """By operator: about the kernels that a card would launch."""
    copied: int = 0
    """Bytes between host and device."""

    def clear(self) -> None:
        """Forget everything so far."""
        self.waits.clear()
        self.operations.clear()
        self.copied = 0

    def wait(self, kind: str) -> None:
        """Count one wait."""
        self.waits[kind, _place()] += 1


def _place() -> str:
    """The innermost line of ours."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(REPOSITORY) and path != Path(__file__) and not path.is_relative_to(sys.prefix):
            return f"{path.relative_to(REPOSITORY)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"


class PretendTensor(torch.Tensor):
    """A tensor on cuda:0 whose values are in a CPU tensor."""

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "PretendTensor":
        """A tensor of the same shape and type."""
        return torch.Tensor._make_wrapper_subclass(
            cls, values.size(), values.stride(), values.storage_offset(), dtype=values.dtype, device=CUDA
        )

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"PretendTensor({self.values!r})"

    # With these two, `Module.to` swaps parameters instead of giving one tensor another's device.
    def __tensor_flatten__(self):
        """What holds the values."""
        return ["values"], None

    @staticmethod
    def __tensor_unflatten__(inner, *_):
        """The way back."""
        return PretendTensor(inner["values"])

    def __reduce_ex__(self, protocol):
        """Saved as its values, for those who load with `map_location="cpu"`."""
        return self.values.__reduce_ex__(protocol)

    def __deepcopy__(self, memo):
        """A leaf of its own."""
        copied = PretendTensor(self.values.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def record_stream(self, stream) -> None:
        """Memory is not handed out again too early, for there is only one stream."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Outside of `pretend_cuda`, where nothing is counted."""
        return _run(func, args, kwargs or {}, Log())


_pinned: set[int] = set()
"""Addresses of memory that was asked to be pinned; it never is."""


def _run(func, args, kwargs, log: Log):
    packet = func.overloadpacket
    if packet in (aten.is_pinned, aten._pin_memory):
        return _pin(packet, args[0])
    tensors = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, PretendTensor)]
    here = [t for t in tensors if not isinstance(t, PretendTensor)]
    to_cuda = bool(there) if kwargs.get("device") is None else torch.device(kwargs["device"]).type == "cuda"
    if packet in (aten._to_copy, aten.copy_):
        source = args[0] if packet is aten._to_copy else args[1]
        to_cuda = to_cuda if packet is aten._to_copy else isinstance(args[0], PretendTensor)
        if isinstance(source, PretendTensor) != to_cuda:
            log.copied += source.nbytes
            ahead = kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2])
            # Memory that is not pinned goes through a buffer that is, for which the host waits.
            if not (to_cuda and ahead and source.data_ptr() in _pinned):
                log.wait("copy to device" if to_cuda else "copy to host")
    elif there:
        if packet in _WAITS:
            log.wait(_WAITS[packet])
        elif packet in _INDEXED:
            indices = [index for index in args[1] if index is not None]
            for index in indices:
                if index.dtype in (torch.bool, torch.uint8):
                    log.wait("boolean index")
                if not isinstance(index, PretendTensor):
                    log.wait("index from host")
            here = [t for t in here if all(t is not index for index in indices)]
        elif packet is aten.repeat_interleave and kwargs.get("output_size") is None:
            log.wait("repeat_interleave without output_size")
        elif packet is aten.where:
            # `where_self_out` in aten/native/TensorCompare.cpp copies a number from the host to the device.
            for _ in (t for t in here if t.dim() == 0):
                log.wait("number for where")
        for t in here:
            if t.dim():
                raise MixedDevices(f"{func} of cuda:0 and a CPU tensor of shape {tuple(t.shape)}")
    if to_cuda:
        log.operations[str(packet)] += 1

    inner_args, inner_kwargs = tree_map_only(PretendTensor, lambda t: t.values, (args, kwargs))
    if inner_kwargs.get("device") is not None:
        inner_kwargs["device"] = torch.device("cpu")
    out = func(*inner_args, **inner_kwargs)
    if not to_cuda:
        return out
    return return_and_correct_aliasing(func, args, kwargs, tree_map_only(torch.Tensor, PretendTensor, out))


def _pin(packet, tensor: torch.Tensor):
    if packet is aten.is_pinned:
        return tensor.data_ptr() in _pinned
    copied = tensor.clone()
    _pinned.add(copied.data_ptr())
    return copied


class _Dispatch(TorchDispatchMode):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {}, self.log)


class _ToList(TorchFunctionMode):
    """torch refuses to make a list or an array of a subclass."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.tolist and isinstance(args[0], PretendTensor):
            return args[0].detach().to("cpu").tolist()
        return func(*args, **(kwargs or {}))


class _Stream:
    """The only stream there is, under any number of names."""

    def __init__(self, *_, **__) -> None: ...

    def wait_stream(self, _) -> None:
        """Nothing runs beside it."""

    def synchronize(self) -> None:
        """Nothing runs ahead of the host."""


@contextmanager
def pretend_cuda() -> Iterator[Log]:
    """Inside, "cuda:0" is there. Yields the log of what happens."""
    log = Log()
    stream = _Stream()
    patches = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.set_device": lambda *_: None,
        "torch.cuda.get_device_name": lambda *_: "pretended",
        "torch.cuda.get_device_capability": lambda *_: (9, 0),
        "torch.cuda.synchronize": lambda *_: log.wait("synchronize"),
        "torch.cuda.Stream": _Stream,
        "torch.cuda.current_stream": lambda *_: stream,
        "torch.cuda.stream": lambda *_: nullcontext(),
        "torch.cuda.is_current_stream_capturing": lambda: False,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.random.fork_rng": _fork_rng(),
    }
    with ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch(name, value))
        # torch.tensor(..., device="cuda") then copies where the mode below sees it.
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        # On another thread, no stack would lead to the line that asks.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_ToList())
        stack.enter_context(_Dispatch(log))
        yield log


def _fork_rng():
    forked = torch.random.fork_rng
    return lambda *_, **__: forked(devices=[])
