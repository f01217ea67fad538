"""Annotations are read from the tables once; the kept ones are theirs, and of these tables."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from harness.data.root import NuScenesRoot
from harness.errors import InputError
from harness.evaluate.annotations import annotations, from_tables

SPLIT = "synthetic_val"


@pytest.fixture
def root(smoke_path, tmp_path, monkeypatch):
    """Tables that may be changed, and a cache that is empty."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache")
    shutil.copytree(smoke_path / "v1.0-synthetic", tmp_path / "root" / "v1.0-synthetic")
    shutil.copytree(smoke_path / "maps", tmp_path / "root" / "maps")
    return NuScenesRoot(tmp_path / "root", "v1.0-synthetic")


def _again(root):
    """The root as another process sees it, whose tables must not be opened."""
    found = NuScenesRoot(root.path, root.version)
    vars(found)["index"] = None
    return found


def _assert_equal(a, b):
    for one, other in zip(a, b, strict=True):
        for field in fields(one):
            assert np.array_equal(
                getattr(one, field.name), getattr(other, field.name), equal_nan=field.name == "velocity"
            )


def test_the_second_time_the_tables_stay_closed(root):
    first = annotations(root, SPLIT)
    assert len(first[1]) > 20
    _assert_equal(first, from_tables(root, root.tokens(SPLIT)))
    _assert_equal(annotations(_again(root), SPLIT), first)
    with pytest.raises(AttributeError):  # another split is not kept
        annotations(_again(root), "synthetic_train")


def test_columns_say_what_the_tables_say(root):
    split, truth = annotations(root, SPLIT)
    rows = {row["token"]: row for row in root.devkit.sample_annotation}
    number = {token: n for n, token in enumerate(split.tokens)}
    wanted = sorted(
        (number[row["sample_token"]], row["translation"][0], row["num_lidar_pts"], int(row["visibility_token"]))
        for row in rows.values()
        if row["sample_token"] in number and row["num_lidar_pts"] + row["num_radar_pts"]
    )
    found = zip(truth.sample, truth.center[:, 0], truth.lidar_points, truth.visibility, strict=True)
    assert sorted(tuple(values) for values in found) == wanted
    assert split.scenes == len({root.devkit.get("sample", token)["scene_token"] for token in split.tokens})


def test_changed_tables_are_read_again(root):
    before = annotations(root, SPLIT)[1]
    path = root.path / root.version / "sample_annotation.json"
    rows = json.loads(path.read_text())
    for row in rows:
        row["translation"][0] += 1.0
    path.write_text(json.dumps(rows))
    after = annotations(NuScenesRoot(root.path, root.version), SPLIT)[1]
    assert np.allclose(after.center[:, 0], before.center[:, 0] + 1.0)


def test_a_damaged_file_is_made_again(root):
    first = annotations(root, SPLIT)
    (kept,) = Path(platformdirs.user_cache_path("crossbev")).rglob("*.npz")
    whole = kept.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no archive"):
        kept.write_bytes(damaged)
        _assert_equal(annotations(root, SPLIT), first)
        assert kept.read_bytes() == whole


def test_without_a_place_to_keep_them_they_are_read_each_time(root, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(annotations(root, SPLIT)[1]) > 20
    assert "cannot be stored" in caplog.text


def test_a_split_without_annotations_is_refused(root):
    (root.path / root.version / "sample_annotation.json").write_text("[]")
    (root.path / root.version / "instance.json").write_text("[]")
    with pytest.raises(InputError, match="has no annotation"):
        annotations(NuScenesRoot(root.path, root.version), SPLIT)


def test_a_sample_without_a_lidar_keyframe_is_named(root):
    token = root.tokens(SPLIT)[0]
    path = root.path / root.version / "sample_data.json"
    keyframe = root.sweeps(token, "LIDAR_TOP", 1)[0]["token"]
    rows = [
        row | {"is_key_frame": row["is_key_frame"] and row["token"] != keyframe} for row in json.loads(path.read_text())
    ]
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=f"sample {token} has no keyframe of LIDAR_TOP"):
        annotations(NuScenesRoot(root.path, root.version), SPLIT)
