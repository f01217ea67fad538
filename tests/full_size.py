"""One training step of a detector of the papers, at full size, on a nuScenes frame: what it costs, as JSON.

``python -m tests.full_size ROOT STUDENT [TEACHER LOSSES]`` with a preset's name, and losses of
``unidistill`` or ``x3kd``. The newest LiDAR sweep is repeated where earlier ones are missing, each copy shifted as a
car at 10 m/s would shift it.
"""

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from detectors.batch import Batch, collate
from detectors.detector import Detector
from detectors.presets import PRESETS
from distill.objective import FrozenTeacher, Objective, loss_spec
from distill.resample import batch_in
from harness.data.augment import augment
from harness.data.nuscenes import read
from harness.data.root import NuScenesRoot
from harness.study.schedule import AugmentSpec

LOSSES = {
    "unidistill": {"feature": {"weight": 10.0}, "relation": {"weight": 5.0}, "response": {"weight": 1.0}},
    "x3kd": {
        "activation": {"weight": 1.0},
        "adversarial": {"weight": 0.1, "adapter": "conv1x1"},
        "output": {"weight": 1.0},
    },
}
SWEEP_SECONDS, SPEED = 0.05, 10.0
"""Between two sweeps of nuScenes, and metres a second."""


def step(root: NuScenesRoot, student_name: str, teacher_name: str | None, losses: str | None) -> dict[str, object]:
    """Take one step, and return its losses, seconds and the process's peak memory."""
    torch.manual_seed(0)
    spec = PRESETS[student_name]
    teacher_spec = PRESETS[teacher_name] if teacher_name else None
    inputs = spec.training_inputs
    onto = None
    if teacher_spec is not None:
        # Of another frame or grid: its maps are resampled.
        onto = spec if (teacher_spec.bev_frame, teacher_spec.grid) != (spec.bev_frame, spec.grid) else None
        inputs = inputs.joined(teacher_spec.inputs.carried_by(inputs) if onto else teacher_spec.inputs)
    token = root.tokens("mini_train")[0]
    sample = read(root, token, inputs, 1.0)
    if sample.lidar is not None and inputs.lidar_sweeps > 1:
        sample = replace(sample, lidar=_repeated(sample.lidar, inputs.lidar_sweeps))
    sample = augment(sample, AugmentSpec(mirror_probability=0.0), inputs.image_size, torch.Generator())
    points = 0 if sample.lidar is None else len(sample.lidar)
    batch = collate([sample])

    student = spec.build().train()
    chosen = {name: loss_spec(name, fields) for name, fields in LOSSES[losses].items()} if losses else {}
    teacher = None
    if teacher_spec is not None:
        detector = teacher_spec.build()
        _know(detector, batch if onto is None else batch_in(batch, teacher_spec.bev_frame))
        teacher = FrozenTeacher(detector, onto)
    objective = Objective(student, teacher, chosen)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-4)
    began, cpu_began = time.monotonic(), time.process_time()
    output = objective(batch)
    output.total.backward()
    gradient = torch.nn.utils.clip_grad_norm_(objective.parameters(), 35.0)
    optimizer.step()
    return {
        "student": student_name,
        "teacher": teacher_name,
        "losses": {name: value.item() for name, value in output.raw.items()},
        "gradient": gradient.item(),
        "lidar_points": points,
        "images": None if batch.views is None else list(batch.views.images.shape),
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _know(detector: Detector, batch: Batch) -> None:
    """Give the norms of a detector with random weights the statistics of a batch, or its maps overflow."""
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        detector.train()(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _repeated(points: torch.Tensor, sweeps: int) -> torch.Tensor:
    """The newest sweep as often as a sample has sweeps."""
    newest = points[points[:, 4] < SWEEP_SECONDS / 2]
    ages = torch.arange(sweeps) * SWEEP_SECONDS
    return torch.cat([newest + newest.new_tensor([-SPEED * age, 0, 0, 0, age]) for age in ages.tolist()])


if __name__ == "__main__":
    root_path, name, *taught = sys.argv[1:]
    by, kind = taught or (None, None)
    print(json.dumps(step(NuScenesRoot(Path(root_path), "v1.0-mini"), name, by, kind)))
