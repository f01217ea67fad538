"""A dataset root says which splits, samples and files it has, and is checked without writing into it."""

import itertools
import json

import numpy as np
import nuscenes.nuscenes
import pytest

from detectors.batch import Inputs
from harness.data.root import NuScenesRoot, share_of
from harness.errors import InputError


@pytest.fixture
def copy(smoke_path, tmp_path):
    """A root whose tables may be changed; files are those of the smoke world."""
    path = tmp_path / "copy"
    (path / "v1.0-synthetic").mkdir(parents=True)
    for child in smoke_path.iterdir():
        if child.name != "v1.0-synthetic":
            (path / child.name).symlink_to(child)
    for table in (smoke_path / "v1.0-synthetic").iterdir():
        (path / "v1.0-synthetic" / table.name).write_bytes(table.read_bytes())
    return path


def test_splits_are_those_of_the_version_and_of_splits_json(smoke_root, real_root):
    assert set(smoke_root.splits()) == {"synthetic_train", "synthetic_tune", "synthetic_val"}
    assert {"mini_train", "mini_val"} <= set(real_root.splits())
    assert "val" not in real_root.splits()


def test_tokens_of_splits_are_disjoint_and_in_the_order_of_the_table(smoke_root):
    order = [sample["token"] for sample in smoke_root.devkit.sample]
    found = [smoke_root.tokens(split) for split in smoke_root.splits()]
    assert sorted(token for tokens in found for token in tokens) == sorted(order)
    for tokens in found:
        assert tokens == sorted(tokens, key=order.index)


def test_the_fingerprint_is_that_of_the_tables_and_splits(copy):
    before = NuScenesRoot(copy, "v1.0-synthetic").fingerprint()
    assert NuScenesRoot(copy, "v1.0-synthetic").fingerprint() == before
    for name in ("splits", "attribute"):
        path = copy / "v1.0-synthetic" / f"{name}.json"
        path.write_text(path.read_text() + "\n")
        after = NuScenesRoot(copy, "v1.0-synthetic").fingerprint()
        assert after != before
        before = after


def test_a_part_of_a_split_is_a_split(real_root):
    # The real frame is one of eight scenes of mini_train.
    assert len(real_root.splits()["mini_train"]) == 8
    assert len(real_root.tokens("mini_train")) == 1


def test_annotations_come_all_and_in_order_with_class_and_velocity(copy):
    path = copy / "v1.0-synthetic" / "category.json"
    path.write_text(path.read_text().replace("vehicle.car", "static_object.bicycle_rack"))
    root = NuScenesRoot(copy, "v1.0-synthetic")
    tokens = root.tokens("synthetic_train")
    listed = [annotation for token in tokens for annotation in root.annotations(token)]
    assert [row["token"] for row, *_ in listed] == [
        annotation for token in tokens for annotation in root.devkit.get("sample", token)["anns"]
    ]
    assert {name is None for row, name, _ in listed if row["category_name"] == "static_object.bicycle_rack"} == {True}
    assert {name for row, name, _ in listed if row["category_name"] == "human.pedestrian.adult"} == {"pedestrian"}
    for row, _, velocity in listed:
        np.testing.assert_array_equal(velocity, root.devkit.box_velocity(row["token"]))


def test_sweeps_are_chained_backwards_from_the_keyframe(smoke_root):
    token = smoke_root.tokens("synthetic_train")[-1]
    for channel in ("LIDAR_TOP", "RADAR_FRONT"):
        rows = smoke_root.sweeps(token, channel, 4)
        times = [row["timestamp"] for row in rows]
        assert times == sorted(times, reverse=True)
        assert rows[0]["is_key_frame"]
        assert rows[0]["sample_token"] == token
        assert {row["channel"] for row in rows} == {channel}


def test_keyframes_before_the_first_are_the_first(smoke_root):
    first, second = smoke_root.tokens("synthetic_train")[:2]
    assert smoke_root.keyframes(second, 4) == [second, first, first, first]


def test_files_are_checked_for_the_inputs_that_read_them(copy):
    path = copy / "v1.0-synthetic" / "sample_data.json"
    rows = json.loads(path.read_text())
    row = next(row for row in rows if "/LIDAR_TOP/" in row["filename"] and row["is_key_frame"])
    row["filename"] = "samples/LIDAR_TOP/lost.pcd.bin"
    path.write_text(json.dumps(rows))
    root = NuScenesRoot(copy, "v1.0-synthetic")
    tokens = [row["sample_token"]]
    root.check_files(tokens, Inputs(image_size=(32, 48)))
    with pytest.raises(
        InputError, match=rf"lost\.pcd\.bin is missing; expected a file of LIDAR_TOP for sample {tokens[0]}"
    ):
        root.check_files(tokens, Inputs(lidar_sweeps=1))


def test_the_pose_of_the_lidar_is_needed_without_its_points(copy):
    path = copy / "v1.0-synthetic" / "sample_data.json"
    rows = json.loads(path.read_text())
    row = next(row for row in rows if "/LIDAR_TOP/" in row["filename"] and row["is_key_frame"])
    row["is_key_frame"] = False
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=f"sample {row['sample_token']} has no keyframe of LIDAR_TOP"):
        NuScenesRoot(copy, "v1.0-synthetic").check_files([row["sample_token"]], Inputs(image_size=(32, 48)))


def test_what_the_devkit_raises_for_no_reason_of_ours_is_not_hidden(copy, monkeypatch):
    def fail(**_):
        raise KeyError("a bug")

    monkeypatch.setattr(nuscenes.nuscenes, "NuScenes", fail)
    with pytest.raises(KeyError, match="a bug"):
        _ = NuScenesRoot(copy, "v1.0-synthetic").devkit


def test_share_of_scenes_is_whole_scenes_and_a_part_of_a_larger_share(smoke_root):
    scene_of = {sample["token"]: sample["scene_token"] for sample in smoke_root.devkit.sample}
    everything = smoke_root.tokens("synthetic_train")
    half = smoke_root.tokens("synthetic_train", 0.5)
    # Two training scenes of three samples.
    assert len(half) == 3
    assert len({scene_of[token] for token in half}) == 1
    assert half == [token for token in everything if token in set(half)]
    assert smoke_root.tokens("synthetic_train", 0.51) == everything
    assert [smoke_root.count("synthetic_train", share) for share in (0.5, 0.51, 1.0)] == [3, 6, 6]


def test_shares_are_nested_and_do_not_depend_on_order():
    scenes = [f"scene-{number:04}" for number in range(100)]
    shares = [share_of(scenes, share) for share in (0.01, 0.07, 0.25, 1.0)]
    assert [len(chosen) for chosen in shares] == [1, 7, 25, 100]
    for smaller, larger in itertools.pairwise(shares):
        assert set(smaller) < set(larger)
    assert share_of(scenes[::-1], 0.25) == shares[2]
    # Of consecutive scenes, which one drive has, some are in and some are out.
    assert 5 < sum(name in shares[2] for name in scenes[:50]) < 20
