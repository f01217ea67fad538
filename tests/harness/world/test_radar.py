"""RADARs measure range, azimuth and radial speed of what faces them; what is small, far or hidden seldom returns."""

import math
from dataclasses import replace

import numpy as np
import pytest
from nuscenes.utils.data_classes import RadarPointCloud

from harness.data.sensor_files import encode_radar, read_radar
from harness.world import radar
from harness.world.mounts import RADAR_MOUNTS, Calibration, calibrate
from harness.world.radar import reflectors, scan_radar
from harness.world.scene import Thing, Track, rotation
from harness.world.shapes import KINDS
from harness.world.street import build_scene


@pytest.fixture
def make_scene(flat_scene):
    """Things on flat ground, the ego at the origin facing +x: ``make_scene(("car", Track(...)), ego=Track(...))``."""

    def make(*things, ego=flat_scene.ego):
        objects = tuple(Thing(name, track, KINDS[name].size, (), "", {}) for name, track in things)
        return replace(flat_scene, ego=ego, objects=objects)

    return make


@pytest.fixture
def front():
    """Half a metre above the ground and 3.4 m before the ego's origin, facing ahead."""
    pose = np.eye(4)
    pose[:3, 3] = 3.4, 0.0, 0.5
    return Calibration(pose, None)


@pytest.fixture
def scan(front):
    """Returns of many sweeps together: ``scan(scene, sweeps, far=False)``; without clutter where asked for."""

    def many(scene, sweeps, far=False, mount=front):
        rng = np.random.default_rng(0)
        return np.concatenate([scan_radar(scene, reflectors(scene, rng), 0.0, mount, far, rng) for _ in range(sweeps)])

    return many


@pytest.fixture
def quiet(monkeypatch):
    """No clutter and no ghosts."""
    monkeypatch.setattr(radar, "_clutter", lambda *_: np.zeros((0, 5)))
    monkeypatch.setattr(radar, "_ghosts", lambda *_: np.zeros((0, 5)))


def _standing(x, y, yaw=0.0):
    return Track(x, y, yaw, 0.0, 0.0)


@pytest.mark.usefixtures("quiet")
def test_returns_lie_on_the_sides_that_face_the_radar(make_scene, scan):
    returns = scan(make_scene(("bus", _standing(20.0, 5.0))), 50)
    # From the sensor the bus (11 m by 2.94 m) spans 11.1 to 22.1 m ahead and 3.53 to 6.47 m to the left.
    ahead, left = returns["x"] - 16.6, returns["y"] - 5.0
    assert len(returns) > 100
    assert np.abs(ahead).max() < 5.5 + 0.7
    assert np.abs(left).max() < 1.47 + 0.9
    # All of the back and of the right side; those inside are rare, and nothing comes from the left side's middle.
    assert np.mean((left < 0.3) | (ahead < -4)) > 0.85
    assert (returns["z"] == 0).all()
    noise = np.abs(ahead[(np.abs(left) < 0.3) & (ahead < -4)] + 0.92 * 5.5)
    assert noise.max() < 0.17 * 4 + 0.1


@pytest.mark.usefixtures("quiet")
def test_what_is_hidden_seldom_returns(make_scene, scan):
    hidden, hiding = ("truck", _standing(35.0, 0.0)), ("bus", _standing(15.0, 0.0, math.pi / 2))
    alone = scan(make_scene(hidden), 60)
    behind = scan(make_scene(hidden, hiding), 60)
    far = 3.4 + behind["x"] > 25
    assert 0 < far.sum() < 0.08 * len(alone)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_the_chance_of_a_return_falls_with_range_and_size(make_scene, scan):
    found = {
        (name, x): len(scan(make_scene((name, _standing(x, 0.0))), 100)) / 100
        for name in ("bus", "car", "pedestrian", "traffic_cone")
        for x in (10.0, 25.0, 60.0)
    }
    assert found["bus", 10.0] > 2
    assert 1 < found["car", 10.0] < 4
    assert 0.1 < found["pedestrian", 10.0] < 0.8
    assert found["traffic_cone", 10.0] < 0.5
    for name in ("bus", "car", "pedestrian"):
        assert found[name, 25.0] > 1.3 * found[name, 60.0]
    assert found["pedestrian", 10.0] > 2 * found["pedestrian", 25.0]
    assert found["car", 60.0] > 0.1
    assert found["pedestrian", 60.0] == found["traffic_cone", 60.0] == 0


