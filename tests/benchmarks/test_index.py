"""What an index of the tables saves against the devkit's `NuScenes`: CPU time, and memory of one and eight processes.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``, on made-up tables of the size of v1.0-trainval
(3 GB of JSON, 10 minutes, 9 GB of memory for the devkit). Without it each body runs once, on four scenes, as a test.
"""

import json
import multiprocessing
import os
import random
import shutil
import sys
import time
import zlib
from pathlib import Path

import pytest
import torch

from detectors.batch import Inputs
from harness.data.balance import class_balance
from harness.data.root import CAMERAS, LIDAR, RADARS, NuScenesRoot

VERSION = "v1.0-trainval"
FULL = {"scene": 850, "sample": 34_149, "instance": 64_386, "sample_data": 2_630_069, "sample_annotation": 1_166_187}
"""Rows of nuScenes; as many ego poses as sample_data."""
SMALL = {table: max(4, count // 500) for table, count in FULL.items()}
SUFFIXES = {"CAM": "jpg", "LID": "pcd.bin", "RAD": "pcd"}
CHANNELS = (*CAMERAS, LIDAR, *RADARS)
PROCESSES = 8
IS_MEASURED = "--benchmark-enable" in sys.argv


def _token(table, number):
    """Of 32 letters, in an order of chance as nuScenes' are; none for no number."""
    if number is None:
        return ""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{zlib.crc32(table.encode()):08x}{number:08x}"


def _neighbours(table, number, group_of, count):
    """Tokens of the rows before and after one in its group."""
    before = number - 1 if number and group_of(number - 1) == group_of(number) else None
    after = number + 1 if number + 1 < count and group_of(number + 1) == group_of(number) else None
    return {"prev": _token(table, before), "next": _token(table, after)}


def write_tables(folder, counts):
    """Tables with so many rows, in nuScenes' layout and with all of its keys."""
    rng = random.Random(0)
    scenes, samples, instances = counts["scene"], counts["sample"], counts["instance"]
    boxes, files = counts["sample_annotation"], counts["sample_data"]

    def write(table, rows):
        with (folder / VERSION / f"{table}.json").open("w") as file:
            for number, row in enumerate(rows):
                file.write(("," if number else "[") + "\n" + json.dumps(row, separators=(",\n", ": ")))
            file.write("\n]")

    def point():
        return [rng.uniform(0, 2000), rng.uniform(0, 2000), 0.0]

    def rotation():
        return [rng.random(), 0.0, 0.0, rng.random()]

    (folder / VERSION).mkdir(parents=True)
    (folder / "maps").mkdir()
    (folder / "maps" / "map.png").touch()
    categories = ("vehicle.car", "human.pedestrian.adult", "movable_object.barrier", "animal")
    write("attribute", [{"token": "parked", "name": "vehicle.parked", "description": ""}])
    write("category", [{"token": name, "name": name, "description": ""} for name in categories])
    write("visibility", [{"token": str(n), "level": f"v{n}", "description": ""} for n in range(1, 5)])
    kinds = {"CAM": "camera", "LID": "lidar", "RAD": "radar"}
    write("sensor", [{"token": name, "channel": name, "modality": kinds[name[:3]]} for name in CHANNELS])
    write("log", [{"token": f"log{n}", "logfile": f"n015-{n}"} for n in range(68)])
    write("map", [{"token": "map", "filename": "maps/map.png", "log_tokens": [f"log{n}" for n in range(68)]}])

    def scene_of(sample):
        return sample * scenes // samples

    write(
        "scene",
        (
            {"token": _token("scene", n), "name": f"scene-{n:04d}", "log_token": f"log{n % 68}", "description": ""}
            for n in range(scenes)
        ),
    )
    write(
        "calibrated_sensor",
        (
            {
                "token": f"{_token('scene', n)}-{name}",
                "sensor_token": name,
                "translation": point(),
                "rotation": rotation(),
                "camera_intrinsic": [[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0, 0, 1]] if "CAM" in name else [],
            }
            for n in range(scenes)
            for name in CHANNELS
        ),
    )
    write(
        "sample",
        (
            {
                "token": _token("sample", n),
                "timestamp": 1_500_000_000_000_000 + 500_000 * n,
                **_neighbours("sample", n, scene_of, samples),
                "scene_token": _token("scene", scene_of(n)),
            }
            for n in range(samples)
        ),
    )
    write(
        "ego_pose",
        (
            {
                "token": _token("sample_data", n),
                "timestamp": 1_500_000_000_000_000 + 6_500 * n,
                "rotation": rotation(),
                "translation": point(),
            }
            for n in range(files)
        ),
    )
    # A channel after the other, scene by scene, as chains; the first of a sample is its keyframe.
    chains = scenes * len(CHANNELS)

    def chain_of(number):
        return number * chains // files

    def file_rows():
        seen = set()
        for n in range(files):
            chain = chain_of(n)
            scene, channel = chain // len(CHANNELS), CHANNELS[chain % len(CHANNELS)]
            first = -(-scene * samples // scenes)
            of_scene = -(-(scene + 1) * samples // scenes) - first
            begin, end = -(-chain * files // chains), -(-(chain + 1) * files // chains)
            sample = first + (n - begin) * of_scene // (end - begin)
            folder_of = "sweeps" if (sample, chain) in seen else "samples"
            yield {
                "token": _token("sample_data", n),
                "sample_token": _token("sample", sample),
                "ego_pose_token": _token("sample_data", n),
                "calibrated_sensor_token": f"{_token('scene', scene)}-{channel}",
                "timestamp": 1_500_000_000_000_000 + 6_500 * n,
                "fileformat": "jpg",
                "is_key_frame": folder_of == "samples",
                "height": 900,
                "width": 1600,
                "filename": f"{folder_of}/{channel}/n015-2018-07-24-11-22-45+0800__{n:016d}.{SUFFIXES[channel[:3]]}",
                **_neighbours("sample_data", n, chain_of, files),
            }
            seen.add((sample, chain))

    write("sample_data", file_rows())

    def instance_of(box):
        return box * instances // boxes

    def box_rows():
        for n in range(boxes):
            yield {
                "token": _token("sample_annotation", n),
                "sample_token": _token("sample", (instance_of(n) * 7 + n) % samples),
                "instance_token": _token("instance", instance_of(n)),
                "visibility_token": str(1 + n % 4),
                "attribute_tokens": ["parked"] if n % 3 else [],
                "translation": point(),
                "size": [1.9, 4.6, 1.7],
                "rotation": rotation(),
                **_neighbours("sample_annotation", n, instance_of, boxes),
                "num_lidar_pts": n % 50,
                "num_radar_pts": n % 5,
            }

    write("sample_annotation", box_rows())
    write(
        "instance",
        (
            {"token": _token("instance", n), "category_token": categories[n % 4], "nbr_annotations": 18}
            for n in range(instances)
        ),
    )


def _memory(field):
    """A number of this process's memory in MB."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024


def _open(way, path):
    if way == "devkit":
        from nuscenes.nuscenes import NuScenes

        return NuScenes(version=VERSION, dataroot=str(path), verbose=False)
    return NuScenesRoot(path, VERSION).index


def _measure(way, path):
    """CPU-seconds of opening, and MB beyond imports: at most while it opens, and not shared once 500 samples are read.

    What is mapped of the index is the system's cache, which all processes share and which it may take back.
    """
    import nuscenes.nuscenes  # noqa: F401

    before, anonymous, began = _memory("VmRSS"), _memory("RssAnon"), time.process_time()
    tables = _open(way, path)
    seconds, peak = time.process_time() - began, _memory("VmHWM")
    tokens = [row["token"] for row in tables.sample] if way == "devkit" else tables.column("sample", "token")
    for token in random.Random(os.getpid()).sample(tokens, min(500, len(tokens))):
        sample = tables.get("sample", token)
        for other in sample["data"].values():
            tables.get("ego_pose", tables.get("sample_data", other)["ego_pose_token"])
        for other in sample["anns"]:
            tables.get("sample_annotation", other)
    return {
        "CPU-seconds": round(seconds, 2),
        "peak MB": round(peak - before),
        "own MB": round(_memory("RssAnon") - anonymous),
    }


INPUTS = Inputs(image_size=(256, 704), lidar_sweeps=10)
"""Six images and ten sweeps of a sample: what a detector with cameras and LiDAR reads."""
EPOCH_SECONDS, EPOCH_MB = 60, 3 * 1024
"""Of the processor and of memory, of all processes together."""


def _pss():
    """MB of this process, where what it shares counts by its part."""
    return int(Path("/proc/self/smaps_rollup").read_text().split("Pss:")[1].split()[0]) / 1024


def _list_files(root, tokens, barrier, results):
    """The files of some samples; how many there are, CPU-seconds, and MB while all processes have done as much."""
    began = time.process_time()
    files = sum(1 for token in tokens for _ in root.files(token, INPUTS))
    seconds = time.process_time() - began
    barrier.wait()
    results.put((files, seconds, _pss()))
    barrier.wait()


def _list_epoch(path, results):
    """As a training does: one process opens the root, and others, which are forked from it, share the samples."""
    root = NuScenesRoot(path, VERSION)
    began = time.process_time()
    tokens = root.index.column("sample", "token")
    epoch = class_balance(root, tokens).epoch(torch.Generator().manual_seed(0))
    seconds = time.process_time() - began
    fork = multiprocessing.get_context("fork")
    barrier, theirs = fork.Barrier(PROCESSES + 1), fork.Queue()
    workers = [
        fork.Process(target=_list_files, args=(root, tokens[first::PROCESSES], barrier, theirs))
        for first in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    files, spent, memory = zip(*(theirs.get() for _ in workers), strict=True)
    results.put(
        {
            "samples": len(tokens),
            "of a balanced epoch": len(epoch),
            "files": sum(files),
            "CPU-seconds, balance": round(seconds, 2),
            "CPU-seconds, files": round(sum(spent), 1),
            "MB": round(sum(memory) + _pss()),
        }
    )
    barrier.wait()
    for worker in workers:
        worker.join()


def _in_processes(count, way, path):
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        return pool.starmap(_measure, [(way, path)] * count, chunksize=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a root of tables, and a cache that is empty."""
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        write_tables(folder / "root", FULL if IS_MEASURED else SMALL)
        yield folder
    shutil.rmtree(folder)


@pytest.fixture
def path(folder):
    """That root."""
    return folder / "root"


@pytest.mark.timeout(3600)
def test_an_index_against_the_devkit(benchmark, path, folder):
    if not benchmark.enabled:
        index, devkit = _open("index", path), _open("devkit", path)
        for table in devkit.table_names:
            for row in getattr(devkit, table):
                read = index.get(table, row["token"])
                assert read == {key: row[key] for key in read}
    else:
        results = {
            "index, built": _in_processes(1, "index", path),
            "index, opened": _in_processes(1, "index", path),
            f"index, opened by {PROCESSES}": _in_processes(PROCESSES, "index", path),
            "devkit": _in_processes(1, "devkit", path),
        }
        size = sum(each.stat().st_size for each in (folder / "cache").rglob("*.columns"))
        results["MB of JSON"] = round(sum(each.stat().st_size for each in path.rglob("*.json")) / 2**20)
        results["MB of the index"] = round(size / 2**20)
        print(json.dumps(results, indent=1))
        benchmark.extra_info |= results
    # Opening reads nothing but the description at the end of the file.
    benchmark(lambda: NuScenesRoot(path, VERSION).index)


@pytest.mark.timeout(3600)
def test_an_epoch_of_samples_with_ten_sweeps_in_eight_processes(path):
    tables_before = {each.name: each.stat().st_mtime_ns for each in path.rglob("*")}
    root = NuScenesRoot(path, VERSION)
    tokens = root.index.column("sample", "token")
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    process = spawn.Process(target=_list_epoch, args=(path, results))
    process.start()
    listed = results.get()
    process.join()
    assert process.exitcode == 0
    print(json.dumps(listed, indent=1))
    assert listed["samples"] == len(tokens)
    # Only at the start of a scene are there fewer than ten sweeps.
    assert 10 * len(tokens) < listed["files"] <= 16 * len(tokens)
    assert listed["CPU-seconds, balance"] + listed["CPU-seconds, files"] < EPOCH_SECONDS
    assert listed["MB"] < EPOCH_MB
    # The root is never written to.
    assert {each.name: each.stat().st_mtime_ns for each in path.rglob("*")} == tables_before
    if not IS_MEASURED:
        devkit = _open("devkit", path)
        for token in tokens:
            row = devkit.get("sample_data", devkit.get("sample", token)["data"][LIDAR])
            chain = [row]
            while len(chain) < 10 and row["prev"]:
                row = devkit.get("sample_data", row["prev"])
                chain.append(row)
            assert [each["token"] for each in root.sweeps(token, LIDAR, 10)] == [each["token"] for each in chain]
