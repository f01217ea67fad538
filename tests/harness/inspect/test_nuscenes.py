"""What inspect says of a root is what is in its tables and on its disk."""

import json
import re

import numpy as np
import pytest
from nuscenes.eval.detection.utils import category_to_detection_name
from typer.testing import CliRunner

from detectors.geometry.boxes import CLASSES
from harness.data.__main__ import app
from harness.data.nuscenes import annotations as read_annotations
from harness.inspect import nuscenes as inspection
from harness.inspect.nuscenes import IGNORED, gather


@pytest.fixture
def table(smoke_path):
    """Rows of a table of the smoke world, read without this project."""
    return lambda name: json.loads((smoke_path / "v1.0-synthetic" / f"{name}.json").read_text())


@pytest.fixture
def annotations(smoke_root):
    """The tokens of all samples and what is gathered of them."""
    tokens = [sample["token"] for sample in smoke_root.devkit.sample]
    return tokens, gather(smoke_root, tokens)


def _run(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def _cells(output):
    """Every printed row that has cells, by its first one."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def test_every_annotation_is_gathered_once(annotations, table):
    tokens, found = annotations
    categories = {row["token"]: row["name"] for row in table("category")}
    names = {row["token"]: categories[row["category_token"]] for row in table("instance")}
    rows = table("sample_annotation")
    for i, name in enumerate(CLASSES):
        own = [row for row in rows if category_to_detection_name(names[row["instance_token"]]) == name]
        assert own
        mine = found.label == i
        assert mine.sum() == len(own)
        assert sorted(found.lidar_points[mine]) == sorted(row["num_lidar_pts"] for row in own)
        assert sorted(found.radar_points[mine]) == sorted(row["num_radar_pts"] for row in own)
    counted = [sum(row["sample_token"] == token for row in rows) for token in tokens]
    assert counted == [(found.sample == i).sum() for i in range(len(tokens))]


def test_distance_and_speed_are_the_readers(annotations, smoke_root):
    tokens, found = annotations
    for i, token in enumerate(tokens):
        boxes, _ = read_annotations(smoke_root, token)
        own = (found.sample == i) & (found.label != IGNORED)
        # The reader's plane leans with the ego car.
        np.testing.assert_allclose(found.distance[own], boxes.center[:, :2].norm(dim=1), rtol=0.01, atol=0.05)
        np.testing.assert_allclose(found.speed[own], boxes.velocity.norm(dim=1), rtol=0.01, atol=0.05)


def test_printed_counts_are_those_of_tables_and_files(smoke_path, table):
    result = _run(smoke_path)
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    printed = _cells(result.output)
    for name in ("sample", "sample_data", "sample_annotation", "ego_pose", "visibility"):
        assert printed[name] == [str(len(table(name)))]
    scenes = {row["token"]: row["name"] for row in table("scene")}
    sample_scene = {row["token"]: scenes[row["scene_token"]] for row in table("sample")}
    for split, names in table("splits").items():
        samples = {token for token, scene in sample_scene.items() if scene in names}
        rows = [row for row in table("sample_annotation") if row["sample_token"] in samples]
        assert printed[split] == [str(len(names)), str(len(samples)), str(len(rows))]
    for channel in ("CAM_BACK", "LIDAR_TOP", "RADAR_FRONT"):
        keyframes, sweeps = (len(list((smoke_path / of / channel).glob("*"))) for of in ("samples", "sweeps"))
        assert printed[channel] == [str(keyframes), str(sweeps), "0"]


def test_one_split_is_looked_at_alone(smoke_path, smoke_root):
    result = _run(smoke_path, "--split", "synthetic_val", "--fast")
    assert result.exit_code == 0
    printed = _cells(result.output)
    assert "synthetic_train" not in printed
    tokens = set(smoke_root.tokens("synthetic_val"))
    assert printed["CAM_FRONT"] == [str(len(tokens)), "0", "0"]
    cars = [
        row
        for row in smoke_root.devkit.sample_annotation
        if row["sample_token"] in tokens and category_to_detection_name(row["category_name"]) == "car"
    ]
    assert printed["car"][0] == str(len(cars))
    assert printed["car"][1] == f"{np.mean([row['num_lidar_pts'] for row in cars]):.1f}"
    without = np.mean([row["num_lidar_pts"] + row["num_radar_pts"] == 0 for row in cars])
    assert printed["car"][3] == f"{without:.1%}"


def test_a_real_root_is_counted(real_root):
    result = _run(real_root.path)
    assert result.exit_code == 0, result.output
    printed = _cells(result.output)
    assert printed["mini_train"] == ["1", "1", "68"]
    assert printed["pedestrian"][0] == "30"
    assert printed["barrier"][:2] == ["22", "13.1"]
    # One keyframe alone tells no speed.
    assert printed["car"][-1] == "unknown"
    assert printed["RADAR_BACK_LEFT"] == ["1", "0", "0"]


def test_every_file_is_decoded_but_with_fast(smoke_path, monkeypatch):
    decoded = []
    for modality, reader in dict(inspection.READERS).items():
        spy = lambda path, reader=reader: decoded.append(path) or reader(path)  # noqa: E731
        monkeypatch.setitem(inspection.READERS, modality, spy)
    assert _run(smoke_path, "--fast").exit_code == 0
    assert not decoded
    assert _run(smoke_path).exit_code == 0
    assert sorted(decoded) == sorted(
        path for of in ("samples", "sweeps") for path in (smoke_path / of).rglob("*") if path.is_file()
    )


def test_a_root_without_known_splits_is_counted_as_a_whole(smoke_path, tmp_path):
    (tmp_path / "v1.0-mine").mkdir()
    for folder in smoke_path.iterdir():
        if folder.name != "v1.0-synthetic":
            (tmp_path / folder.name).symlink_to(folder)
    for path in (smoke_path / "v1.0-synthetic").iterdir():
        if path.name != "splits.json":
            (tmp_path / "v1.0-mine" / path.name).symlink_to(path)
    whole, known = _run(tmp_path, "--fast"), _run(smoke_path, "--fast")
    assert whole.exit_code == 0, whole.output
    counts = [int(cell) for cell in _cells(known.output)["car"][:3]]
    assert _cells(whole.output)["car"][0] == str(sum(counts))
