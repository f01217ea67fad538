"""Detectors of the papers take a training step at full size, on a processor, in the memory of a desk computer.

Each takes minutes: ``pytest tests/harness/test_full_size.py -m ""``.
"""

import json
import math
import subprocess
import sys

import pytest

LIMIT_GIB = 16

CASES = [
    ("unidistill_camera",),
    ("unidistill_lidar",),
    ("unidistill_camera_lidar",),
    ("bevdepth_r50",),
    ("centerpoint_voxel0075",),
    ("unidistill_camera", "unidistill_lidar", "unidistill"),
    ("x3kd_r50", "centerpoint_voxel01", "x3kd"),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_step_on_a_real_frame_is_finite_and_fits(real_root, case):
    run = subprocess.run(
        [sys.executable, "-m", "tests.full_size", str(real_root.path), *case], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    seen = json.loads(run.stdout.splitlines()[-1])
    assert all(math.isfinite(value) for value in (*seen["losses"].values(), seen["gradient"]))
    assert seen["gradient"] > 0
    assert seen["peak_gib"] < LIMIT_GIB
    # Full images, and ten sweeps of some 35,000 points.
    cameras = case[0] in ("unidistill_camera", "unidistill_camera_lidar", "bevdepth_r50", "x3kd_r50")
    assert (seen["images"] or [])[2:] == ([3, 256, 704] if cameras else [])
    if "lidar" in " ".join(case) or "voxel" in " ".join(case):
        assert seen["lidar_points"] > 300_000
