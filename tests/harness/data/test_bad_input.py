"""A damaged root ends in one message that names what is wrong and in exit status 2, and is left as it was."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from harness.data.root import NuScenesRoot
from harness.errors import InputError
from tests.cases import mostly_slow

VERSION = "v1.0-synthetic"
TABLES = [
    *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample"),
    *("sample_annotation", "sample_data", "scene", "sensor", "visibility"),
]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
STUDY = Path(__file__).parents[3] / "studies" / "smoke.yaml"


class Root:
    """A copy of the smoke world that shares all files with it but those that are replaced."""

    def __init__(self, path, original):
        self.path = path
        path.mkdir()
        for child in original.iterdir():
            (path / child.name).symlink_to(child)

    def unshared(self, name):
        """The path of a file that may now be changed: links of folders on the way become folders of links."""
        path = self.path
        for part in Path(name).parts[:-1]:
            path = path / part
            if path.is_symlink():
                original = path.resolve()
                path.unlink()
                path.mkdir()
                for child in original.iterdir():
                    (path / child.name).symlink_to(child)
        return self.path / name

    def put(self, name, content):
        path = self.unshared(name)
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    def table(self, name):
        return json.loads((self.path / VERSION / f"{name}.json").read_text())

    def put_table(self, name, rows):
        self.put(f"{VERSION}/{name}.json", json.dumps(rows).encode())

    def file_of(self, channel, keyframe=True):
        """The last file of a channel, relative to the root."""
        keep = [r["filename"] for r in self.table("sample_data") if r["is_key_frame"] == keyframe]
        return [name for name in keep if f"/{channel}/" in name][-1]

    def entries(self):
        return {path: path.lstat().st_mtime_ns for path in self.path.rglob("*")}


@pytest.fixture
def root(smoke_path, tmp_path):
    return Root(tmp_path / "root", smoke_path)


def _refused(result):
    """The message of a command that ended as it should on wrong input."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def inspect(root):
    """Runs the command on the root and returns its message."""
    from harness.data.__main__ import app

    def run(*arguments, path=root.path, version=("--version", VERSION)):
        before = root.entries()
        result = CliRunner().invoke(app, ["inspect", str(path), *version, *arguments])
        assert root.entries() == before
        return _refused(result)

    return run


@pytest.fixture
def study(root, tmp_path):
    """Runs the smoke study on the root and returns its message; nothing may have been trained."""
    from harness.run import app

    def run(*arguments, path=root.path, version=VERSION):
        before = root.entries()
        runs = tmp_path / "runs"
        flags = [
            "--data-root",
            str(path),
            "--version",
            version,
            "--runs-dir",
            str(runs),
            "--out",
            str(tmp_path / "out"),
        ]
        tracking = ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db", "--device", "cpu"]
        result = CliRunner().invoke(app, [str(STUDY), *flags, *tracking, *arguments])
        assert root.entries() == before
        assert not runs.exists() or not list(runs.iterdir())
        assert not (tmp_path / "mlflow.db").exists()
        return _refused(result)

    return run


@pytest.mark.parametrize("table", mostly_slow(TABLES, "attribute", "sample_data"))
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "is missing; expected one of the 13 tables"),
        (lambda path: _write(path, b""), "is empty"),
        (lambda path: _write(path, LFS), "is a git-LFS pointer"),
        (lambda path: _write(path, path.read_bytes()[:-7]), "is truncated or not a nuScenes table"),
        (lambda path: _write(path, b'[{"token": "a",, }]'), "is not valid JSON: Expecting property name"),
        (lambda path: _write(path, b'[{"token": "\xff"}]'), "is not UTF-8: byte 12 is 0xff"),
        (lambda path: _write(path, b'["a"]'), ': row 0 must be an object, not "a"'),
    ],
    ids=["missing", "empty", "lfs-pointer", "truncated", "no-json", "no-utf8", "no-objects"],
)
def test_a_damaged_table_is_named(root, inspect, table, damage, words):
    path = root.unshared(f"{VERSION}/{table}.json")
    damage(path)
    message = inspect()
    assert f"{path}" in message
    assert words in message


