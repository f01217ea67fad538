"""The tune split of a real root: whole drives, the same everywhere, and nothing written where the data lie."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nuscenes.utils.splits import create_splits_scenes

from harness.data.nuscenes import annotations
from harness.data.root import NuScenesRoot
from harness.data.tune_split import TRAIN, TUNE, cut
from harness.evaluate.detection import score
from harness.evaluate.submission import write_submission
from harness.runs.folder import RunFolder


@given(st.dictionaries(st.from_regex(r"scene-\d{4}", fullmatch=True), st.sampled_from("abcdefgh"), min_size=1))
def test_the_cut_is_disjoint_complete_and_by_whole_logs(log_of_scene):
    splits = cut(log_of_scene)
    if len(set(log_of_scene.values())) == 1:
        assert splits == {}
        return
    train, tune = splits[TRAIN], splits[TUNE]
    assert sorted(train + tune) == sorted(log_of_scene)
    assert train
    assert not {log_of_scene[scene] for scene in train} & {log_of_scene[scene] for scene in tune}
    assert len(tune) >= 0.1 * len(log_of_scene) or len({log_of_scene[scene] for scene in train}) == 1
    assert splits == cut(dict(reversed(log_of_scene.items())))


def test_a_tenth_is_enough():
    assert len(cut({f"scene-{i:04d}": f"log-{i % 50}" for i in range(700)})[TUNE]) == 70


@pytest.fixture
def mini(smoke_path, tmp_path):
    """The smoke world dressed up as v1.0-mini: three scenes bear names of mini_train's, one a name of mini_val's."""
    path = tmp_path / "mini"
    path.mkdir()
    for name in ("samples", "sweeps", "maps"):
        if (smoke_path / name).exists():
            (path / name).symlink_to(smoke_path / name)
    tables = path / "v1.0-mini"
    tables.mkdir()
    names = create_splits_scenes()
    for table in (smoke_path / "v1.0-synthetic").glob("*.json"):
        content = json.loads(table.read_text())
        if table.name == "scene.json":
            wanted = [*names["mini_train"][:3], names["mini_val"][0]]
            content = [{**scene, "name": name} for scene, name in zip(content, wanted, strict=True)]
        if table.name != "splits.json":
            (tables / table.name).write_text(json.dumps(content))
    return NuScenesRoot(path, "v1.0-mini")


def test_a_real_root_has_a_tune_split_and_is_scored_on_it(mini, tmp_path):
    before = sorted(path for path in mini.path.rglob("*"))
    splits = mini.splits()
    scenes = {scene["name"] for scene in mini.devkit.scene}
    assert set(splits["crossbev_train"]) | set(splits["crossbev_tune"]) == scenes & set(splits["mini_train"])
    tokens = mini.tokens("crossbev_tune")
    assert tokens
    assert len(tokens) + len(mini.tokens("crossbev_train")) == len(mini.tokens("mini_train"))
    found = {token: annotations(mini, token)[0] for token in tokens}
    content = write_submission(tmp_path / "result.json", mini, found, frozenset({"lidar"}))
    assert score(mini, "crossbev_tune", content, "nuscenes", RunFolder(tmp_path))["mATE"] < 0.9
    assert sorted(path for path in mini.path.rglob("*")) == before
