"""Sensor files are read as the devkit reads them, and what is cut off anywhere is refused by name."""

import re

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud
from PIL import Image

from harness.data.root import RADARS
from harness.data.sensor_files import (
    RADAR_FIELDS,
    READERS,
    check_sensor_file,
    encode_radar,
    open_image,
    read_image,
    read_lidar,
    read_radar,
)
from harness.errors import InputError

FLOATS = ("x", "y", "z", "rcs", "vx", "vy", "vx_comp", "vy_comp")
# A file is rewritten for every example, so that a folder of the test's own is enough for all of them.
shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def _devkit_radar(path):
    """All returns, of whatever state, as rows."""
    every = list(range(-128, 128))
    return RadarPointCloud.from_file(str(path), every, every, every).points.T


def _columns(returns):
    return np.stack([returns[name].astype(np.float64) for name in returns.dtype.names], axis=1)


@st.composite
def radar_returns(draw, smallest=0):
    count = draw(st.integers(smallest, 6))
    returns = np.zeros(count, RADAR_FIELDS)
    for name in RADAR_FIELDS.names:
        kind = RADAR_FIELDS[name]
        finite = {"allow_nan": False, "allow_infinity": False} if kind.kind == "f" else {}
        values = arrays.from_dtype(kind, **finite)
        returns[name] = draw(arrays.arrays(kind, count, elements=values))
    return returns


@pytest.fixture
def returns():
    """Five returns with values of their own in every field."""
    made = np.zeros(5, RADAR_FIELDS)
    for i, name in enumerate(RADAR_FIELDS.names):
        made[name] = np.arange(5) * (i + 1) - 7
    return made


@shared_folder
@given(returns=radar_returns())
def test_radar_round_trips_and_is_what_the_devkit_reads(tmp_path, returns):
    path = tmp_path / "sweep.pcd"
    path.write_bytes(encode_radar(returns))
    read = read_radar(path)
    assert read.tobytes() == returns.tobytes()
    np.testing.assert_array_equal(_columns(read).reshape(-1, 18), _devkit_radar(path).reshape(-1, 18))


def test_returns_of_other_fields_are_not_written(returns):
    with pytest.raises(ValueError, match="allowed"):
        encode_radar(returns[["x", "y", "z"]])


def test_real_radar_is_what_the_devkit_reads(real_root):
    sample = real_root.devkit.sample[0]
    for channel in RADARS:
        path = real_root.path / real_root.devkit.get("sample_data", sample["data"][channel])["filename"]
        read = read_radar(path)
        assert len(read) == 125
        np.testing.assert_array_equal(_columns(read), _devkit_radar(path))
        # Our own writer differs from nuScenes' in nothing but what follows the last point.
        written = encode_radar(read)
        assert path.read_bytes().startswith(written[:-1])


def test_a_radar_sweep_without_returns_is_empty_to_us_and_to_the_devkit(tmp_path, returns):
    path = tmp_path / "sweep.pcd"
    path.write_bytes(encode_radar(returns[:0]))
    assert len(read_radar(path)) == _devkit_radar(path).size == 0
    # Any NaN in the first return says so, whatever follows.
    returns["vx"][0] = np.nan
    path.write_bytes(encode_radar(returns))
    assert len(read_radar(path)) == _devkit_radar(path).size == 0


@pytest.mark.parametrize("name", ["x", "y", "z", "rcs", "vx_comp", "vy_comp"])
def test_a_radar_return_that_is_no_number_is_refused(tmp_path, returns, name):
    returns[name][3] = np.inf
    (tmp_path / "sweep.pcd").write_bytes(encode_radar(returns))
    with pytest.raises(InputError, match=r"sweep\.pcd contains NaN or infinity"):
        read_radar(tmp_path / "sweep.pcd")


def test_what_follows_the_last_radar_return_is_padding(tmp_path, returns):
    (tmp_path / "sweep.pcd").write_bytes(encode_radar(returns) + b"\0" * 100)
    assert read_radar(tmp_path / "sweep.pcd").tobytes() == returns.tobytes()


@shared_folder
@given(returns=radar_returns(smallest=1), data=st.data())
def test_every_cut_of_a_radar_file_is_refused(tmp_path, returns, data):
    whole = encode_radar(returns)
    kept = data.draw(st.integers(0, len(whole) - 2))  # the last byte is padding
    path = tmp_path / "sweep.pcd"
    path.write_bytes(whole[:kept])
    with pytest.raises(InputError, match=r"sweep\.pcd is (empty|truncated|not a binary PCD)"):
        read_radar(path)


@pytest.mark.parametrize(("width", "height"), [(1, 5), (5, 1), (0, 0)])
def test_radar_returns_in_rows_are_all_read(tmp_path, returns, width, height):
    path = tmp_path / "sweep.pcd"
    path.write_bytes(_with_header(returns[: width * height], WIDTH=width, HEIGHT=height, POINTS=width * height))
    assert read_radar(path).tobytes() == returns[: width * height].tobytes()