def _write(path, content):
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("content", [b'{"token": "a"}', b"3", b"null"])
def test_a_table_that_is_no_list_is_named(root, inspect, content):
    root.put(f"{VERSION}/scene.json", content)
    assert "scene.json is truncated or not a nuScenes table: expected a JSON list" in inspect()


@pytest.mark.parametrize(
    "table", ["calibrated_sensor", "category", "ego_pose", "log", "map", "sample", "sample_data", "scene", "sensor"]
)
def test_a_table_without_rows_is_named_where_rows_are_needed(root, inspect, table):
    root.put_table(table, [])
    assert f"{table}.json has no rows; expected at least one" in inspect()


@pytest.mark.parametrize(
    ("table", "key"),
    [
        *((table, "token") for table in TABLES),
        ("attribute", "name"),
        *(("calibrated_sensor", key) for key in ("sensor_token", "translation", "rotation", "camera_intrinsic")),
        ("category", "name"),
        ("ego_pose", "translation"),
        ("ego_pose", "rotation"),
        ("instance", "category_token"),
        ("log", "logfile"),
        ("map", "filename"),
        ("map", "log_tokens"),
        *(("sample", key) for key in ("timestamp", "prev", "next", "scene_token")),
        *(("sample_annotation", key) for key in ("sample_token", "instance_token", "visibility_token")),
        *(("sample_annotation", key) for key in ("attribute_tokens", "translation", "size", "rotation", "prev")),
        *(("sample_annotation", key) for key in ("next", "num_lidar_pts", "num_radar_pts")),
        *(("sample_data", key) for key in ("sample_token", "ego_pose_token", "calibrated_sensor_token", "timestamp")),
        *(("sample_data", key) for key in ("is_key_frame", "filename", "prev", "next")),
        ("scene", "name"),
        ("scene", "log_token"),
        ("sensor", "channel"),
        ("sensor", "modality"),
    ],
)
def test_a_row_without_a_needed_key_is_named(root, inspect, table, key):
    rows = root.table(table)
    del rows[-1][key]
    root.put_table(table, rows)
    assert f"{table}.json: row {len(rows) - 1} has no key {key!r}" in inspect()


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("calibrated_sensor", "sensor_token", "lost", "not the token of a row of sensor.json"),
        ("instance", "category_token", "lost", "not the token of a row of category.json"),
        ("sample", "scene_token", "lost", "not the token of a row of scene.json"),
        ("sample", "prev", "lost", "not the token of a row of sample.json"),
        ("sample_annotation", "sample_token", "lost", "not the token of a row of sample.json"),
        ("sample_annotation", "instance_token", "lost", "not the token of a row of instance.json"),
        ("sample_annotation", "visibility_token", "lost", "not the token of a row of visibility.json"),
        ("sample_annotation", "attribute_tokens", ["lost"], "not a list of tokens of attribute.json"),
        ("sample_annotation", "attribute_tokens", "lost", "not a list of tokens of attribute.json"),
        ("sample_annotation", "next", "lost", "not the token of a row of sample_annotation.json"),
        ("sample_data", "sample_token", "lost", "not the token of a row of sample.json"),
        ("sample_data", "ego_pose_token", "lost", "not the token of a row of ego_pose.json"),
        ("sample_data", "ego_pose_token", None, "not the token of a row of ego_pose.json"),
        ("sample_data", "ego_pose_token", "", "not the token of a row of ego_pose.json"),
        ("sample_data", "calibrated_sensor_token", "lost", "not the token of a row of calibrated_sensor.json"),
        ("sample_data", "calibrated_sensor_token", ["lost"], "not the token of a row of calibrated_sensor.json"),
        ("sample_data", "prev", "lost", "not the token of a row of sample_data.json"),
        ("scene", "log_token", "lost", "not the token of a row of log.json"),
        ("map", "log_tokens", [["lost"]], "not a list of strings"),
        ("log", "token", "lost", "in no log_tokens of map.json"),
        ("ego_pose", "token", 7, "no string"),
        ("ego_pose", "translation", [1.0, 2.0], "not a list of 3 finite numbers"),
        ("ego_pose", "translation", [1.0, 2.0, "3"], "not a list of 3 finite numbers"),
        ("ego_pose", "translation", [1.0, float("nan"), 3.0], "not a list of 3 finite numbers"),
        ("ego_pose", "rotation", [0, 0, 0, 0], "not a list of 4 finite numbers, not all 0"),
        ("sample_annotation", "size", [1.0, 0.0, 1.0], "not a list of 3 finite numbers, all above 0"),
        ("sample_annotation", "num_lidar_pts", "3", "not a whole number of 64 bits"),
        ("sample_data", "timestamp", "now", "not a whole number of 64 bits"),
        ("sample_data", "timestamp", 2**63, "not a whole number of 64 bits"),
        ("sample_data", "is_key_frame", "yes", "not true or false"),
        ("sample_data", "filename", None, "no string"),
        ("sensor", "modality", "sonar", "none of ['camera', 'lidar', 'radar']"),
        ("visibility", "token", "full", "none of ['1', '2', '3', '4']"),
    ],
)
def test_a_wrong_value_is_named(root, inspect, table, key, value, words):
    rows = root.table(table)
    rows[-1][key] = value
    root.put_table(table, rows)
    if (table, key) == ("log", "token"):  # else the scene that refers to it is what is found first
        root.put_table("scene", [{**scene, "log_token": rows[0]["token"]} for scene in root.table("scene")])
    if (table, key) == ("visibility", "token"):
        root.put_table("sample_annotation", [{**r, "visibility_token": ""} for r in root.table("sample_annotation")])
    assert f"{table}.json: row {len(rows) - 1}: {key} {json.dumps(value)} is {words}" in inspect()


