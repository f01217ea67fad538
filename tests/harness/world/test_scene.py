"""The synthetic world: things move on circles, stand on the ground, fill their boxes, and sensors see them there."""

import math
from dataclasses import replace

import numpy as np
import pytest
from nuscenes.eval.detection.utils import category_to_detection_name

from detectors.geometry.boxes import CLASSES
from harness.world.cameras import render_camera
from harness.world.lidar import scan_lidar
from harness.world.mounts import HEIGHT, LIDAR_TURN, WIDTH, Calibration
from harness.world.rays import ground_range
from harness.world.scene import MARGIN, Ground, Material, Thing, Track, rotation
from harness.world.shapes import BUILDING, KINDS, PLAIN, Part, Texture
from harness.world.street import any_overlap, build_scene

GREY, RED = (0.5, 0.5, 0.5), (1.0, 0.0, 0.0)


@pytest.fixture
def make_scene(flat_scene):
    """A scene on flat ground, the ego at the origin facing +x, with cubes of 2 m: ``make_scene((10, 0, RED), ...)``."""

    def make(*cubes):
        part = Part((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0), "body", PLAIN)
        things = tuple(
            Thing("car", Track(x, y, 0.0, 0.0, 0.0), (2.0, 2.0, 2.0), (part,), "", {"body": look, "dark": look})
            for x, y, look in ((x, y, Material(colour, 0.5)) for x, y, colour in cubes)
        )
        return replace(flat_scene, objects=things)

    return make


@pytest.fixture
def forward_camera():
    """At 1.5 m height above the origin, looking along +x, with a focal length of 200 pixels."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    pose[2, 3] = 1.5
    return Calibration(pose, np.array([[200.0, 0, WIDTH / 2], [0, 200.0, HEIGHT / 2], [0, 0, 1]]))


@pytest.fixture
def lidar():
    """At 1.5 m height above the origin, its y axis along the ego's x axis."""
    pose = np.eye(4)
    pose[:3, :3] = rotation(LIDAR_TURN)
    pose[2, 3] = 1.5
    return Calibration(pose, None)


@pytest.fixture(scope="module")
def drawn():
    """Some drawn scenes of two seconds."""
    return [build_scene(np.random.default_rng(seed), 2.0) for seed in range(4)]


def test_a_track_runs_along_its_circle():
    # A quarter of a left circle of radius 10 m, driven in 1 s.
    track = Track(x=1.0, y=2.0, yaw=0.0, speed=5 * math.pi, curvature=0.1)
    assert track.at(1.0) == pytest.approx((11.0, 12.0, math.pi / 2))
    assert replace(track, curvature=0.0).at(2.0) == pytest.approx((1 + 10 * math.pi, 2.0, 0.0))


def test_rectangles_overlap_only_where_and_when_they_meet():
    square = np.array([[[1.0, 1], [-1, 1], [-1, -1], [1, -1]]])
    diamond = np.array([[[1.5, 0.0], [0, 1.5], [-1.5, 0], [0, -1.5]]])
    assert any_overlap(square, (square + 1.9)[None])
    assert not any_overlap(square, (square + np.array([2.1, 0]))[None])
    # Their bounding boxes meet, but the diamond's edge x + y = 2.3 passes the square's corner (1, 1).
    assert not any_overlap(square, (diamond + np.array([1.9, 1.9]))[None])
    assert any_overlap(square, (diamond + np.array([1.7, 1.7]))[None])
    twice, elsewhere = np.repeat(square, 2, axis=0), np.stack([square[0] + 5, square[0]])
    assert any_overlap(twice, elsewhere[None])
    assert not any_overlap(twice, elsewhere[None] + 10)


def test_kinds_are_the_detection_classes_under_their_nuscenes_categories():
    assert {name: category_to_detection_name(kind.category) for name, kind in KINDS.items()} == {
        name: name for name in CLASSES
    }


def test_parts_fill_their_box_and_stay_in_it():
    shapes = [shape for kind in KINDS.values() for shape in (kind.parts, kind.ridden) if shape]
    for parts in (*shapes, BUILDING):
        for axis, box in (("x", (-0.5, 0.5)), ("y", (-0.5, 0.5)), ("z", (0.0, 1.0))):
            bounds = np.array([getattr(part, axis) for part in parts])
            assert (bounds[:, 0] < bounds[:, 1]).all()
            assert (bounds[:, 0].min(), bounds[:, 1].max()) == box