@pytest.mark.parametrize(
    "header",
    [
        {"WIDTH": 1},
        {"HEIGHT": 2},
        {"POINTS": 4},
        {"WIDTH": 5.0},
        {"HEIGHT": -1},
        {"POINTS": "many"},
        {"POINTS": "\u0665"},
    ],
)
def test_a_radar_header_that_contradicts_itself_is_refused(tmp_path, returns, header):
    path = tmp_path / "sweep.pcd"
    path.write_bytes(_with_header(returns, **header))
    with pytest.raises(InputError, match=r"sweep\.pcd (has a contradictory header|is truncated: its header).* POINTS"):
        read_radar(path)


def _with_header(returns, **header):
    written = encode_radar(returns)
    for key, value in header.items():
        written = re.sub(rb"(?m)^%s .*$" % key.encode(), f"{key} {value}".encode(), written)
    return written


lidar_points = st.tuples(*[st.floats(-99, 99, width=32)] * 3, st.floats(0, 255, width=32), st.integers(0, 255))


@shared_folder
@given(points=st.lists(lidar_points, min_size=1, max_size=9).map(np.float32))
def test_lidar_is_what_the_devkit_reads(tmp_path, points):
    path = tmp_path / "sweep.pcd.bin"
    path.write_bytes(points.tobytes())
    np.testing.assert_array_equal(read_lidar(path), points)
    np.testing.assert_array_equal(read_lidar(path)[:, :4].T, LidarPointCloud.from_file(str(path)).points)


@pytest.mark.parametrize("columns", [3, 4, 6, 7, 10])
def test_lidar_of_other_columns_is_refused(tmp_path, rng, columns):
    path = tmp_path / "sweep.pcd.bin"
    # The size of whole points of five columns.
    (70 * torch.randn(20, columns, generator=rng)).numpy().tofile(path)
    with pytest.raises(InputError, match=r"sweep\.pcd\.bin (has|contains) .* five columns"):
        read_lidar(path)


def test_lidar_of_doubles_is_refused(tmp_path, rng):
    path = tmp_path / "sweep.pcd.bin"
    points = 70 * torch.randn(20, 5, generator=rng, dtype=torch.float64)
    points[:, 3:] = points[:, 3:].abs().floor()
    points.numpy().tofile(path)
    with pytest.raises(InputError, match=r"sweep\.pcd\.bin (has|contains) .* float32"):
        read_lidar(path)


@pytest.mark.parametrize(
    ("column", "value"), [(3, -1), (3, 256), (4, -1), (4, 256), (4, 0.5), (4, np.nan), (0, np.inf), (3, np.nan)]
)
def test_one_lidar_point_that_cannot_be_is_enough(tmp_path, column, value):
    path = tmp_path / "sweep.pcd.bin"
    points = np.ones((4, 5), np.float32)
    points[2, column] = value
    points.tofile(path)
    with pytest.raises(InputError, match=r"sweep\.pcd\.bin (has|contains)"):
        read_lidar(path)


def test_real_lidar_is_what_the_devkit_reads(real_root):
    record = real_root.devkit.get("sample_data", real_root.devkit.sample[0]["data"]["LIDAR_TOP"])
    path = real_root.path / record["filename"]
    points = read_lidar(path)
    assert points.shape == (34688, 5)
    np.testing.assert_array_equal(points[:, :4].T, LidarPointCloud.from_file(str(path)).points)


@shared_folder
@given(length=st.integers(0, 199))
def test_a_cut_inside_a_lidar_point_is_refused_with_and_without_reading(tmp_path, length):
    path = tmp_path / "sweep.pcd.bin"
    path.write_bytes(np.ones((10, 5), np.float32).tobytes()[:length])
    if length and length % 20 == 0:  # nothing in the file says how many points there were
        assert len(read_lidar(path)) == length // 20
        return
    for look in (read_lidar, lambda path: check_sensor_file(path, "lidar", "a sweep")):
        with pytest.raises(InputError, match=r"sweep\.pcd\.bin is (empty|truncated)"):
            look(path)


def test_sizes_of_images_and_radar_sweeps_say_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"1234567")
    for modality in ("camera", "radar"):
        check_sensor_file(tmp_path / "file", modality, "a file")


@pytest.fixture(scope="module")
def jpeg():
    """A small image of soft blots, BGR, and its file."""
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = cv2.resize(image, (80, 48))
    return image, cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


