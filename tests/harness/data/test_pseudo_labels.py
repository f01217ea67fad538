"""Pseudo labels come back as they were written, lie on the pixels they were made for, and misfits are named."""

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools.coco import COCO

from detectors.batch import Inputs, Instances, collate
from detectors.geometry.boxes import CLASSES
from detectors.heads.instance_mask import FoundInstances
from harness.data import nuscenes
from harness.data.augment import warp_instances
from harness.data.loader import SampleSet
from harness.data.pseudo_labels import LabelsWriter, PseudoLabels, class_index, map_classes
from harness.errors import InputError
from harness.study.jobs import labels_hash
from harness.study.schedule import AugmentSpec

NAME = "samples/CAM_FRONT/a.jpg"


def instances(masks, labels, scores):
    """What a teacher sees in an image, as it hands it over."""
    return FoundInstances(
        torch.from_numpy(np.array(masks)), torch.tensor(labels, dtype=torch.long), torch.tensor(scores)
    )


def rows(*masks, size=(1, 5)):
    """Masks of an image of one row."""
    return np.array(masks, dtype=bool).reshape(-1, *size)


# Every example writes a file, and waits for the disk.
@settings(max_examples=30)
@given(data=st.data(), count=st.integers(0, 4))
def test_what_is_written_is_read(data, count, tmp_path_factory):
    shape = (3, 7)
    of_pixel = data.draw(arrays(int, shape, elements=st.integers(0, count)))
    masks = np.array([of_pixel == i + 1 for i in range(count)], dtype=bool).reshape(count, *shape)
    labels = [data.draw(st.integers(0, 9)) for _ in range(count)]
    # Hundredths, of which no two are equal: the surest come first.
    hundredths = data.draw(st.lists(st.integers(0, 100), min_size=count, max_size=count, unique=True))
    scores = [number / 100 for number in hundredths]
    writer = LabelsWriter()
    writer.add("b.jpg", instances(np.ones((1, 5, 4), dtype=bool), [3], [0.5]))
    writer.add(NAME, instances(masks, labels, scores))
    folder = tmp_path_factory.mktemp("labels")
    writer.write(folder / "labels.json")
    read = PseudoLabels(folder)
    assert list(read.images) == ["b.jpg", NAME]
    assert read.images[NAME].size == shape
    seen = read.instances(NAME)
    # What nothing is seen of is not written.
    order = [i for i in sorted(range(count), key=lambda i: -scores[i]) if masks[i].any()]
    assert seen.label.tolist() == [labels[i] for i in order]
    assert seen.score.tolist() == pytest.approx([scores[i] for i in order])
    assert np.array_equal(
        seen.owner.numpy(), sum((n * masks[i] for n, i in enumerate(order, start=1)), np.zeros(shape))
    )
    other = read.instances("b.jpg")
    assert other.owner.shape == (5, 4)
    assert other.owner.all()
    assert (other.label.tolist(), other.score.tolist()) == ([3], [0.5])


def test_cocos_own_program_reads_what_is_written(tmp_path, capsys):
    writer = LabelsWriter()
    masks = rows([1, 0, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0], size=(2, 3))
    writer.add(NAME, instances(masks, [8, 0], [0.75, 0.123456]))
    writer.write(tmp_path / "new" / "labels" / "labels.json")
    theirs = COCO(tmp_path / "new" / "labels" / "labels.json")
    assert [row["name"] for row in theirs.loadCats(theirs.getCatIds())] == list(CLASSES)
    ((image,),) = [theirs.loadImgs(theirs.getImgIds())]
    assert (image["file_name"], image["height"], image["width"]) == (NAME, 2, 3)
    first, second = theirs.loadAnns(theirs.getAnnIds(imgIds=[image["id"]]))
    assert np.array_equal(theirs.annToMask(first), masks[0])
    assert np.array_equal(theirs.annToMask(second), masks[1])
    assert [theirs.loadCats(row["category_id"])[0]["name"] for row in (first, second)] == [CLASSES[8], "car"]
    assert [(row["area"], row["score"], row["iscrowd"]) for row in (first, second)] == [(2, 0.75, 0), (2, 0.1235, 0)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("person", "pedestrian"),
        ("Person", "pedestrian"),
        ("rider", "pedestrian"),
        ("car", "car"),
        ("truck", "truck"),
        ("bus", "bus"),
        ("bicycle", "bicycle"),
        ("motorcycle", "motorcycle"),
        ("motorbike", "motorcycle"),
        ("traffic cone", "traffic_cone"),
        ("traffic_cone", "traffic_cone"),
        ("construction vehicle", "construction_vehicle"),
        ("trailer", "trailer"),
        ("barrier", "barrier"),
        ("human.pedestrian.police_officer", "pedestrian"),
        ("vehicle.bus.bendy", "bus"),
        ("movable_object.trafficcone", "traffic_cone"),
        ("train", None),
        ("traffic light", None),
        ("animal", None),
        ("", None),
    ],
)
def test_classes_of_coco_cityscapes_and_nuscenes_are_ours(name, expected):
    assert class_index(name) == (None if expected is None else CLASSES.index(expected))