@pytest.mark.slow
def test_things_never_touch(drawn):
    def footprint(thing, time):
        x, y, yaw = thing.track.at(time)
        width, length, _ = thing.size
        local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * np.array([length, width]) / 2
        return local @ rotation(yaw)[:2, :2].T + np.array([x, y])

    for scene in drawn:
        things = (*scene.objects, *scene.scenery)
        for time in np.arange(-0.4, 2.01, 0.1):
            corners = np.stack([footprint(thing, float(time)) for thing in things])[:, None]
            for index in range(len(things) - 1):
                assert not any_overlap(corners[index], corners[index + 1 :])


def test_a_velocity_is_the_derivative_of_the_place():
    track = Track(x=1.0, y=2.0, yaw=0.7, speed=4.0, curvature=-0.05)
    before, after = np.array(track.at(1.2)), np.array(track.at(1.4))
    assert track.velocity(1.3) == pytest.approx((after - before) / 0.2, abs=1e-3)


def test_some_stand_in_rows():
    scenes = [build_scene(np.random.default_rng(seed), 0.5) for seed in range(10)]

    def neighbours(thing, others):
        return sum(
            other is not thing
            and other.name == thing.name
            and other.track.yaw == thing.track.yaw
            and math.dist((other.track.x, other.track.y), (thing.track.x, thing.track.y)) < 7.5
            for other in others
        )

    for name in ("barrier", "traffic_cone", "car"):
        assert any(
            neighbours(thing, scene.objects) >= 2 for scene in scenes for thing in scene.objects if thing.name == name
        )


@pytest.mark.slow
def test_materials_of_all_classes_come_from_one_distribution():
    # The mean over many draws: the brightest channel is uniform in [0.15, 0.95], dark parts' in [0.05, 0.35],
    # reflectivity in [0.05, 0.95].
    values = {}
    for seed in range(12):
        for thing in build_scene(np.random.default_rng(seed), 1.0).objects:
            for name, material in thing.paints.items():
                values.setdefault((thing.name, name), []).append((max(material.colour), material.reflectivity))
    for (_, paint), found in values.items():
        tolerance = 4 * 0.9 / math.sqrt(12 * len(found))
        assert np.mean(found, axis=0) == pytest.approx([0.2 if paint == "dark" else 0.55, 0.5], abs=tolerance)


def test_rays_meet_the_ground_where_it_is():
    ground = Ground(np.array([0.2]), np.array([[0.1, 0.05]]), np.array([0.3]))
    origin = np.array([3.0, -2.0, 1.8])
    azimuth, slope = np.meshgrid(np.linspace(0, 6, 20), np.linspace(-0.5, 0.5, 30))
    rays = np.stack([np.cos(azimuth), np.sin(azimuth), slope])
    reach = ground_range(ground, origin, rays, 70.0)
    x, y, z = origin[:, None] + reach[np.isfinite(reach)] * rays[:, np.isfinite(reach)]
    assert np.abs(z - ground.height(x, y)).max() < 0.01
    assert np.isfinite(reach[slope < -0.05]).all()
    assert np.isinf(reach[slope > 0.05]).all()


def test_lidar_measures_a_cube_and_the_ground(make_scene, lidar):
    points = scan_lidar(make_scene((10.0, 0.0, GREY)), 0.0, lidar, np.random.default_rng(0))
    right, forward, up, _, ring = points.T
    # In the sensor's frame the cube spans 9 to 11 m forward, 1 m to each side and from -1.5 to 0.5 m.
    ahead = (np.abs(right) < 0.9) & (np.abs(forward - 9) < 0.3) & (up > -1.4)
    assert ahead.sum() > 15
    # 0.02 m of noise, clipped at three standard deviations.
    assert np.abs(forward[ahead] - 9 - MARGIN).max() <= 0.0601
    assert forward[ahead].mean() == pytest.approx(9 + MARGIN, abs=0.01)
    behind = forward < -3
    assert np.abs(up[behind] + 1.5).max() < 0.04
    # The cube's shadow: straight behind it no ground is seen.
    assert not ((np.abs(right) < 0.8) & (forward > 11.1) & (up < -1.4)).any()
    # Steep rays meet the ground lower down; those above the horizon meet nothing but the cube.
    elevation = [np.median(np.arctan2(up, np.hypot(right, forward))[ring == r]) for r in np.unique(ring)]
    assert len(elevation) > 20
    assert np.all(np.diff(elevation) > 0)


