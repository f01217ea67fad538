"""Machine: the device on which models are trained, scored and examined, with its precision and threads."""

import os
import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from detectors.batch import Batch
from detectors.detector import Detector
from detectors.encoders.sparse_library import PLAIN, allows_tf32, sparse_text
from detectors.outputs import DetectorOutput
from harness.diagnose.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Machine:
    """One device, and how it computes."""

    device: torch.device
    precision: str = "32-true"
    """32-true, or bf16-mixed: forward passes under autocast, weights and their updates in float32."""
    threads: int = 1
    """Threads of an operation on the processor."""
    ranks: Ranks = ALONE
    """The processes that train together, each on a device of its own."""

    @property
    def name(self) -> str:
        """Its name in results: cpu (x86_64), cuda (NVIDIA H200)."""
        kind = self.device.type
        return f"{kind} ({torch.cuda.get_device_name(self.device) if kind == 'cuda' else platform.machine()})"

    def autocast(self) -> AbstractContextManager:
        """The context of every forward pass."""
        if self.precision == "32-true":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def look(self, detector: Detector, batch: Batch) -> DetectorOutput:
        """All maps of a detector in eval mode, without gradient; both have to be on the device."""
        if detector.training:
            raise RuntimeError("a detector in training mode would change its statistics")
        with torch.no_grad(), self.autocast():
            return detector(batch)

    def facts(self) -> dict[str, str]:
        """How it computes, beside its precision: what may change a result's numbers, as a result records it."""
        known = {"device": self.name, "torch": torch.__version__, "threads": str(self.threads)}
        known["sparse"] = sparse_text(self.device.type)
        if self.device.type == "cuda":
            cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
            asked = torch.float32 if self.precision == "32-true" else torch.bfloat16
            in_sparse = known["sparse"] != PLAIN and allows_tf32(asked)
            tf32 = {"convolutions": cudnn.allow_tf32, "matmul": matmul.allow_tf32, "sparse": in_sparse}
            fixed = {"torch": torch.are_deterministic_algorithms_enabled(), "cuDNN": cudnn.deterministic}
            known |= {"tf32": _those(tf32), "deterministic": _those(fixed)}
            known["cudnn_benchmark"] = "on" if cudnn.benchmark else "off"
        return known

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def _those(flags: Mapping[str, bool]) -> str:
    """The names of the flags that are set."""
    return ", ".join(name for name, is_set in flags.items() if is_set) or "none"


def open_machine(
    device: str, precision: str, threads: int, ranks: Ranks = ALONE, deterministic: bool = False
) -> Machine:
    """The machine of this process, whose threads it sets.

    Args:
        device: cpu, cuda or mps; cuda is the first GPU that this process may use.
        precision: As `Machine.precision`.
        threads: As `Machine.threads`.
        ranks: As `Machine.ranks`. Of the GPUs that this process may use, each takes the one of its number.
        deterministic: Whether only operations are used that give the same bits each time.
    """
    torch.set_num_threads(threads)
    if deterministic:
        _be_deterministic()
    if device != "cuda":
        return Machine(torch.device(device), precision, threads, ranks)
    ours = torch.device("cuda", ranks.number)
    torch.cuda.set_device(ours)
    return Machine(ours, precision, threads, ranks)


def _be_deterministic() -> None:
    """Let this process use only operations that give the same bits each time, as far as torch has them."""
    # cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # A warning names each operation that has no such form; some of ours, as reading maps at points, have none.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