def test_a_token_of_two_rows_is_named(root, inspect):
    rows = root.table("ego_pose")
    root.put_table("ego_pose", [*rows, rows[3]])
    assert f'ego_pose.json: 2 rows have the token "{rows[3]["token"]}"' in inspect()


def test_a_camera_without_intrinsics_is_named(root, inspect):
    rows = root.table("calibrated_sensor")
    index = max(i for i, row in enumerate(rows) if row["camera_intrinsic"])
    rows[index]["camera_intrinsic"] = [[1.0, 0.0, 0.0]]
    root.put_table("calibrated_sensor", rows)
    words = "is not a 3 x 3 matrix, but its sensor is a camera"
    assert f"calibrated_sensor.json: row {index}: camera_intrinsic [[1.0, 0.0, 0.0]] {words}" in inspect()


def test_a_missing_map_is_named(root, inspect):
    path = root.unshared(root.table("map")[0]["filename"])
    path.unlink()
    message = inspect()
    assert f"{path} is missing or cannot be read: No such file or directory; " in message
    assert f"{root.path / VERSION}/map.json: row 0 names it as a map" in message


def test_an_extension_that_the_devkit_cannot_open_is_named_where_the_devkit_is_needed(root):
    root.put(f"{VERSION}/lidarseg.json", b"[]")
    opened = NuScenesRoot(root.path, VERSION)
    assert opened.tokens("synthetic_val")
    with pytest.raises(InputError, match=r"the devkit cannot open lidarseg\.json"):
        _ = opened.devkit


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"train": "scene"}', b'{"a": [3]}', b"\xff"])
def test_wrong_splits_are_named(root, inspect, study, content):
    root.put(f"{VERSION}/splits.json", content)
    for message in (inspect(), study("--dry-run")):
        assert f"{root.path / VERSION}/splits.json" in message