def test_lidar_intensity_is_that_of_the_paint(make_scene, lidar):
    # The lower half of the sides is painted over.
    part = Part((-0.5, 0.5), (-0.5, 0.5), (0.0, 1.0), "body", Texture(column_duty=1.0, band=(0.0, 0.5)))
    scene = make_scene((10.0, 0.0, GREY))
    paints = {"body": Material(GREY, 0.9), "dark": Material(GREY, 0.1)}
    for parts, expected in (((part,), 0.1), ((replace(part, texture=PLAIN),), 0.9)):
        thing = replace(scene.objects[0], parts=parts, paints=paints)
        points = scan_lidar(replace(scene, objects=(thing,)), 0.0, lidar, np.random.default_rng(0))
        low = (np.abs(points[:, 0]) < 0.5) & (np.abs(points[:, 1] - 9) < 0.3) & (np.abs(points[:, 2] + 1) < 0.4)
        # 15 % of noise either way; rays meet the face at nearly a right angle.
        assert points[low, 3] == pytest.approx(255 * expected, rel=0.2)


def test_camera_shows_a_cube_at_its_projection(make_scene, forward_camera):
    scene = make_scene((11.0, 2.0, RED))
    view = render_camera(scene, 0.0, forward_camera, np.random.default_rng(0), np.ones((4, 4), np.float32))
    red = (view.image[..., 0] > 60) & (view.image[..., 1:] < 30).all(axis=2)
    rows, columns = np.nonzero(red)
    # The near face, 10 m ahead, spans 1 to 3 m to the left, and from 1.5 m below to 0.5 m above the camera.
    assert (columns.min(), columns.max() + 1) == pytest.approx((WIDTH / 2 - 60, WIDTH / 2 - 200 / 12), abs=2)
    assert (rows.min(), rows.max() + 1) == pytest.approx((HEIGHT / 2 - 10, HEIGHT / 2 + 30), abs=2)
    assert view.visible_px.tolist() == view.alone_px.tolist() == [pytest.approx(red.sum(), abs=20)]


def test_visible_pixels_are_those_that_nothing_hides(make_scene, forward_camera):
    texture = np.ones((4, 4), np.float32)
    scene = make_scene((20.0, 0.0, RED), (8.0, 0.0, GREY), (11.0, -30.0, GREY))
    view = render_camera(scene, 0.0, forward_camera, np.random.default_rng(0), texture)
    # The far cube is behind the near one; the third is outside the image.
    assert view.visible_px[0] == 0
    assert view.alone_px[0] > 300
    assert view.visible_px[1] == view.alone_px[1] > 0
    assert view.alone_px[2] == 0


def test_a_thing_that_reaches_behind_the_camera_is_still_drawn(make_scene, forward_camera):
    scene = make_scene((1.0, 3.0, RED))
    scene = replace(scene, objects=(replace(scene.objects[0], size=(2.0, 12.0, 2.0)),))
    view = render_camera(scene, 0.0, forward_camera, np.random.default_rng(0), np.ones((4, 4), np.float32))
    # Its side, 2 m to the left, fills the left edge of the image from 0.5 m above to 1.5 m below the camera.
    column = view.image[:, 0]
    assert ((column[:, 0] > 40) & (column[:, 1] < 30)).sum() > 100


def test_the_ego_lies_on_the_ground_and_its_wheels_follow_the_slope(make_scene):
    # Near the origin the ground rises along x by 0.1 * 0.2 = 0.02 per metre.
    scene = replace(make_scene(), ground=Ground(np.array([0.1]), np.array([[0.2, 0.0]]), np.array([0.0])))
    pose = scene.ego_pose(0.0)
    assert pose[:3, 3] == pytest.approx([0, 0, 0])
    assert pose[2, 0] / pose[0, 0] == pytest.approx(0.02)
    turned = replace(scene, ego=replace(scene.ego, yaw=math.pi / 2)).ego_pose(0.0)
    # Facing +y, uphill is to the right: the left (y) axis of the ego frame points down.
    assert turned[2, 1] == pytest.approx(-0.02, abs=1e-4)
