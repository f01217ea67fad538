"""What can be tested of the scripts for a card without one."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from detectors.encoders.sparse_conv import SparseConv
from tests.gpu import run_all, sparse
from tests.gpu.common import LARGE, cases, difference, full_batch, large_batch, objective_of


def test_every_section_is_a_module():
    assert all(find_spec(f"tests.gpu.{section}") for section in run_all.SECTIONS)


def test_every_section_that_can_be_pretended_is_one_of_these_or_lies_beside_the_device():
    for section in run_all.PRETENDED:
        assert section in run_all.SECTIONS or find_spec(f"tests.gpu.pretend.{section}")


def test_section_that_fails_is_told_and_ends_with_1(tmp_path):
    # No card here, so that the driver's own program or CUDA is missing.
    command = [sys.executable, "-m", "tests.gpu.run_all", str(tmp_path), "machine"]
    env_without_card = {"CUDA_VISIBLE_DEVICES": "", "PATH": "", "PYTHONPATH": str(run_all.__file__).rsplit("/", 3)[0]}
    done = subprocess.run(command, env=env_without_card, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "machine: exit status 1" in done.stdout
    assert "FileNotFoundError" in (tmp_path / "gpu.log").read_text()


def test_table_shows_what_failed_and_every_column():
    rows = [{"case": "a|b", "ok": True, "apart": 0.00012345}, {"case": "c", "ok": False, "error": "boom"}]
    text = run_all.table([{"section": "steps", "ended": "ran", "seconds": 3.2, "rows": rows}])
    assert "| case | ok | apart | error |" in text
    assert "| a\\|b | yes | 0.000123 |  |" in text
    assert "| c | **no** |  | boom |" in text


@pytest.mark.parametrize("name", ["tiny_camera: depth", "tiny_lidar: output"])
def test_cases_take_a_step(name):
    _, student, teacher, losses = next(case for case in cases() if case[0] == name)
    output = objective_of(student, teacher, losses)(full_batch(1))
    output.total.backward()
    assert output.raw.keys() == {"heatmap", "boxes", *losses}


def test_made_up_cloud_has_the_points_of_ten_sweeps(rng):
    (spec,) = (spec for spec in LARGE.values() if spec.lidar)
    batch = large_batch(spec, 2, rng)
    assert len(batch.lidar.values) == 2 * 10 * 34_700
    assert batch.lidar.sample.bincount().tolist() == [347_000, 347_000]


def test_limits_of_sparse_convolution_in_bfloat16_hold_for_plain_torch(rng):
    # On a card only the library may differ: that plain torch is within the limits shows what they are worth.
    index = sparse.sites_near_ground(4000, (10, 64, 64), rng)
    features = torch.randn(len(index), 16, generator=rng)
    for make in sparse.TABLES.values():
        table = make(index)
        conv = SparseConv(16, 32, table.kernel)
        expected = sparse.values(conv, features, table)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = sparse.values(conv, features, table)
        apart = [difference(a, b) for a, b in zip(half, expected, strict=True)]
        assert all(1e-4 < each < most for each, most in zip(apart, sparse.PRECISIONS["bf16"][1], strict=True)), apart


def test_every_level_table_and_precision_of_sparse_convolution_is_measured_and_judged(monkeypatch, tmp_path):
    # Tensors stay on the CPU here, where nothing is computed in bfloat16 as it is asked of a card.
    monkeypatch.setattr(sparse, "LEVELS", [(400, (5, 16, 24), 7, 8)])
    monkeypatch.setattr(sparse, "milliseconds", lambda call: call() and 0.0)
    for part in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(part, "cuda", lambda self: self)

    # Each precision has a process, of which this one takes the place.
    def run(command, check):
        monkeypatch.setattr("sys.argv", command[2:])
        sparse.main()

    monkeypatch.setattr(sparse.subprocess, "run", run)
    monkeypatch.setattr("sys.argv", ["sparse", str(tmp_path / "rows.jsonl")])
    sparse.main()
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    plain = [(row["kind"], row["precision"]) for row in rows if row["by"] == "plain torch"]
    assert plain == [(kind, precision) for precision in ("fp32", "bf16") for kind in ("submanifold", "strided")]
    assert all(row["ok"] and row["apart, value"] < 1e-6 for row in rows)