def test_a_split_that_takes_a_name_of_nuscenes_is_named(root, inspect):
    root.put(f"{VERSION}/splits.json", json.dumps({"val": []}).encode())
    assert "splits.json: 'val' is a split of nuScenes" in inspect()


@pytest.mark.parametrize(
    ("scenes", "words"), [([], "has none of any scene"), (["scene-0001"], "none of its 1 scenes (scene-0001, ...)")]
)
def test_a_split_without_scenes_is_named(root, inspect, study, scenes, words):
    splits = {"synthetic_train": scenes, "synthetic_val": root.table("splits")["synthetic_val"]}
    root.put(f"{VERSION}/splits.json", json.dumps(splits).encode())
    for message in (inspect("--split", "synthetic_train"), study()):
        assert f"split 'synthetic_train': {root.path / VERSION}/scene.json" in message
        assert words in message


def test_a_split_without_samples_is_named(root, inspect):
    scene = {**root.table("scene")[0], "token": "empty", "name": "empty"}
    root.put_table("scene", [*root.table("scene"), scene])
    root.put(f"{VERSION}/splits.json", json.dumps({"none": ["empty"]}).encode())
    assert "sample.json has no sample of its scenes" in inspect("--split", "none")


def test_an_unknown_split_or_version_is_named_with_the_nearest(root, inspect, study):
    assert "unknown split 'synthetic_vale'; did you mean 'synthetic_val'?" in inspect("--split", "synthetic_vale")
    assert "unknown split 'synthetic_vale'" in study("--dry-run", "--split", "synthetic_vale")
    assert f"unknown version 'teaser'; allowed: {VERSION}" in inspect(version=("--version", "teaser"))
    assert f"unknown version 'v1.0-synthetik'; did you mean {VERSION!r}?" in study(
        "--dry-run", version="v1.0-synthetik"
    )
    for version in ("", "..", ".", f"../root/{VERSION}"):
        assert f"unknown version {version!r}" in inspect(version=("--version", version))


def test_a_version_must_be_chosen_where_there_are_two(root, inspect):
    (root.path / "v1.0-mini").mkdir()
    assert f"has several versions: v1.0-mini, {VERSION}; choose one with --version" in inspect(version=())


def test_what_is_no_root_is_said_to_be_none(root, inspect, study, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("hello")
    for path, words in (
        (tmp_path / "nowhere", "nowhere does not exist"),
        (tmp_path / "file", "file is a file; expected a folder"),
        (tmp_path / "empty", "is not a nuScenes root: it has no version folder"),
        (root.path / VERSION, "is a version folder; give its parent folder as the dataset root"),
    ):
        assert words in inspect(path=path)
        assert words in inspect(path=path, version=())
        assert words in study("--dry-run", path=path)


@pytest.mark.parametrize("channel", ["CAM_BACK", "LIDAR_TOP", "RADAR_FRONT"])
def test_a_missing_keyframe_is_named(root, inspect, channel):
    rows = root.table("sample_data")
    row = next(row for row in reversed(rows) if f"/{channel}/" in row["filename"] and row["is_key_frame"])
    row["is_key_frame"] = False
    root.put_table("sample_data", rows)
    assert f"sample_data.json: sample {row['sample_token']} has no keyframe of {channel}" in inspect("--fast")


@pytest.mark.parametrize("channel", ["CAM_FRONT", "LIDAR_TOP"])
def test_a_study_names_a_keyframe_that_it_misses(root, study, channel):
    # The LiDAR's pose is that of the sample: a study of cameras alone needs it, too.
    rows = root.table("sample_data")
    row = next(row for row in reversed(rows) if f"/{channel}/" in row["filename"] and row["is_key_frame"])
    row["is_key_frame"] = False
    root.put_table("sample_data", rows)
    message = study("--set", "teachers.lidar={preset: tiny_camera, seed: 0}", "--set", "paths=[lidar->camera]")
    assert f"sample {row['sample_token']} has no keyframe of {channel}" in message


def _png(path):
    return cv2.imencode(".png", np.zeros((9, 16, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("channel", "keyframe"),
    [("CAM_FRONT", True), ("LIDAR_TOP", True), ("LIDAR_TOP", False), ("RADAR_BACK_LEFT", True), ("RADAR_FRONT", False)],
)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        (lambda original: b"", "is empty"),
        (lambda original: LFS, "is a git-LFS pointer"),
    ],
    ids=["missing", "empty", "lfs-pointer"],
)
def test_a_sensor_file_that_is_not_there_is_named_without_decoding(root, inspect, channel, keyframe, content, words):
    name = root.file_of(channel, keyframe)
    path = root.unshared(name)
    original = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content(original))
    for message in (inspect("--fast"), inspect()):
        assert f"{root.path / name} {words}" in message


