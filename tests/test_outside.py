"""A package of somebody else adds losses and detectors, and a study that names them trains without an edit here."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

PARTS = '''\
"""A loss and detectors that are not ours."""

import torch.nn as nn
from jaxtyping import Float
from torch import Tensor

from detectors.batch import Batch
from detectors.detector import DetectorSpec
from detectors.encoders.bev_neck import BevNeckSpec
from detectors.encoders.lidar import LidarSpec
from detectors.geometry.grid import BevGrid
from detectors.heads.center import CenterHeadSpec
from detectors.outputs import DetectorOutput
from distill.loss import DetectorLossSpec

SPEC = DetectorSpec(
    grid=BevGrid(x_range=(-16, 16), y_range=(-16, 16), z_range=(-3, 5), cell=1.6),
    lidar=LidarSpec(voxels_per_cell=1, height_bins=4, widths=(4,), depths=(1,), channels=6),
    neck=BevNeckSpec(fine_width=4, coarse_width=8),
    head=CenterHeadSpec(width=8),
)


class PeakSpec(DetectorLossSpec):
    """How far the highest scores of the two maps are from one another, times a factor."""

    factor: float = 1.0

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> nn.Module:
        return PeakTerm(self.factor)


class PeakTerm(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, student: DetectorOutput, teacher: DetectorOutput, batch: Batch) -> Float[Tensor, ""]:
        peaks = (output.head.heatmap.sigmoid().amax() for output in (student, teacher))
        return self.factor * sum(peaks)
'''

STUDY = """\
data: {preset: smoke}
schedule: {steps: 2, batch_size: 2}
teachers:
  theirs: {preset: "their_package.parts:SPEC"}
students:
  short: {preset: their_lidar, set: {lidar.channels: 4, head.width: 6}}
paths: [theirs -> short]
losses:
  mine: {loss: "their_package.parts:PeakSpec", weight: 0.5, factor: 3.0}
  offered: {loss: their_peak, weight: 0.25}
arms:
  both: [mine, offered]
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a package as pip would install it, and a study that names what is in it."""
    folder = tmp_path_factory.mktemp("outside")
    package, installed = folder / "site" / "their_package", folder / "site" / "their_package-1.0.dist-info"
    package.mkdir(parents=True)
    installed.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(PARTS)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: their_package\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[crossbev.losses]\ntheir_peak = their_package.parts:PeakSpec\n"
        "[crossbev.presets]\ntheir_lidar = their_package.parts:SPEC\n"
    )
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture(scope="module")
def crossbev(workplace):
    """Run a study with `python -m harness.run`, with or without the package on the path."""

    def run(*flags, path=(ROOT, workplace / "site")):
        environment = {"XDG_CACHE_HOME": str(workplace / "cache"), "PYTHONPATH": os.pathsep.join(map(str, path))}
        return subprocess.run(
            [sys.executable, "-m", "harness.run", "study.yaml", "--device", "cpu", *flags],
            cwd=workplace,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )

    return run


def test_a_loss_and_detectors_of_another_package_train(crossbev, workplace):
    done = crossbev()
    assert done.returncode == 0, done.stderr + done.stdout
    with (workplace / "reports" / "study" / "table.csv").open() as file:
        assert [row["role"] for row in csv.DictReader(file)] == ["teacher", "baseline", "student"]
    jobs = [json.loads(path.read_text())["spec"] for path in workplace.glob("runs/*/job.json")]
    (student,) = [job for job in jobs if job["teacher"]]
    assert student["detector"]["lidar"]["channels"] == 4
    assert student["losses"] == {
        "PeakSpec": {"loss": "their_package.parts:PeakSpec", "weight": 0.5, "factor": 3.0},
        "their_peak": {"weight": 0.25, "factor": 1.0},
    }
    (log,) = [path for path in workplace.glob("runs/*/metrics.jsonl") if "their_peak" in path.read_text()]
    first = json.loads(log.read_text().splitlines()[0])
    assert first["raw/PeakSpec"] == pytest.approx(3 * first["raw/their_peak"])
    assert first["weighted/PeakSpec"] == pytest.approx(0.5 * first["raw/PeakSpec"])


def test_where_the_package_is_not_there_one_message_says_so(crossbev):
    done = crossbev("--dry-run", path=(ROOT,))
    assert done.returncode == 2
    assert "study.yaml:4: teachers.theirs.preset: preset 'their_package.parts:SPEC'" in done.stderr
    assert "No module named 'their_package'" in done.stderr
    assert "study.yaml:6: students.short.preset: unknown preset 'their_lidar'" in done.stderr
    assert "Traceback" not in done.stderr
