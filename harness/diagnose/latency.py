"""Latency: measures the time from a sample to its boxes."""

import statistics
import time
from typing import Literal

from detectors.detector import Detector
from detectors.spec import Spec
from harness.data.loader import SampleSet, evaluation_batches
from harness.diagnose.machine import Machine

SAMPLES = 20
WARM_UP = 5


class Latency(Spec):
    """The latency of one detector."""

    form: Literal[1] = 1
    milliseconds: float
    """Median time of forward pass and decoding, one sample at a time, without loading."""
    samples: int
    device: str
    threads: int


def measure_latency(detector: Detector, samples: SampleSet, machine: Machine) -> Latency:
    """Time a detector in eval mode on each of these samples, after some warm-up passes."""
    batches = [batch.to(machine.device) for batch in evaluation_batches(samples, batch_size=1)]
    milliseconds = []
    for seen in (*batches[:WARM_UP], *batches):
        # Anew, without what an encoder has worked out from it before.
        batch = seen.to(machine.device)
        machine.wait()
        began = time.perf_counter()
        detector.decode(machine.look(detector, batch))
        machine.wait()
        milliseconds.append(1000 * (time.perf_counter() - began))
    median = statistics.median(milliseconds[-len(batches) :])
    return Latency(milliseconds=median, samples=len(batches), device=machine.name, threads=machine.threads)