@pytest.mark.parametrize(
    ("channel", "content", "words"),
    [
        ("CAM_FRONT", lambda original: original[:-2], "cannot be read as a JPEG image: it is truncated or damaged"),
        ("CAM_FRONT", lambda original: original[: len(original) // 2], "it is truncated or damaged"),
        ("CAM_FRONT", lambda original: b"hello, this is no image", "is not a JPEG image: it begins with b'hello, t'"),
        ("CAM_FRONT", _png, r"is not a JPEG image: it begins with b'\x89PNG"),
        ("CAM_FRONT", lambda original: original[:2] + b"\0" * 500 + original[-2:], "it is truncated or damaged"),
        ("LIDAR_TOP", lambda original: original[:-3], "is truncated: "),
        ("LIDAR_TOP", lambda original: b"x y z intensity ring\n1 2 3 4 5\n", "is truncated: 31 bytes"),
        ("LIDAR_TOP", lambda original: b"\xff" * 20 + original, "contains NaN or infinity"),
        ("RADAR_FRONT", lambda original: original[:-9], "is truncated: "),
        ("RADAR_FRONT", lambda original: original[:100], "is not a binary PCD with the 18 fields"),
        ("RADAR_FRONT", lambda original: original.replace(b"DATA binary", b"DATA ascii"), "is not a binary PCD"),
        ("RADAR_FRONT", lambda original: original.replace(b" rcs ", b" power "), "is not a binary PCD"),
        ("RADAR_FRONT", lambda original: original.replace(b"SIZE 4 4 4 1 2", b"SIZE 8 4 4 1 2"), "is not a binary PCD"),
        ("RADAR_FRONT", lambda original: original.replace(b"WIDTH ", b"WIDTH -"), "is truncated: "),
        ("RADAR_FRONT", lambda original: b"hello", "is not a binary PCD"),
    ],
)
def test_a_damaged_sensor_file_is_named(root, inspect, channel, content, words):
    name = root.file_of(channel)
    root.put(name, content((root.path / name).read_bytes()))
    message = inspect()
    assert f"{root.path / name} " in message
    assert words in message


def test_an_image_of_another_size_than_its_calibration_is_named(root, inspect):
    name = root.file_of("CAM_BACK")
    row = next(row for row in root.table("sample_data") if row["filename"] == name)
    root.put(name, cv2.imencode(".jpg", np.zeros((9, 16, 3), np.uint8))[1].tobytes())
    assert f"has 16 x 9 pixels, but {row['width']} x {row['height']} by sample_data.json" in inspect()


def test_every_unusable_file_is_named_up_to_twenty(root, inspect):
    from harness.data.__main__ import app

    names = [row["filename"] for row in root.table("sample_data")]
    for name in names[:3]:
        root.unshared(name).unlink()
    result = CliRunner().invoke(app, ["inspect", str(root.path), "--fast"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == "error: 3 sensor files are missing or damaged:"
    assert sorted(line.split(" ")[0] for line in result.stderr.splitlines()[1:]) == sorted(
        str(root.path / name) for name in names[:3]
    )
    for name in names[3:25]:
        root.unshared(name).unlink()
    result = CliRunner().invoke(app, ["inspect", str(root.path), "--fast"])
    assert result.stderr.splitlines()[0] == "error: 25 sensor files are missing or damaged:"
    assert result.stderr.splitlines()[-1] == "... and 5 more"
    assert len(result.stderr.splitlines()) == 22


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda root: root.unshared(root.file_of("CAM_FRONT")).unlink(),
            "is missing; expected a file of CAM_FRONT for",
        ),
        (lambda root: root.put(root.file_of("LIDAR_TOP"), b"\0" * 19), "is truncated: 19 bytes"),
        (lambda root: root.put_table("ego_pose", root.table("ego_pose")[:-1]), "token of a row of ego_pose.json"),
        (lambda root: root.put(f"{VERSION}/sample_data.json", b"[{]"), "sample_data.json is not valid JSON"),
        (lambda root: root.put_table("sample_annotation", []), "has no annotation"),
    ],
    ids=["image", "lidar", "pose", "json", "annotations"],
)
def test_a_study_names_what_is_wrong_before_it_trains(root, study, damage, words):
    damage(root)
    if words == "has no annotation":
        root.put_table("instance", [])
    assert words in study()


@pytest.mark.parametrize(
    "content", [None, b"", LFS, b'[{"token": '], ids=["missing", "empty", "lfs-pointer", "cut off"]
)
def test_a_dry_run_names_a_table_that_is_not_whole(root, study, content):
    path = root.unshared(f"{VERSION}/sample_data.json")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert str(path) in study("--dry-run")


@pytest.mark.parametrize("table", ["attribute", "instance", "sample_annotation", "visibility"])
def test_a_test_split_without_annotations_is_a_good_root(root, table):
    from harness.data.__main__ import app

    for name in ("instance", "sample_annotation", table):
        root.put_table(name, [])
    result = CliRunner().invoke(app, ["inspect", str(root.path), "--fast"])
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("out", "words"), [("file", "is not a folder"), ("full", "is not empty"), ("file/below", "cannot be written")]
)
def test_synthesize_names_an_out_that_it_cannot_use(tmp_path, out, words):
    from harness.data.__main__ import app

    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    message = _refused(CliRunner().invoke(app, ["synthesize", str(tmp_path / out), "--preset", "smoke"]))
    assert str(tmp_path / out) in message
    assert words in message
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine"]


