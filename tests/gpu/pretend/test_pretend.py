"""Presets, losses and jobs run on a device that pretends to be CUDA, and wait for it no more often than is stated."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import mostly_slow
from tests.gpu.common import VARIANTS, cases

ROOT = Path(__file__).parents[3]

LIDAR = 7
"""Waits of tiny_lidar's three levels: one for each table of sites and pairs, of which a level has two, and the map."""
WAITS = {
    "tiny_camera": 0,
    "tiny_lidar": LIDAR,
    "tiny_radar": 0,
    "tiny_camera_lidar": LIDAR,
    "tiny_camera_radar": 0,
    # Those of the teacher, which has a LiDAR.
    **{f"tiny_camera: {name}": LIDAR for name in VARIANTS},
    # Teacher and student share their tables.
    **{f"tiny_lidar: {name}": LIDAR for name in VARIANTS if name not in ("instance", "depth")},
    # It asks no detector.
    "tiny_camera: instance": 0,
}
"""Of a step from the copy of its batch to the optimizer's step, in bf16, once what stays on the device is there."""
QUICK = ("tiny_camera_lidar", "tiny_camera_radar", "tiny_camera: output", "tiny_camera: instance", "tiny_camera: depth")
"""Cases of which every run of the tests takes a step."""


@pytest.fixture(scope="module")
def pretended(tmp_path_factory):
    """Run a section of `tests.gpu` on the pretended device, and return its rows."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        # In CI nobody would see that nothing was tested.
        assert not os.environ.get("CI"), "the pretended device needs a C++ compiler, and there is none"
        pytest.skip("the pretended device needs a C++ compiler")

    def run(section, *arguments):
        folder = tmp_path_factory.mktemp(section)
        command = [sys.executable, "-m", "tests.gpu.pretend", section, str(folder / "rows"), *arguments]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
        # Checks of indices wait for their answers.
        env |= {"CROSSBEV_CHECK": "0", "NUMBA_BOUNDSCHECK": "0"}
        env.pop("NUMBA_CACHE_DIR", None)
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in (folder / "rows").read_text().splitlines()]

    return run


def _others():
    return [name for name, *_ in cases() if name not in QUICK]


def test_waits_are_stated_for_every_case():
    assert [name for name, *_ in cases() if name not in WAITS] == []


@pytest.mark.parametrize("names", mostly_slow([list(QUICK), _others()], 0), ids=("some", "others"))
def test_a_step_waits_as_often_as_is_stated_and_not_once_more(pretended, names):
    rows = pretended("waits", *names)
    assert {row["case"] for row in rows} == set(names)
    wrong = {row["case"]: (row["waits"], row["lines"]) for row in rows if row["waits"] != WAITS[row["case"]]}
    assert wrong == {}


STEPS = [[*QUICK[:3:2]], [QUICK[1], *QUICK[3:], *_others()]]


@pytest.mark.parametrize("names", mostly_slow(STEPS, 0), ids=("some", "others"))
def test_a_step_has_the_numbers_of_a_cpu_in_fp32_and_almost_so_in_bf16(pretended, names):
    rows = pretended("steps", *names)
    assert {row["case"] for row in rows} == set(names)
    assert [row for row in rows if not row["ok"]] == []


def test_spconv_is_called_as_it_wants_to_be(pretended):
    rows = pretended("contract")
    assert [row["case"] for row in rows if row["ok"]] == ["fp32", "bf16"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_job_that_is_stopped_and_resumed_ends_with_the_weights_of_one_that_is_not(pretended, precision):
    equal = {row["against"]: row["bit-equal"] for row in pretended("resume", precision)}
    assert equal == {"again": True, "stopped and resumed": True, "on a CPU": False}