def test_numbers_of_classes_that_are_not_ours_are_dropped():
    mapped = map_classes({0: "person", 2: "car", 6: "train", 7: "truck"}, "a model")
    assert mapped == {0: CLASSES.index("pedestrian"), 2: CLASSES.index("car"), 7: CLASSES.index("truck")}


def test_a_teacher_that_knows_none_of_the_classes_is_named():
    with pytest.raises(InputError, match=r"^a model: none of its classes \(cat, dog\) is one of car, truck"):
        map_classes({0: "cat", 1: "dog"}, "a model")


def _coco(**changes):
    """A file of two images: a car in the first, of which an animal is left out; nothing in the second."""
    content = {
        "images": [
            {"id": 7, "file_name": NAME, "height": 2, "width": 3},
            {"id": 9, "file_name": "samples/CAM_BACK/b.jpg", "height": 3, "width": 4},
        ],
        "annotations": [
            {"image_id": 7, "category_id": 3, "segmentation": {"size": [2, 3], "counts": [1, 2, 3]}, "score": 0.5},
            {"image_id": 7, "category_id": 17, "segmentation": {"size": [2, 3], "counts": [0, 6]}, "score": 0.9},
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}],
    }
    return {**content, **changes}


def _annotation(**changes):
    return [{**_coco()["annotations"][0], **changes}]


@pytest.fixture
def labels(tmp_path):
    """Writes the contents of files into a folder, and reads them: ``labels(content, ..., above=)``."""

    def make(*contents, **options):
        for number, content in enumerate(contents):
            (tmp_path / f"{number}.json").write_text(json.dumps(content))
        return PseudoLabels(tmp_path, **options)

    return make


def seen_in(read, name):
    """Owners, labels and scores of an image; the scores to six digits."""
    seen = read.instances(name)
    return seen.owner.numpy(), seen.label.tolist(), [round(score, 6) for score in seen.score.tolist()]


def test_labels_made_elsewhere_are_read_by_hand(labels):
    read = labels(_coco())
    owner, classes, scores = seen_in(read, NAME)
    assert owner.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert (classes, scores) == ([CLASSES.index("car")], [0.5])
    owner, *rest = seen_in(read, "samples/CAM_BACK/b.jpg")
    assert np.array_equal(owner, np.zeros((3, 4)))
    assert rest == [[], []]


def test_what_has_no_score_is_sure(labels):
    annotation = _annotation()
    del annotation[0]["score"]
    assert seen_in(labels(_coco(annotations=annotation)), NAME)[2] == [1.0]


def test_only_what_is_surer_than_a_threshold_is_kept(labels):
    annotations = [_annotation(score=score)[0] for score in (0.25, 0.0, 0.75, 0.5)]
    for above, kept in ((-1.0, [0.75, 0.5, 0.25, 0.0]), (0.0, [0.75, 0.5, 0.25]), (0.5, [0.75]), (0.9, [])):
        read = labels(_coco(annotations=annotations), above=above)
        assert [score for _, score, _ in read.images[NAME].instances] == kept
        assert seen_in(read, NAME)[2] == kept
    assert labels(_coco(annotations=annotations)).images == labels(_coco(annotations=annotations), above=-1.0).images


