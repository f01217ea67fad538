"""The device and precision on which a detector is examined."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from detectors.batch import Batch
from detectors.detector import Detector
from detectors.outputs import DetectorOutput


@dataclass(frozen=True)
class Machine:
    """A device and its precision."""

    device: torch.device
    name: str
    """Its name in results: cpu (x86_64), cuda (NVIDIA H200)."""
    threads: int
    autocast: Callable[[], AbstractContextManager]
    """Around every forward pass."""

    def look(self, detector: Detector, batch: Batch) -> DetectorOutput:
        """All maps of a detector in eval mode, without gradient; both have to be on the device."""
        if detector.training:
            raise RuntimeError("a detector in training mode would change its statistics")
        with torch.no_grad(), self.autocast():
            return detector(batch)

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
