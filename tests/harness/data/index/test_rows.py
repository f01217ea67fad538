"""An index answers as the devkit does, on whatever tables, and is built anew where it is not of these tables."""

import json
import multiprocessing
import shutil

import numpy as np
import nuscenes.nuscenes
import pytest

from detectors.batch import Inputs
from harness.data import tables
from harness.data.index import rows as index_rows
from harness.data.index.build import token_hash
from harness.data.index.rows import Index
from harness.data.nuscenes import read
from harness.data.root import CAMERAS, LIDAR, RADARS, NuScenesRoot
from harness.data.tables import COLUMNS, TABLES
from harness.errors import InputError
from harness.evaluate.annotations import from_tables
from harness.inspect.nuscenes import gather
from harness.inspect.picture import read_whole

VERSION = "v1.0-synthetic"
ADDED = {
    "sample": {"data", "anns"},
    "sample_annotation": {"category_name"},
    "sample_data": {"width", "height", "channel", "sensor_modality"},
}
"""Keys beside those that every row must have."""


@pytest.fixture
def root(smoke_path, tmp_path, monkeypatch):
    """Tables that may be changed, and a cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(smoke_path / VERSION, tmp_path / "root" / VERSION)
    (tmp_path / "root" / "maps").symlink_to(smoke_path / "maps")
    return NuScenesRoot(tmp_path / "root", VERSION)


@pytest.fixture(params=["smoke_root", "real_root"])
def any_root(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def builds(monkeypatch):
    """Roots whose index was built."""
    built, original = [], index_rows.build
    monkeypatch.setattr(index_rows, "build", lambda path, *more: built.append(path) or original(path, *more))
    return built


def _again(root):
    """The root as another process sees it."""
    return NuScenesRoot(root.path, root.version)


def _kept(tmp_path):
    """The file of the index."""
    (path,) = (tmp_path / "cache").rglob("*.columns")
    return path


def _rewrite(root, table, change):
    path = root.path / root.version / f"{table}.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def _assert_as_the_devkit(index, devkit):
    for table in TABLES:
        rows = getattr(devkit, table)
        assert index.count(table) == len(rows)
        assert index.column(table, "token") == [row["token"] for row in rows]
        for row in rows:
            read = index.get(table, row["token"])
            assert read.keys() == {"token", *COLUMNS[table], *ADDED.get(table, ())}
            assert read == {key: row[key] for key in read}
    for row in devkit.sample:
        assert list(index.value("sample", row["token"], "data")) == list(row["data"])


def test_every_row_is_the_devkits(any_root):
    _assert_as_the_devkit(any_root.index, any_root.devkit)


def test_columns_of_numbers_are_those_of_the_rows(any_root):
    index = any_root.index
    for table, key in (("sample_annotation", "num_lidar_pts"), ("sample", "timestamp")):
        assert index.numbers(table, key).tolist() == index.column(table, key)
    tokens = np.array(["", *index.column("sample", "token")])
    # Row -1 is none.
    assert tokens[index.numbers("sample", "prev") + 1].tolist() == index.column("sample", "prev")
    with pytest.raises(AssertionError, match=r"log\.logfile has no numbers"):
        index.numbers("log", "logfile")


def test_every_velocity_is_the_devkits_to_the_last_bit(any_root):
    listed = [each for token in any_root.index.column("sample", "token") for each in any_root.annotations(token)]
    assert len(listed) == len(any_root.devkit.sample_annotation)
    for row, _, velocity in listed:
        np.testing.assert_array_equal(velocity, any_root.devkit.box_velocity(row["token"]))


def test_every_sweep_is_the_devkits(any_root):
    devkit = any_root.devkit
    for sample in devkit.sample:
        for channel in (*CAMERAS, LIDAR, *RADARS):
            expected = [devkit.get("sample_data", sample["data"][channel])]
            while len(expected) < 4 and expected[-1]["prev"]:
                expected.append(devkit.get("sample_data", expected[-1]["prev"]))
            sweeps = any_root.sweeps(sample["token"], channel, 4)
            assert sweeps == [{key: row[key] for key in sweeps[0]} for row in expected]


def test_samples_annotations_and_pictures_need_no_devkit(smoke_path, monkeypatch):
    def fail(**_):
        raise AssertionError("the devkit was opened")

    monkeypatch.setattr(nuscenes.nuscenes, "NuScenes", fail)
    root = NuScenesRoot(smoke_path, VERSION)
    tokens = root.tokens("synthetic_val")
    inputs = Inputs(image_size=(80, 224), lidar_sweeps=2, radar_sweeps=2)
    root.check_files(tokens, inputs)
    root.check_annotations("synthetic_val", tokens)
    assert len(read(root, tokens[1], inputs).boxes) > 5
    assert len(from_tables(root, tokens)[1]) == sum(
        read_whole(root, token).facts.visibility.numel() for token in tokens
    )
    assert len(gather(root, tokens).label) >= len(from_tables(root, tokens)[1])


def test_rows_of_some_samples_come_in_the_order_of_their_table(smoke_root):
    tokens = smoke_root.tokens("synthetic_val")[1:]
    for table in ("sample_data", "sample_annotation"):
        expected = [row["token"] for row in getattr(smoke_root.devkit, table) if row["sample_token"] in tokens]
        assert [row["token"] for row in smoke_root.index.rows_of(table, "sample_token", tokens)] == expected
    assert smoke_root.index.rows_of("sample_data", "sample_token", []) == []


def test_a_token_that_no_row_has_is_named(smoke_root):
    with pytest.raises(KeyError, match="sample has no row 'lost'"):
        smoke_root.index.get("sample", "lost")


def test_tokens_of_one_hash_are_told_apart(root):
    # By chance, of which there is enough in millions of tokens.
    assert token_hash("plumless") == token_hash("buckeroo")

    def rename(rows):
        rows[0]["token"], rows[1]["token"] = "plumless", "buckeroo"

    _rewrite(root, "attribute", rename)
    _rewrite(root, "sample_annotation", lambda rows: [row.update(attribute_tokens=["buckeroo"]) for row in rows])
    index = _again(root).index
    names = [row["name"] for row in json.loads((root.path / VERSION / "attribute.json").read_text())[:2]]
    assert [index.value("attribute", token, "name") for token in ("plumless", "buckeroo")] == names
    with pytest.raises(KeyError):
        index.get("attribute", "plumles")


def test_odd_texts_and_numbers_are_read_as_they_are(root):
    strange = 'a "},{" \\ \u00e4\U0001f697 \x00 \ud800 \x00'

    def change(rows):
        rows[0].update(token=strange, prev="", filename=strange, width=None)
        del rows[1]["height"]
        rows[2]["timestamp"] = -(2**63)

    _rewrite(root, "sample_data", lambda rows: [row.update(prev="", next="") for row in rows] and change(rows))
    _rewrite(root, "ego_pose", lambda rows: rows[0].update(translation=[1, -0.0, 1e-320], odd=float("nan")))
    index = _again(root).index
    row = index.get("sample_data", strange)
    assert (row["filename"], row["width"]) == (strange, 0)
    assert index.column("sample_data", "height")[1] == 0
    assert index.column("sample_data", "timestamp")[2] == -(2**63)
    assert repr(index.column("ego_pose", "translation")[0]) == "[1.0, -0.0, 1e-320]"


def test_a_sample_without_annotations_has_none(root):
    token = root.tokens("synthetic_val")[1]
    _rewrite(root, "sample_annotation", lambda rows: [row.update(prev="", next="") for row in rows])

    def leave_out(rows):
        rows[:] = [row for row in rows if row["sample_token"] != token]

    _rewrite(root, "sample_annotation", leave_out)
    changed = _again(root)
    assert list(changed.annotations(token)) == []
    _assert_as_the_devkit(changed.index, changed.devkit)


def test_the_second_time_the_tables_stay_closed(root, builds, monkeypatch):
    assert isinstance(root.index, Index)
    monkeypatch.setattr(tables, "stream", None)
    assert _again(root).tokens("synthetic_val") == root.tokens("synthetic_val")
    assert builds == [root.path]


def test_changed_tables_take_the_place_of_the_old_ones(root, builds, tmp_path):
    before = root.index
    _rewrite(root, "category", lambda rows: rows[0].update(name="animal"))
    assert _again(root).index.column("category", "name")[0] == "animal"
    assert before.column("category", "name")[0] != "animal"
    assert builds == [root.path] * 2
    assert _kept(tmp_path).is_file()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b"no index" * 100,
        lambda content: b"[]" + (2).to_bytes(8, "little"),
        lambda content: b"\xff" * 50,
        lambda content: content.replace(b'"format": ', b'"format":9'),
    ],
    ids=["empty", "cut", "half", "foreign", "list", "no-text", "other-format"],
)
def test_a_torn_or_foreign_index_is_built_anew(root, builds, tmp_path, damage):
    assert root.index
    path = _kept(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert _again(root).tokens("synthetic_val")
    assert path.read_bytes() == whole
    assert len(builds) == 2


def test_what_a_killed_build_left_is_overwritten(root, tmp_path):
    assert root.index
    path = _kept(tmp_path)
    whole = path.read_bytes()
    path.unlink()
    path.with_name(f".{path.name}.tmp").write_bytes(b"a part")
    assert _again(root).index
    assert path.read_bytes() == whole
    assert {each.suffix for each in path.parent.iterdir()} <= {".columns", ".lock"}


def test_wrong_tables_leave_no_index(root, tmp_path):
    _rewrite(root, "sample_data", lambda rows: rows[-1].update(filename=7))
    with pytest.raises(InputError, match="filename 7 is no string"):
        _ = _again(root).index
    assert [path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()] in ([], [".lock"])


@pytest.mark.parametrize("key", ["width", "height"])
def test_a_size_that_is_no_number_is_named(root, key):
    _rewrite(root, "sample_data", lambda rows: rows[3].update({key: "900"}))
    with pytest.raises(InputError, match=rf'sample_data\.json: row 3: {key} "900" is not a whole number'):
        _ = _again(root).index


def test_without_a_place_to_keep_it_an_index_is_built_each_time(root, tmp_path, builds, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    for count in (1, 2):
        assert _again(root).tokens("synthetic_val")
        assert len(builds) == count
    assert "cannot be stored" in caplog.text


def _tokens(root, barrier, results):
    barrier.wait()
    results.put(NuScenesRoot(root, VERSION).tokens("synthetic_val"))


def test_processes_that_open_a_root_at_once_all_read_it(root, tmp_path):
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(4), fork.Queue()
    processes = [fork.Process(target=_tokens, args=(root.path, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    tokens = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert tokens == [root.tokens("synthetic_val")] * 4
    assert [path.suffix for path in _kept(tmp_path).parent.iterdir()].count(".columns") == 1