def test_labels_may_lie_in_several_files_with_numbers_of_their_own(labels):
    second = _coco(images=[{"id": 7, "file_name": "c.jpg", "height": 2, "width": 3}])
    second["categories"][0]["name"], second["categories"][1]["name"] = "cat", "person"
    read = labels(_coco(), second)
    assert list(read.images) == [NAME, "samples/CAM_BACK/b.jpg", "c.jpg"]
    assert seen_in(read, NAME)[1:] == ([0], [0.5])
    owner, _, scores = seen_in(read, "c.jpg")
    assert owner.all()
    assert scores == [0.9]


def test_of_several_masks_the_surest_owns_a_pixel(labels):
    def annotation(row, label, score):
        polygon = [[row[0], 0, row[1], 0, row[1], 1, row[0], 1]]
        return {"image_id": 1, "category_id": label, "segmentation": polygon, "score": score}

    read = labels(
        {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 1, "width": 7}],
            "annotations": [annotation((0, 4), 1, 0.3), annotation((2, 5), 2, 0.8), annotation((3, 7), 1, 0.6)],
            "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}],
        }
    )
    owner, classes, scores = seen_in(read, "a.jpg")
    assert scores == [0.8, 0.6, 0.3]
    assert owner.tolist() == [[3, 3, 1, 1, 1, 2, 2]]
    assert classes[1] == classes[2] != classes[0]


def test_of_more_instances_than_a_byte_numbers_the_surest_are_kept(labels):
    scores = [i / 300 for i in range(300)]
    annotations = [_annotation(score=score)[0] for score in scores]
    _, classes, kept = seen_in(labels(_coco(annotations=annotations)), NAME)
    assert len(classes) == 255
    assert kept == [round(score, 6) for score in scores[:-256:-1]]


WRONG = {
    "score above 1": (_coco(annotations=_annotation(score=1.5)), r"score 1.5 of an annotation is not in \[0, 1\]"),
    "score below 0": (_coco(annotations=_annotation(score=-0.1)), r"score -0.1 of an annotation is not in \[0, 1\]"),
    "score no number": (_coco(annotations=_annotation(score=float("nan"))), "score nan of an annotation is not in"),
    "score infinite": (_coco(annotations=_annotation(score=float("inf"))), "score inf of an annotation is not in"),
    "unknown category": (_coco(annotations=_annotation(category_id=4)), "category_id 4 is in no row of its categories"),
    "unknown image": (_coco(annotations=_annotation(image_id=8)), "image_id 8 is in no row of its images"),
    "no class": (
        _coco(categories=[{"id": 3, "name": "cat"}], annotations=[]),
        r"none of its classes \(cat\) is one of car, truck",
    ),
    "one name twice": (
        _coco(images=[{"id": number, "file_name": NAME, "height": 2, "width": 3} for number in (7, 9)]),
        "two rows of its images have the same id or file_name",
    ),
    "one id twice": (
        _coco(images=[{**row, "id": 7} for row in _coco()["images"]]),
        "two rows of its images have the same id or file_name",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_value_is_named_with_its_file_and_not_called_another_format(labels, content, message, tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}/0.json: {message}"):
        labels(content)


def test_an_image_that_is_labelled_in_two_files_is_named(labels):
    with pytest.raises(InputError, match=rf"{NAME} has labels in two files, .*1\.json"):
        labels(_coco(), _coco())


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        3,
        "labels",
        {},
        {"images": [], "annotations": []},
        _coco(images=None),
        _coco(images=[{"id": 7, "file_name": NAME}]),
        _coco(images=[{"id": 7, "file_name": NAME, "height": "tall", "width": 3}]),
        _coco(images=["a.jpg"]),
        _coco(categories={"3": "car"}),
        _coco(categories=[{"name": "car"}]),
        _coco(annotations=None),
        _coco(annotations=[3]),
        _coco(annotations=_annotation(score="sure")),
        _coco(annotations=_annotation(score=None)),
        _coco(annotations=[{"image_id": 7, "category_id": 3}]),
    ],
    ids=range(17),
)
def test_what_is_not_cocos_format_is_named(labels, content, tmp_path):
    with pytest.raises(InputError, match=rf"^{tmp_path}/0\.json is not a file of instances in COCO's format"):
        labels(content)


def test_a_file_that_is_not_json_is_named(tmp_path):
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(InputError, match=r"labels\.json is not valid JSON"):
        PseudoLabels(tmp_path)