@pytest.mark.usefixtures("quiet")
def test_only_the_radial_speed_is_measured(make_scene, scan):
    # Ahead to the left at 45 degrees, crossing to the right at 10 m/s: it approaches at 10 / sqrt(2).
    scene = make_scene(("car", Track(18.4, 15.0, -math.pi / 2, 10.0, 0.0)), ego=Track(0.0, 0.0, 0.0, 5.0, 0.0))
    returns = scan(scene, 40)
    sight = np.stack([returns["x"], returns["y"]]) / np.hypot(returns["x"], returns["y"])
    speed = (np.stack([returns["vx_comp"], returns["vy_comp"]]) * sight).sum(axis=0)
    relative = (np.stack([returns["vx"], returns["vy"]]) * sight).sum(axis=0)
    across = returns["vx_comp"] * sight[1] - returns["vy_comp"] * sight[0]
    assert np.abs(across).max() < 0.2  # positions are rounded, velocities are not
    assert np.median(np.abs(speed + 10 * sight[1])) < 0.12
    assert np.median(np.abs(relative + 10 * sight[1] + 5 * sight[0])) < 0.12
    assert set(np.unique(returns["dyn_prop"])) == {2}


@pytest.mark.usefixtures("quiet")
def test_what_stands_has_no_speed_however_the_car_turns(make_scene, scan, front):
    # The sensor at the corner of a car that turns by 0.5 rad/s moves sideways by 1.7 m/s as well.
    turning = make_scene(("truck", _standing(12.0, 14.0)), ego=Track(0.0, 0.0, 0.0, 10.0, 0.05))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation(math.pi / 2), (2.4, 0.8, 0.5)
    returns = scan(turning, 40, mount=replace(front, ego_from_sensor=pose))
    assert len(returns) > 50
    assert np.abs(np.median(np.hypot(returns["vx_comp"], returns["vy_comp"]))) < 0.15
    assert set(np.unique(returns["dyn_prop"])) <= {1, 3, 4, 5, 7}


@pytest.mark.usefixtures("quiet")
def test_a_turning_thing_moves_faster_at_its_far_end(make_scene, scan):
    # Its middle passes across the line of sight, and its two ends come nearer and go away.
    scene = make_scene(("bus", Track(20.0, 0.0, math.pi / 2, 5.0, 0.1)))
    returns = scan(scene, 60)
    sight = np.stack([returns["x"], returns["y"]]) / np.hypot(returns["x"], returns["y"])
    speed = (np.stack([returns["vx_comp"], returns["vy_comp"]]) * sight).sum(axis=0)
    # Turn rate 0.5 rad/s about (20, 0): at y = 4 m, x is lost at 2 m/s, and 5 m/s leads away at 4 / 16.
    for end in (-1, 1):
        there = np.abs(returns["y"] - end * 4.9) < 0.5
        assert there.sum() > 20
        expected = end * (5 * 4.9 / 16.6 - 0.5 * 4.9) / math.hypot(1, 4.9 / 16.6)
        assert np.median(speed[there]) == pytest.approx(expected, abs=0.25)


def test_beams_bound_what_is_seen(make_scene, scan):
    things = [("trailer", _standing(x, y)) for x, y in ((85.0, 0.0), (60.0, 5.0), (40.0, 80.0), (60.0, 60.0))]
    for far in (False, True):
        returns = scan(make_scene(*things), 80, far=far)
        reach, azimuth = np.hypot(returns["x"], returns["y"]), np.arctan2(returns["y"], returns["x"])
        # 4 standard deviations of noise.
        assert np.abs(azimuth).max() < math.radians(60 + 2.8)
        assert reach.max() < (100 if far else 70) + 0.8
        beyond = reach > 71
        assert beyond.any() == far
        assert np.abs(azimuth[beyond]).max(initial=0) < math.radians(9 + 2.8)


