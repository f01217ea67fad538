"""Time and memory of a training step: the presets, and detectors of about the papers' input sizes."""

import time

import torch

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.presets import TINY_PRESETS
from harness.study.schedule import ScheduleSpec
from harness.train.optim import optimizer_of
from tests.gpu.common import LARGE, Rows, full_batch, large_batch, libraries, milliseconds, sparse_by


def measure(spec: DetectorSpec, batch: Batch, bf16: bool) -> tuple[float, float]:
    """Milliseconds and GiB of a step; the batch is on the card, and the plan of cameras with it."""
    torch.manual_seed(0)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    detector = spec.build().cuda().train()
    optimizer = optimizer_of(detector.parameters(), ScheduleSpec(steps=1))

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bf16):
            terms = detector.loss(detector(batch), batch).terms
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return milliseconds(step), torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    """One row a detector, batch size, precision and, with LiDAR, library."""
    rows, rng = Rows(), torch.Generator().manual_seed(0)
    tiny = full_batch(4)
    sizes = [(name, spec, (4,)) for name, spec in TINY_PRESETS.items()] + [
        (name, spec, (1, 4)) for name, spec in LARGE.items()
    ]
    for name, spec, batch_sizes in sizes:
        for batch_size in batch_sizes:
            began = time.perf_counter()
            batch = tiny if name in TINY_PRESETS else large_batch(spec, batch_size, rng)
            made = time.perf_counter() - began
            moved = batch.to("cuda")
            for library_name, library in libraries().items() if spec.lidar else [("", None)]:
                for bf16 in (False, True):
                    row = {"detector": name, "batch": batch_size, "sparse": library_name}
                    row |= {"precision": "bf16" if bf16 else "fp32 (TF32 in convolutions)"}
                    try:
                        with sparse_by(library):
                            ms, gib = measure(spec, moved, bf16)
                    except torch.OutOfMemoryError:
                        rows.add(**row, ok=False)
                        continue
                    rows.add(**row, **{"step, ms": ms, "samples a second": 1000 * batch_size / ms, "memory, GiB": gib})
            if spec.camera and name in LARGE:
                views = moved.views
                assert views is not None
                (geometry,) = spec.inputs.lifts
                pose = views.intrinsics[0], views.ego_from_camera[0]
                on_card = milliseconds(lambda geometry=geometry, pose=pose: geometry.plan(*pose))
                rows.add(
                    detector="plan of the view transform, one sample, on the card", batch=1, **{"step, ms": on_card}
                )
                rows.add(detector="batch with its plans, on the CPU", batch=batch_size, **{"step, ms": 1000 * made})


if __name__ == "__main__":
    main()