@pytest.mark.parametrize(
    "name", ["._labels.json", "._other.json", ".json", ".DS_Store", ".ipynb_checkpoints/labels.json"]
)
def test_what_systems_and_editors_leave_beside_labels_is_none(tmp_path, name):
    (tmp_path / "labels.json").write_text(json.dumps(_coco()))
    alone, same = PseudoLabels(tmp_path).images, labels_hash(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\0\5\x16\7Mac OS X")
    assert PseudoLabels(tmp_path).images == alone
    assert labels_hash(tmp_path) == same


def test_a_folder_without_labels_is_named(tmp_path):
    (tmp_path / "labels.txt").write_text("{}")
    (tmp_path / "file").write_text("{}")
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(InputError, match=f"^{folder} is not a folder with a .json file"):
            PseudoLabels(folder)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [3, 2], "counts": [1, 2, 3]},
        {"size": [2, 3], "counts": [1, 2, 30]},
        {"size": [2, 3], "counts": "words!"},
        {"size": [2, 3]},
        {},
        [],
        [[]],
        "polygon",
        [[0, 0, 1]],
    ],
    ids=str,
)
def test_a_damaged_mask_is_named_by_folder_and_image(labels, segmentation, tmp_path):
    read = labels(_coco(annotations=_annotation(segmentation=segmentation)))
    with pytest.raises(InputError, match=f"^{tmp_path}: a mask of {NAME}: "):
        read.instances(NAME)


def test_labels_that_fit_a_root_pass(labels):
    read = labels(_coco())
    data = {row["file_name"]: {**row, "filename": row["file_name"]} for row in _coco()["images"]}
    read.check(data.values(), data)
    # Labels of images that nothing is trained on do no harm.
    read.check([data[NAME]], [*data, "samples/CAM_BACK/c.jpg"])
    read.check([], data)


def test_labels_of_an_image_that_the_root_has_not_are_named(labels, tmp_path):
    with pytest.raises(InputError, match=rf"^{tmp_path}: 'samples/CAM_BACK/b.jpg' is not in .* \(2 such\)"):
        labels(_coco()).check([], ["samples/CAM_FRONT/c.jpg"])


def test_an_image_without_labels_is_named(labels, tmp_path):
    read = labels(_coco())
    with pytest.raises(InputError, match=f"^{tmp_path} has no labels of c.jpg"):
        read.check([{"filename": "c.jpg", "height": 2, "width": 3}], [*read.images, "c.jpg"])


@pytest.mark.parametrize("size", [(3, 2), (2, 4), (1, 3)])
def test_labels_of_another_size_are_named_with_both(labels, size):
    read = labels(_coco())
    message = rf"{NAME} have 3 x 2 pixels; the image has {size[1]} x {size[0]}"
    with pytest.raises(InputError, match=message):
        read.check([{"filename": NAME, "height": size[0], "width": size[1]}], read.images)


SIZE = (48, 96)
"""Of the detector's input: images are wider than it and higher, by another share."""
FULL = (198, 352)
COLOURS = np.array([(0, 0, 0), (250, 0, 0), (0, 250, 0)], dtype=np.uint8)
"""Of nothing, and of the first and second instance of an image, as the pictures show them."""


class Picture:
    """In place of an image's file."""

    def __init__(self, pixels):
        self.pixels, self.size = pixels, pixels.shape[:2]

    def check_size(self, row):
        assert self.size == (row["height"], row["width"])

    def resized(self, height, width):
        return cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA)


class Pictures:
    """Labels of every image of a root, by hand, and pictures of what the labels say."""

    def __init__(self, root, folder):
        writer, self.shown = LabelsWriter(), {}
        rng = np.random.default_rng(0)
        for number, row in enumerate(r for r in root.devkit.sample_data if r["filename"].endswith(".jpg")):
            masks = np.zeros((2, *FULL), dtype=bool)
            # In the right and in the left half, from the horizon to the road, other ones in every image.
            left, top, right = rng.integers(200, 260), rng.integers(30, 120), rng.integers(280, 340)
            masks[0, top:190, left:right] = True
            masks[1, 60:170, left - 190 : right - 200] = True
            writer.add(row["filename"], instances(masks, [number % 10, 4], [0.9, 0.4]))
            self.shown[root.path / row["filename"]] = COLOURS[1 * masks[0] + 2 * masks[1]]
        writer.write(folder / "labels.json")
        self.labels = PseudoLabels(folder)