@shared_folder
@given(data=st.data())
def test_every_cut_of_a_jpeg_is_refused(tmp_path, jpeg, data):
    _, whole = jpeg
    kept = data.draw(st.integers(0, len(whole) - 1))
    padding = data.draw(st.sampled_from([0, 1000]))  # of downloads that reserve their space first
    path = tmp_path / "image.jpg"
    path.write_bytes(whole[:kept] + b"\0" * padding)
    with pytest.raises(InputError, match=r"image\.jpg (is empty|is not a JPEG image|cannot be read as a JPEG image)"):
        read_image(path)


def test_an_image_is_rgb_and_upright_as_it_is_stored(tmp_path, jpeg):
    bgr, whole = jpeg
    path = tmp_path / "image.jpg"
    path.write_bytes(whole)
    assert np.abs(read_image(path).astype(int) - bgr[..., ::-1]).mean() < 6
    np.testing.assert_allclose(read_image(path), np.array(Image.open(path)), atol=3)
    # An orientation tag is no business of a calibrated camera.
    turned = Image.open(path)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "turned.jpg").shape == (48, 80, 3)


def test_a_grey_image_has_three_channels(tmp_path, jpeg):
    Image.fromarray(jpeg[0][..., 0]).save(tmp_path / "grey.jpg")
    assert read_image(tmp_path / "grey.jpg").shape == (48, 80, 3)


def _scene(height, width):
    """An image with what photographs have: surfaces, edges and a little noise."""
    rng = np.random.default_rng(0)
    blots = cv2.resize(rng.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8), (width, height))
    for _ in range(60):
        x, y = rng.integers(0, width), rng.integers(0, height)
        color = rng.integers(0, 256, 3).tolist()
        cv2.rectangle(blots, (x, y), (x + int(rng.integers(9, 200)), y + int(rng.integers(9, 200))), color, -1)
    return np.clip(blots + rng.normal(0, 3, blots.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    path = tmp_path_factory.mktemp("photograph") / "image.jpg"
    path.write_bytes(cv2.imencode(".jpg", _scene(900, 1600), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    return path


@pytest.fixture
def real_image(real_root):
    token = real_root.index.column("sample", "token")[0]
    return real_root.path / real_root.sweeps(token, "CAM_FRONT", 1)[0]["filename"]


def _by_area(path, height, width):
    return cv2.resize(read_image(path), (width, height), interpolation=cv2.INTER_AREA)


def _psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize(
    ("height", "width"), [(450, 800), (396, 704), (226, 401), (225, 400), (198, 352), (144, 256), (99, 176), (32, 57)]
)
@pytest.mark.parametrize("image", ["photograph", "real_image"])
def test_a_reduced_image_is_the_mean_over_areas_within_35_db(request, image, height, width):
    path = request.getfixturevalue(image)
    resized = open_image(path).resized(height, width)
    assert resized.shape == (height, width, 3)
    assert _psnr(resized, _by_area(path, height, width)) > 35


@pytest.mark.parametrize(
    ("height", "width"), [(900, 1600), (899, 1600), (451, 801), (450, 801), (451, 800), (960, 1800)]
)
def test_an_image_of_more_than_half_its_size_is_exactly_the_mean_over_areas(photograph, height, width):
    assert np.array_equal(open_image(photograph).resized(height, width), _by_area(photograph, height, width))


@shared_folder
@given(height=st.integers(1, 40), width=st.integers(1, 40), data=st.data())
def test_an_image_of_any_size_takes_any_size(tmp_path, height, width, data):
    path = tmp_path / "image.jpg"
    path.write_bytes(cv2.imencode(".jpg", np.full((height, width, 3), 99, np.uint8))[1].tobytes())
    size = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    assert open_image(path).size == (height, width)
    resized = open_image(path).resized(*size)
    assert resized.shape == (*size, 3)
    assert np.abs(resized.astype(int) - 99).max() <= 2


def test_a_turned_or_grey_image_is_reduced_as_it_is_stored(tmp_path, photograph):
    turned = Image.open(photograph)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    Image.fromarray(_scene(900, 1600)[..., 0]).save(tmp_path / "grey.jpg")
    for name in ("turned", "grey"):
        file = open_image(tmp_path / f"{name}.jpg")
        assert file.size == (900, 1600)
        assert file.resized(225, 400).shape == (225, 400, 3)


@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda whole: whole[:2] + b"\0" * 500 + whole[-2:]])
def test_damage_is_named_before_an_image_is_reduced(tmp_path, photograph, damage):
    path = tmp_path / "image.jpg"
    path.write_bytes(damage(photograph.read_bytes()))
    with pytest.raises(InputError, match=r"image\.jpg cannot be read as a JPEG image: it is truncated or damaged"):
        open_image(path).resized(225, 400)


@pytest.mark.parametrize("reader", ["camera", "lidar", "radar"])
def test_a_folder_in_place_of_a_file_is_missing(tmp_path, reader):
    with pytest.raises(InputError, match="is missing; expected a"):
        READERS[reader](tmp_path)
