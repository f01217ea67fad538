"""No shortcut: mean colour or intensity tells no class, an image row no depth, and a return as such no object."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score

from harness.world.cameras import ground_texture, render_camera
from harness.world.lidar import scan_lidar
from harness.world.mounts import CAMERA_MOUNTS, HEIGHT, WIDTH, calibrate
from harness.world.radar import reflectors, scan_radar
from harness.world.scene import rotation
from harness.world.street import build_scene

pytestmark = pytest.mark.slow

CHANCE = 0.1
SCENES = 50


def _corners(box, size):
    """Eight corners of a box, global; the last is that of the highest x, y and z in its own frame."""
    center, yaw = box
    width, length, height = size
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return signs * np.array([length, width, height]) / 2 @ rotation(yaw).T + np.array(center)


def _into_sensor(points, scene, mount, time):
    matrix = np.linalg.inv(scene.ego_pose(time) @ mount.ego_from_sensor)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


@pytest.fixture(scope="module")
def looks():
    """Of every object in some scenes: its class, scene, mean colours (own pixels; those of its outline), intensity."""
    colours, intensities = [], []
    for index in range(SCENES):
        rng = np.random.default_rng([1, index])
        scene = build_scene(rng, 0.0)
        mounts, texture = calibrate(rng), ground_texture(rng)
        for channel in CAMERA_MOUNTS:
            view = render_camera(scene, 0.0, mounts[channel], rng, texture)
            for i, thing in enumerate(scene.objects):
                own = view.owner == i
                corners = _into_sensor(_corners(scene.box(thing, 0.0), thing.size), scene, mounts[channel], 0.0)
                if own.sum() < 20 or corners[:, 2].min() < 0.3:
                    continue
                pixels = corners @ mounts[channel].intrinsic.T
                hull = cv2.convexHull((pixels[:, :2] / pixels[:, 2:]).astype(np.float32)).round().astype(int)
                outline = np.zeros(own.shape, np.uint8)
                cv2.fillConvexPoly(outline, hull, 1)
                means = view.image[own].mean(axis=0), view.image[outline > 0].mean(axis=0)
                colours.append((thing.name, index, *np.concatenate(means)))
        points = scan_lidar(scene, 0.0, mounts["LIDAR_TOP"], rng)
        pose = scene.ego_pose(0.0) @ mounts["LIDAR_TOP"].ego_from_sensor
        in_global = points[:, :3] @ pose[:3, :3].T + pose[:3, 3]
        for thing in scene.objects:
            inside = _in_boxes(in_global, replace(scene, objects=(thing,)), 0.0)
            if inside.any():
                intensities.append((thing.name, index, points[inside, 3].mean()))
    return {"colour": colours, "intensity": intensities}


def _in_boxes(points, scene, time, margin=0.0):
    """Which global points lie in the box of an object, or, without heights, in its footprint."""
    found = np.zeros(len(points), dtype=bool)
    for thing in scene.objects:
        (center, yaw), (width, length, height) = scene.box(thing, time), thing.size
        local = (points - np.array(center)[: points.shape[1]]) @ rotation(yaw)[: points.shape[1], : points.shape[1]]
        half = np.array([length, width, height])[: points.shape[1]] / 2 + margin
        found |= (np.abs(local) <= half).all(axis=1)
    return found


def test_returns_as_such_do_not_give_objects_away():
    cells, of_objects, valid, on_objects = 0, 0, 0, 0
    for index in range(16):
        rng = np.random.default_rng([3, index])
        scene, mounts = build_scene(rng, 0.0), calibrate(rng)
        ego = scene.ego_pose(0.0)
        places = reflectors(scene, rng)
        for channel, mount in mounts.items():
            if channel.startswith("CAM"):
                continue
            pose = ego @ mount.ego_from_sensor
            if channel == "LIDAR_TOP":
                points = scan_lidar(scene, 0.0, mount, rng)[:, :3] @ pose[:3, :3].T + pose[:3, 3]
            else:
                file = scan_radar(scene, places, 0.0, mount, channel == "RADAR_FRONT", rng)
                file = file[(file["invalid_state"] == 0) & (file["ambig_state"] == 3)]
                points = np.stack([file["x"], file["y"], file["z"]], axis=1) @ pose[:3, :3].T + pose[:3, 3]
            points = points[np.hypot(*(points - ego[:3, 3])[:, :2].T) < 25]
            if channel == "LIDAR_TOP":
                cell = np.floor(points[:, :2] / 0.8)
                cells += len(np.unique(cell, axis=0))
                of_objects += len(np.unique(cell[_in_boxes(points, scene, 0.0)], axis=0))
            else:
                valid += len(points)
                on_objects += _in_boxes(points[:, :2], scene, 0.0, margin=0.3).sum()
    # On the real frame 7 % of the lit cells hold a point of an object; here objects stand several times as dense.
    assert cells > 8000
    assert of_objects / cells < 0.36
    assert valid > 800
    assert on_objects / valid < 0.66


@pytest.mark.parametrize(
    ("what", "columns"),
    [("colour", slice(2, 5)), ("colour", slice(5, 8)), ("intensity", slice(2, 3))],
    ids=["colour of its own pixels", "colour within its outline", "intensity"],
)
def test_a_mean_does_not_tell_the_class(looks, what, columns):
    names = np.array([row[0] for row in looks[what]])
    scenes = np.array([row[1] for row in looks[what]])
    features = np.array([row[columns] for row in looks[what]])
    told = np.empty_like(names)
    # Every object is told by a forest that was grown on the other half of the scenes.
    for half in (0, 1):
        fitted = scenes % 2 == half
        forest = RandomForestClassifier(100, min_samples_leaf=5, class_weight="balanced", random_state=0)
        told[~fitted] = forest.fit(features[fitted], names[fitted]).predict(features[~fitted])
    assert len(set(names)) == 10
    assert balanced_accuracy_score(names, told) <= 1.5 * CHANCE


def test_the_image_row_of_a_foot_does_not_tell_its_depth():
    feet = {channel: [] for channel in CAMERA_MOUNTS}
    for index in range(2 * SCENES):
        rng = np.random.default_rng([2, index])
        scene, mounts, time = build_scene(rng, 1.0), calibrate(rng), rng.uniform(0, 1)
        for channel in CAMERA_MOUNTS:
            for thing in scene.objects:
                foot = np.array(scene.box(thing, time)[0]) - [0, 0, thing.size[2] / 2]
                ahead = _into_sensor(foot, scene, mounts[channel], time)
                column, row = (mounts[channel].intrinsic @ ahead)[:2] / ahead[2]
                if 5 < ahead[2] < 50 and 0 <= column < WIDTH and 0 <= row < HEIGHT:
                    feet[channel].append((index, row, ahead[2]))
    errors = []
    for rows in feet.values():
        scenes, row, depth = np.array(rows).T
        for half in (0, 1):
            fitted = scenes % 2 == half
            # The best that a row alone can do: the median of the logarithm of depth, given the row.
            trees = HistGradientBoostingRegressor(loss="absolute_error", max_iter=60, random_state=0)
            trees.fit(row[fitted, None], np.log(depth[fitted]))
            errors.append(np.abs(np.exp(trees.predict(row[~fitted, None])) / depth[~fitted] - 1))
    assert len(np.concatenate(errors)) > 3000
    assert np.median(np.concatenate(errors)) > 0.15