@pytest.fixture(scope="module")
def pictures(smoke_root, tmp_path_factory):
    return Pictures(smoke_root, tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def seen(pictures, monkeypatch):
    """The labels, where the detectors see the pictures in place of the images."""
    monkeypatch.setattr(nuscenes, "open_image", lambda path: Picture(pictures.shown[path]))
    return pictures.labels


@pytest.fixture
def inputs():
    return Inputs(image_size=SIZE)


def _check_aligned(sample):
    """Every pixel shows the colour of its owner, but on edges, where it shows something in between."""
    owner = sample.instances.owner.long()
    off = (sample.views.images.long()[:, None] - torch.from_numpy(COLOURS.astype(int))[:, :, None, None]).abs()
    plain, colour = off.amax(dim=2).min(dim=1)
    assert (plain < 20).float().mean() > 0.93
    assert torch.equal(colour[plain < 20], owner[plain < 20])
    assert all((owner == number).float().mean() > 0.03 for number in (1, 2))


def test_labels_lie_on_the_pixels_of_the_cropped_images(smoke_root, seen, inputs):
    from harness.data.nuscenes import read

    sample = read(smoke_root, smoke_root.tokens("synthetic_train")[0], inputs, labels=seen)
    assert sample.instances.owner.shape == (6, *SIZE)
    _check_aligned(sample)
    names = [row["filename"] for row in smoke_root.images(sample.token, 1)]
    assert sample.instances.label.tolist() == [seen.instances(name).label.tolist() for name in names]
    assert torch.allclose(sample.instances.score, torch.tensor([[0.9, 0.4]] * 6))
    assert len({tuple(view.flatten().tolist()) for view in sample.instances.owner}) == 6


def test_without_labels_a_sample_has_no_instances_and_is_the_same_otherwise(smoke_root, seen, inputs):
    from harness.data.nuscenes import read

    token = smoke_root.tokens("synthetic_train")[0]
    plain, labelled = read(smoke_root, token, inputs), read(smoke_root, token, inputs, labels=seen)
    assert plain.instances is None
    assert torch.equal(plain.views.images, labelled.views.images)


def test_labels_of_earlier_keyframes_come_with_their_images(smoke_root, seen, inputs):
    from harness.data.nuscenes import read

    token = next(row["token"] for row in smoke_root.devkit.sample if row["prev"])
    before = smoke_root.devkit.get("sample", token)["prev"]
    both = read(smoke_root, token, replace(inputs, keyframes=2), labels=seen)
    now, earlier = (read(smoke_root, each, inputs, labels=seen).instances for each in (token, before))
    assert both.instances.owner.shape == (12, *SIZE)
    for part, alone in ((slice(0, 6), now), (slice(6, 12), earlier)):
        for name in ("owner", "label", "score"):
            assert torch.equal(getattr(both.instances, name)[part], getattr(alone, name))
    assert not torch.equal(now.owner, earlier.owner)
    _check_aligned(both)


@pytest.fixture
def sample_set(smoke_root, seen, inputs):
    """Samples with labels: ``sample_set(mirror=, zoom=, rotation=)``, or without augmentation ``sample_set(None)``."""

    def make(mirror=0.0, zoom=(1.0, 1.0), rotation=0.0, labels=seen):
        image = {"zoom": zoom, "rotation_degrees": rotation}
        spec = None if mirror is None else AugmentSpec(mirror_probability=mirror, image=image)
        return SampleSet(smoke_root, smoke_root.tokens("synthetic_train"), inputs, spec, labels)

    return make


def test_in_a_mirrored_world_the_labels_are_mirrored_with_the_images(sample_set):
    plain, mirrored = (sample_set(mirror).drawn(0, seed=3) for mirror in (0.0, 1.0))
    _check_aligned(plain)
    _check_aligned(mirrored)
    columns = torch.arange(SIZE[1]).expand(SIZE)
    for before, after in zip(plain.instances.owner, mirrored.instances.owner, strict=True):
        # The first instance is right of the second, unless left and right are exchanged.
        assert columns[before == 1].min() > columns[before == 2].max()
        assert columns[after == 1].max() < columns[after == 2].min()
    assert torch.equal(plain.instances.label, mirrored.instances.label)


@pytest.mark.parametrize(("zoom", "rotation"), [((1.0, 1.0), 0.0), ((1.0, 1.4), 0.0), ((0.9, 1.2), 10.0)])
def test_whatever_is_drawn_labels_lie_on_their_pixels(sample_set, zoom, rotation):
    samples = sample_set(0.5, zoom, rotation)
    drawn = [samples.drawn(0, seed) for seed in range(3)]
    for sample in drawn:
        assert sample.instances.owner.shape == (6, *SIZE)
        _check_aligned(sample)
    if zoom != (1.0, 1.0):
        assert not torch.equal(drawn[0].instances.owner, drawn[1].instances.owner)


def test_views_are_moved_each_by_its_own_matrix_and_mix_no_numbers_by_hand():
    owner = torch.zeros(2, 6, 9, dtype=torch.uint8)
    owner[:, 2:4, 1:5] = 200
    instances = Instances(owner, torch.zeros(2, 200, dtype=torch.long), torch.ones(2, 200))
    # The first is cropped at the left and mirrored, the second twice as large, and shifted by part of a pixel.
    mirrored = [[-1.0, 0, 7], [0, 1, 0], [0, 0, 1]]
    larger = [[2.0, 0, -0.7], [0, 2, -2.3], [0, 0, 1]]
    moved = warp_instances(instances, torch.tensor([mirrored, larger]), (5, 7))
    assert moved.owner.unique().tolist() == [0, 200]
    assert (moved.owner[0] > 0).nonzero().tolist() == [[row, column] for row in (2, 3) for column in (2, 3, 4, 5)]
    # Rows from 2 * 2 - 2.3 = 1.7 to 5.7, columns from 2 * 1 - 0.7 = 1.3 to 9.3.
    assert (moved.owner[1] > 0).nonzero().tolist() == [[row, column] for row in (2, 3, 4) for column in range(1, 7)]
    assert torch.equal(moved.label, instances.label)


def test_labels_change_no_draw_and_memory_no_label(sample_set, seen):
    drawn = [sample_set(0.5, (1.0, 1.4), labels=labels).drawn(1, 5) for labels in (None, seen)]
    assert drawn[0].instances is None
    assert torch.equal(drawn[0].views.images, drawn[1].views.images)
    kept = sample_set(0.5, (1.0, 1.4))
    kept.drawn(1, 4)
    again = kept.drawn(1, 5)
    assert torch.equal(again.instances.owner, drawn[1].instances.owner)


def test_what_is_kept_in_memory_counts_the_labels(sample_set):
    images = sample_set(None).plain(0).views.images.nbytes
    with_labels, without = sample_set(None), sample_set(None, labels=None)
    for samples, fits in ((with_labels, False), (without, True)):
        samples.cache.limit = images
        assert (samples.plain(0) is samples.plain(0)) == fits


def test_a_batch_carries_the_labels_of_all_its_images(sample_set):
    samples = sample_set(0.5)
    batch = samples.drawn_batch([0, 2], [1, 2])
    assert batch.instances.owner.shape == (2, 6, *SIZE)
    assert batch.instances.label.shape == batch.instances.score.shape == (2, 6, 2)
    for i, (index, seed) in enumerate(((0, 1), (2, 2))):
        assert torch.equal(batch.instances.owner[i], samples.drawn(index, seed).instances.owner)
    assert torch.equal(batch.to("cpu").instances.owner, batch.instances.owner)
    assert sample_set(0.5, labels=None).drawn_batch([0, 2], [1, 2]).instances is None


def test_samples_with_and_without_labels_make_no_batch(sample_set):
    sample = sample_set(None).plain(0)
    other = replace(sample_set(None).plain(1), instances=None)
    with pytest.raises(ValueError, match=f"{re.escape(sample.token)} and {other.token} has instances"):
        collate([sample, other])


def test_samples_of_a_batch_may_have_other_numbers_of_instances(sample_set):
    sample = sample_set(None).plain(0)
    nothing = Instances(torch.zeros_like(sample.instances.owner), torch.zeros(6, 0).long(), torch.zeros(6, 0))
    batch = collate([replace(sample, instances=nothing), sample])
    assert (batch.instances.label[0] == -1).all()
    assert not batch.instances.score[0].any()
    assert torch.equal(batch.instances.label[1], sample.instances.label)