@pytest.fixture(scope="module")
def streets():
    """Sweeps of all RADARs in some drawn scenes."""
    sweeps = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene, mounts = build_scene(rng, 0.0), calibrate(rng)
        places = reflectors(scene, rng)
        sweeps += [
            scan_radar(scene, places, 0.0, mounts[channel], channel == "RADAR_FRONT", rng) for channel in RADAR_MOUNTS
        ]
    return sweeps


def test_files_are_as_full_as_a_radar_makes_them(streets):
    counts = [len(sweep) for sweep in streets]
    assert 15 < np.mean(counts) < 60
    assert max(counts) <= 125
    for sweep in streets:
        assert sweep["id"].tolist() == list(range(len(sweep)))
        for name in ("x", "y"):
            assert np.abs(sweep[name] * 10 - np.round(sweep[name] * 10)).max() < 1e-4
    together = np.concatenate(streets)
    assert ((together["rcs"] * 2) % 1 == 0).all()
    assert -10 <= together["rcs"].min() < -5
    assert 15 < together["rcs"].max() <= 28


def test_states_say_what_to_trust_but_not_reliably(streets):
    together = np.concatenate(streets)
    assert (together["is_quality_valid"] == 1).all()
    assert 0.5 < np.mean(together["invalid_state"] == 0) < 0.9
    assert 0.9 < np.mean(together["ambig_state"] == 3) < 1
    assert {0, 1, 2, 3} <= set(together["dyn_prop"].tolist()) <= set(range(8))
    # What the RADAR itself holds for a mirror image is a false alarm more often than what it calls valid.
    doubted = together["invalid_state"] == 6
    assert together["pdh0"][doubted].mean() > together["pdh0"][together["invalid_state"] == 0].mean() + 1
    for name, low, high in (("x_rms", 19, 22), ("y_rms", 19, 22), ("vx_rms", 16, 19), ("vy_rms", 16, 19)):
        assert low <= together[name].min() <= together[name].max() <= high


def test_ghosts_are_behind_the_mirror_with_the_doppler_of_the_thing(make_scene, scan, monkeypatch):
    monkeypatch.setattr(radar, "_clutter", lambda *_: np.zeros((0, 5)))
    # A bus crosswise to the left is the mirror, a car to the right drives away at 8 m/s.
    bus, car = ("bus", _standing(25.0, 12.0, 0.3)), ("car", Track(20.0, -6.0, 0.0, 8.0, 0.0))
    returns = scan(make_scene(bus, car), 150)
    left, reach = returns["y"] > 3, np.hypot(returns["x"], returns["y"])
    ghosts = left & (reach > 36)
    assert 10 < ghosts.sum() < 0.2 * len(returns)
    speed = np.hypot(returns["vx"], returns["vy"])[ghosts]
    assert np.median(np.abs(speed - 8 * math.cos(math.atan2(6, 16.6)))) < 0.5
    passing = returns["invalid_state"][ghosts] == 0
    assert 0 < passing.mean() < 0.5


def test_an_empty_road_makes_files_that_the_devkit_reads(make_scene, scan, tmp_path):
    for sweeps in (0, 1):
        returns = scan(make_scene(), sweeps) if sweeps else scan(make_scene(), 1)[:0]
        (tmp_path / "file.pcd").write_bytes(encode_radar(returns))
        everything = RadarPointCloud.from_file(
            str(tmp_path / "file.pcd"), list(range(18)), list(range(8)), list(range(5))
        )
        assert everything.points.shape == (18, len(returns))
        assert np.array_equal(read_radar(tmp_path / "file.pcd"), returns)