def test_damage_that_still_decodes_is_known_by_its_hash(root, inspect):
    for channel, damaged in (
        ("LIDAR_TOP", lambda original: original[:2000]),
        ("CAM_BACK", lambda original: original + b"\0"),
    ):
        name = root.file_of(channel)
        content = (root.path / name).read_bytes()
        root.put(name, damaged(content))
        assert f"{name} is damaged: its hash differs from that in manifest.json" in inspect()
        root.put(name, content)


def test_an_unfinished_synthetic_dataset_is_no_root(root, inspect, study):
    (root.path / "manifest.json").unlink()
    for command in (inspect, study):
        assert "unfinished synthetic dataset" in command()


@pytest.mark.parametrize(
    ("digits", "words"), [(400, "ego_pose.json: row 3: translation [9"), (5000, "ego_pose.json is not valid JSON")]
)
def test_numbers_beyond_all_bounds_are_named(root, inspect, digits, words):
    rows = root.table("ego_pose")
    rows[3]["translation"][0] = "NUMBER"
    root.put("v1.0-synthetic/ego_pose.json", json.dumps(rows).replace('"NUMBER"', "9" * digits).encode())
    assert words in inspect()


def test_a_name_too_long_for_any_file_is_named(root, inspect, tmp_path):
    assert "x" * 300 in inspect(path=tmp_path / ("x" * 300), version=())
    for table in ("sample_data", "map"):
        rows = root.table(table)
        root.put_table(table, [{**rows[0], "filename": "samples/" + "y" * 300}, *rows[1:]])
        assert "y" * 300 in inspect()
        root.put_table(table, rows)
