"""A nuImages root is read as it is written, image and masks move together, and what is wrong with it is named."""

import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from detectors.batch import Instances, stack_instances
from detectors.geometry.boxes import CLASSES
from harness.data import nuimages
from harness.data.augment import augment_image
from harness.data.loader import batch_indices, training_batches
from harness.data.manifest import MANIFEST, MARKER
from harness.data.masks import encode_nuimages
from harness.data.nuimages import ImageSet, NuImagesRoot
from harness.errors import InputError
from harness.study.roles import ImageDataSpec
from harness.study.schedule import AugmentSpec
from harness.world import roots as embedded
from harness.world.roots import find_images, open_images

SIZE = (16, 40)
"""Height and width of the images, multiples of a JPEG block: colours of whole blocks survive it."""
COLOURS = np.array([(0, 0, 0), (250, 0, 0), (0, 250, 0), (0, 0, 250)])
"""Of nothing, and of the objects of an image in their order."""
CATEGORIES = ("vehicle.car", "animal", "human.pedestrian.adult", "vehicle.bus.bendy", "vehicle.bus.rigid")
TRAIN, VAL = "v1.0-train", "v1.0-val"


def block(top, bottom, left, right, size=SIZE):
    """A mask in whole JPEG blocks."""
    mask = np.zeros(size, dtype=bool)
    mask[8 * top : 8 * bottom, 8 * left : 8 * right] = True
    return mask


def encode(image):
    content = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(content, "jpeg", quality=100, subsampling=0)
    return content.getvalue()


class Root:
    """A nuImages root made by hand, image by image."""

    def __init__(self, path):
        self.path = path
        self.tables = {}
        for version in (TRAIN, VAL):
            categories = [{"token": f"c-{name}", "name": name, "description": ""} for name in CATEGORIES]
            self.tables[version] = {
                "category": categories,
                "log": [],
                "sample": [],
                "sample_data": [],
                "object_ann": [],
            }

    def add(self, version, name, *objects, log="drive"):
        """An image of objects, each a category and a mask, painted over each other in their order."""
        image = np.zeros((*SIZE, 3))
        for (_, mask), colour in zip(objects, COLOURS[1:], strict=False):
            image[mask] = colour
        (self.path / "samples").mkdir(parents=True, exist_ok=True)
        (self.path / "samples" / f"{name}.jpg").write_bytes(encode(image))
        tables = self.tables[version]
        if all(row["logfile"] != log for row in tables["log"]):
            tables["log"].append({"token": f"l-{log}", "logfile": log})
        tables["sample"].append({"token": f"s-{name}", "log_token": f"l-{log}", "key_camera_token": name})
        tables["sample_data"].append(
            {"token": name, "filename": f"samples/{name}.jpg", "height": SIZE[0], "width": SIZE[1]}
        )
        for category, mask in objects:
            row = {"sample_data_token": name, "category_token": f"c-{category}", "mask": encode_nuimages(mask)}
            tables["object_ann"].append({"token": f"o-{len(tables['object_ann'])}", **row})

    def rows(self, table, version=TRAIN):
        return self.tables[version][table]

    def open(self):
        """Write the tables, and open the root."""
        for version, tables in self.tables.items():
            for table, rows in tables.items():
                self.put(f"{version}/{table}.json", rows)
        return NuImagesRoot(self.path)

    def put(self, name, content):
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path):
    """Of two versions; that of training has three images of two drives, and splits after these."""
    root = Root(tmp_path / "root")
    car, person = ("vehicle.car", block(1, 2, 0, 2)), ("human.pedestrian.adult", block(0, 2, 3, 4))
    root.add(TRAIN, "first", car, person, log="north")
    root.add(TRAIN, "second", log="south")
    root.add(TRAIN, "third", ("vehicle.bus.bendy", block(0, 1, 2, 5)), log="north")
    root.add(VAL, "fourth", person, log="east")
    root.put(f"{TRAIN}/splits.json", {"some": ["north"], "others": ["south"], "ours": ["north", "south"]})
    return root


def _tokens(images):
    return [image.token for image in images]


def test_a_split_is_a_whole_version_or_some_drives_of_it(root):
    opened = root.open()
    assert _tokens(opened.images(TRAIN)) == ["first", "second", "third"]
    assert _tokens(opened.images(f"{TRAIN}/some")) == ["first", "third"]
    assert _tokens(opened.images(f"{TRAIN}/ours")) == ["first", "second", "third"]
    assert _tokens(opened.images(VAL)) == ["fourth"]
    root.rows("sample").reverse()
    assert _tokens(root.open().images(TRAIN)) == ["third", "second", "first"]


def test_the_synthetic_splits_are_those_of_its_drives(smoke_images):
    version = "v1.0-synthetic-images"
    opened = NuImagesRoot(smoke_images)
    train, val = (opened.images(f"{version}/{name}") for name in ("train", "val"))
    assert (len(train), len(val)) == (12, 6)
    assert [*train, *val] == opened.images(version)
    assert all("images-val-0000" in image.path.name for image in val)
    assert not any("images-val" in image.path.name for image in train)


def test_a_version_or_split_that_is_not_there_is_named_with_those_that_are(root):
    opened = root.open()
    with pytest.raises(InputError, match=r"unknown version 'v1.0-trian'; did you mean 'v1.0-train'.*v1.0-val"):
        opened.images("v1.0-trian")
    with pytest.raises(InputError, match=rf"{TRAIN}: unknown split 'sone'; did you mean 'some'.*ours"):
        opened.check_split(f"{TRAIN}/sone")
    # Of a version without a splits.json there is but the whole.
    with pytest.raises(InputError, match=f"{VAL}: unknown split 'some'; allowed: none"):
        opened.check_split(f"{VAL}/some")
    assert opened.splits(TRAIN) == [TRAIN, f"{TRAIN}/some", f"{TRAIN}/others", f"{TRAIN}/ours"]
    assert opened.splits(VAL) == [VAL]
    for split in (*opened.splits(TRAIN), *opened.splits(VAL)):
        opened.check_split(split)


def test_no_root_at_all_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        NuImagesRoot(tmp_path / "nowhere").images(TRAIN)
    with pytest.raises(InputError, match="no version folder"):
        NuImagesRoot(tmp_path).images(TRAIN)


def test_an_unfinished_synthetic_root_is_named(root):
    root.put(MARKER, {})
    with pytest.raises(InputError, match=f"{re.escape(str(root.path))} is an unfinished synthetic dataset"):
        root.open()
    root.put(MANIFEST, {})
    assert _tokens(root.open().images(VAL)) == ["fourth"]


def test_objects_of_other_categories_are_left_out_by_hand(root):
    from harness.data.nuimages import read_annotated

    bendy, rigid = block(0, 1, 0, 1), block(0, 1, 3, 5)
    objects = [("animal", block(1, 2, 0, 5)), ("vehicle.bus.bendy", bendy), ("vehicle.bus.rigid", rigid)]
    root.add(TRAIN, "zoo", *objects)
    root.add(TRAIN, "cage", ("animal", block(0, 2, 0, 5)))
    *_, zoo, cage = root.open().images(TRAIN)
    assert [label for label, _ in zoo.masks] == [CLASSES.index("bus")] * 2
    _, instances = read_annotated(zoo, SIZE)
    assert np.array_equal(instances.owner.numpy(), 1 * bendy + 2 * rigid)
    assert instances.score.tolist() == [1.0, 1.0]
    # An image without an object is one to learn from, too.
    assert cage.masks == ()
    _, instances = read_annotated(cage, SIZE)
    assert not instances.owner.any()
    assert instances.label.shape == instances.score.shape == (0,)


def test_objects_without_a_mask_are_left_out_as_the_devkit_leaves_them_out(root):
    root.rows("object_ann")[0]["mask"] = None
    first, second, third = root.open().images(TRAIN)
    assert [len(image.masks) for image in (first, second, third)] == [1, 0, 1]
    assert first.masks[0][1] == root.rows("object_ann")[1]["mask"]


def test_categories_none_of_which_is_a_class_are_named(root):
    for row in root.rows("category"):
        row["name"] = f"zoo.{row['token']}"
    with pytest.raises(InputError, match=r"category\.json: none of .*zoo\.c-animal.* is one of the ten"):
        root.open().images(TRAIN)


def test_a_split_without_an_annotated_image_is_named(root):
    root.put(f"{TRAIN}/splits.json", {"empty": [], "others": ["south"], "gone": ["west"]})
    for name in ("empty", "others", "gone"):
        with pytest.raises(InputError, match=f"split '{TRAIN}/{name}' of .* has no annotated image"):
            root.open().images(f"{TRAIN}/{name}")


@pytest.mark.parametrize(
    "splits", [[], ["some"], {"some": None}, {"some": 3}, {"some": "north"}, {"some": [["north"]]}]
)
def test_splits_that_are_no_names_of_drives_are_named(root, splits):
    opened = root.open()
    root.put(f"{TRAIN}/splits.json", splits)
    with pytest.raises(InputError, match=rf"{TRAIN}/splits\.json must be"):
        opened.images(f"{TRAIN}/some")


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("category", "[", r"category\.json is not valid JSON"),
        ("object_ann", "", r"object_ann\.json is not valid JSON"),
        ("sample", "[]", r"sample\.json has no row"),
        ("sample", '{"a": 1}', r"sample\.json"),
        ("log", "null", r"log\.json"),
        ("sample_data", "3", r"sample_data\.json"),
        ("sample_data", "[3]", r"sample_data\.json: row 0 must be an object"),
        ("log", None, r"log\.json cannot be read: No such file"),
    ],
)
def test_a_damaged_table_is_named(root, table, content, message):
    opened = root.open()
    path = root.path / TRAIN / f"{table}.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        opened.images(TRAIN)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("sample", "log_token", "l-nowhere"),
        ("sample", "key_camera_token", "nothing"),
        ("sample_data", "filename", None),
        ("sample_data", "width", "40"),
        ("object_ann", "sample_data_token", "nothing"),
        ("object_ann", "category_token", "c-nothing"),
        ("object_ann", "mask", []),
        ("category", "name", 3),
        ("log", "logfile", None),
    ],
)
def test_a_wrong_value_is_named_by_row_and_key(root, table, key, value):
    root.rows(table)[-1][key] = value
    with pytest.raises(InputError, match=rf"{table}\.json: row {len(root.rows(table)) - 1}: {key} "):
        root.open().images(TRAIN)


def test_an_image_that_is_missing_is_named_before_and_while_it_is_read(root):
    opened = root.open()
    opened.check_files(TRAIN)
    path = root.path / "samples" / "second.jpg"
    path.unlink()
    opened.check_files(VAL)
    opened.check_files(f"{TRAIN}/some")
    for look in (
        lambda: opened.check_files(TRAIN),
        lambda: list(ImageSet(opened.images(TRAIN), SIZE).plain_batches(2)),
    ):
        with pytest.raises(InputError, match=f"{re.escape(str(path))} is missing"):
            look()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "truncated or damaged"),
        (lambda content: b"GIF89a" + content, "not a JPEG image"),
        (lambda content: b"", "is empty"),
        (lambda content: encode(np.zeros((SIZE[1], SIZE[0], 3))), "has 16 x 40 pixels, but 40 x 16"),
    ],
)
def test_a_damaged_image_is_named(root, damage, message):
    from harness.data.nuimages import read_annotated

    (image, *_) = root.open().images(TRAIN)
    image.path.write_bytes(damage(image.path.read_bytes()))
    with pytest.raises(InputError, match=f"{re.escape(str(image.path))}.* {message}"):
        read_annotated(image, SIZE)


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: {"size": [8, 40], "counts": "WjA="},
        lambda mask: {**mask, "counts": "no base64"},
        lambda mask: {**mask, "counts": None},
        lambda mask: {"size": mask["size"]},
        lambda mask: {"counts": mask["counts"]},
        lambda mask: {},
    ],
    ids=["another size", "no base64", "no counts", "without counts", "without size", "empty"],
)
def test_a_damaged_mask_is_named_by_its_image(root, change):
    from harness.data.nuimages import read_annotated

    row = root.rows("object_ann")[1]
    row["mask"] = change(row["mask"])
    (image, *_) = root.open().images(TRAIN)
    with pytest.raises(InputError, match=rf"object_ann\.json: a mask of {re.escape(str(image.path))}: "):
        read_annotated(image, SIZE)


def test_identity_is_that_of_the_tables_of_the_versions(root):
    before = root.open().fingerprint(TRAIN, VAL)
    (root.path / TRAIN / "._sample.json").write_bytes(b"\0\5\x16\7Mac OS X")
    assert root.open().fingerprint(TRAIN, VAL) == before
    assert root.open().fingerprint(VAL, f"{TRAIN}/some", TRAIN) == before
    training = root.open().fingerprint(f"{TRAIN}/some")
    assert len({before, training, root.open().fingerprint(VAL)}) == 3
    root.rows("object_ann", VAL)[0]["mask"]["counts"] += "="
    assert root.open().fingerprint(TRAIN, VAL) != before
    assert root.open().fingerprint(TRAIN) == training
    root.put(f"{TRAIN}/splits.json", {"some": ["south"]})
    changed = root.open().fingerprint(TRAIN)
    assert changed != training
    # Of a synthetic root the manifest tells the content of images, too.
    root.put("manifest.json", {"sha256": {}})
    assert root.open().fingerprint(TRAIN) != changed


def test_what_is_small_stands_before_what_is_large(root):
    from harness.data.nuimages import read_annotated

    large, small, middle = block(0, 2, 0, 4), block(0, 1, 1, 2), block(0, 1, 0, 3)
    root.add(TRAIN, "crowd", ("vehicle.car", large), ("vehicle.car", small), ("vehicle.bus.rigid", middle))
    _, instances = read_annotated(root.open().images(TRAIN)[-1], SIZE)
    expected = 1 * large
    expected[middle] = 3
    expected[small] = 2
    assert np.array_equal(instances.owner.numpy(), expected)


@pytest.mark.parametrize("size", [(8, 20), (24, 20), (16, 40), (32, 120)])
def test_an_image_and_its_masks_are_resized_as_a_whole_whatever_the_aspect(root, size):
    from harness.data.nuimages import read_annotated

    (image, *_) = root.open().images(TRAIN)
    pixels, instances = read_annotated(image, size)
    rows, columns = size
    expected = np.zeros(size, dtype=int)
    expected[rows // 2 :, : columns * 2 // 5] = 1
    expected[:, columns * 3 // 5 : columns * 4 // 5] = 2
    assert np.array_equal(instances.owner.numpy(), expected)
    shown = pixels.numpy().transpose(1, 2, 0)
    assert np.abs(shown - COLOURS[expected]).max() < 20


@pytest.fixture
def drawn_set(root):
    """The images of training as a segmenter sees them: ``drawn_set(mirror, zoom, size=..., rotation=...)``."""
    opened = root.open()

    def make(mirror=0.5, zoom=(1.0, 1.0), size=SIZE, rotation=0.0, flip=0.0):
        image = {"zoom": zoom, "rotation_degrees": rotation, "flip_probability": flip}
        return ImageSet(opened.images(TRAIN), size, AugmentSpec(mirror_probability=mirror, image=image))

    return make


def _same(one, other):
    tensors = ("owner", "label", "score")
    ours, theirs = ([b.images, *(getattr(b.instances, name) for name in tensors)] for b in (one, other))
    return one.tokens == other.tokens and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_mirroring_moves_images_and_masks_alike_by_hand(drawn_set):
    plain, mirrored = (drawn_set(mirror).drawn_batch([0, 2], [1, 2]) for mirror in (0.0, 1.0))
    assert torch.equal(mirrored.images, plain.images.flip(-1))
    assert torch.equal(mirrored.instances.owner, plain.instances.owner.flip(-1))
    assert torch.equal(mirrored.instances.label, plain.instances.label)
    # The car is at the left, in front: in the mirror at the right.
    assert plain.instances.owner[0, -1].tolist() == [1] * 16 + [0] * 8 + [2] * 8 + [0] * 8
    assert (mirrored.instances.owner[0, -1, -16:] == 1).all()
    # A flip of single images mirrors them once more.
    assert _same(drawn_set(1.0, flip=1.0).drawn_batch([0, 2], [1, 2]), plain)
    assert _same(drawn_set(0.0, flip=1.0).drawn_batch([0, 2], [1, 2]), mirrored)


def _agreement(batch):
    """Share of the pixels that show the colour of their owner, of those on objects."""
    numbers = batch.instances.owner.long()
    shown = torch.from_numpy(COLOURS)[numbers].permute(0, 3, 1, 2)
    right = (batch.images.long() - shown).abs().amax(dim=1) < 90
    return right[numbers > 0].float().mean().item()


@pytest.mark.parametrize(
    ("zoom", "rotation"), [((1.0, 1.0), 0.0), ((1.0, 1.7), 0.0), ((1.5, 1.5), 0.0), ((1.0, 1.3), 12.0)]
)
def test_whatever_is_drawn_an_object_has_its_colour(drawn_set, zoom, rotation):
    samples = drawn_set(zoom=zoom, rotation=rotation, size=(48, 120), flip=0.3)
    drawn = [samples.drawn_batch([0, 2], [seed, seed + 50]) for seed in range(4)]
    for batch in drawn:
        assert batch.images.shape == (2, 3, 48, 120)
        assert batch.instances.owner.shape == (2, 48, 120)
        assert set(batch.instances.owner.unique().tolist()) <= {0, 1, 2}
        # Mixed are but the pixels on an edge.
        assert _agreement(batch) > 0.95
        assert (batch.images.amax(dim=1)[batch.instances.owner == 0] > 160).float().mean() < 0.01
    if zoom != (1.0, 1.0):
        assert len({tuple((batch.instances.owner == 1).flatten().tolist()) for batch in drawn}) == 4


def test_a_pixel_between_two_objects_is_of_neither_number_in_between():
    owner = torch.zeros(24, 60, dtype=torch.uint8)
    owner[8:, 10:40] = 200
    instances = Instances(owner, torch.zeros(200, dtype=torch.long), torch.ones(200))
    spec = AugmentSpec(image={"zoom": (1.0, 1.5), "rotation_degrees": 10.0})
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        image, moved = augment_image(owner.expand(3, 24, 60), instances, spec, SIZE, generator)
        assert moved.owner.unique().tolist() == [0, 200]
        # The image takes the same way, and it is mixed at the edges.
        assert len(image.unique()) > 10
        assert ((image[0] > 100) == (moved.owner > 0)).float().mean() > 0.97
    assert (owner == 200).sum() == 16 * 30


def test_zooming_shows_the_road_and_crops_the_sky_by_hand(drawn_set):
    batch = drawn_set(0.0, zoom=(2.0, 2.0), size=(8, 20)).drawn_batch([0], [3])
    # Twice the size of the input is that of the image itself, of which the lower half remains, and half of its width.
    (owner,) = batch.instances.owner
    row = torch.tensor([1] * 16 + [0] * 8 + [2] * 8 + [0] * 8)
    assert any(torch.equal(owner, row[left : left + 20].expand(8, 20)) for left in range(21))


def test_a_draw_is_a_function_of_its_seed(drawn_set):
    samples = drawn_set(zoom=(1.0, 1.5))
    first = samples.drawn_batch([0, 1, 2], [5, 6, 7])
    samples.drawn_batch([2, 0], [1, 2])
    assert _same(samples.drawn_batch([0, 1, 2], [5, 6, 7]), first)
    assert _same(drawn_set(zoom=(1.0, 1.5)).drawn_batch([0, 1, 2], [5, 6, 7]), first)
    assert not _same(samples.drawn_batch([0, 1, 2], [8, 9, 10]), first)
    alone = samples.drawn_batch([2], [7])
    assert torch.equal(alone.images[0], first.images[2])


def test_keeping_images_in_memory_changes_no_batch_and_reads_each_once(drawn_set, monkeypatch):
    read, opened = nuimages.read_annotated, []
    monkeypatch.setattr(nuimages, "read_annotated", lambda image, size: opened.append(image.token) or read(image, size))
    kept, tight = drawn_set(), drawn_set()
    tight.cache.limit = 7 * SIZE[0] * SIZE[1]  # two images, but not with their owners
    batches = []
    for samples in (kept, tight):
        batches.append([samples.drawn_batch([0, 1, 2], [3 * i, 3 * i + 1, 3 * i + 2]) for i in range(3)])
    assert all(_same(*pair) for pair in zip(*batches, strict=True))
    assert opened[:3] == ["first", "second", "third"]
    assert opened[3:] == ["first", "second", "third", "second", "third", "second", "third"]


def test_a_set_is_either_drawn_or_had_as_it_is(root, drawn_set):
    with pytest.raises(RuntimeError, match="without augmentation"):
        ImageSet(root.open().images(TRAIN), SIZE).drawn_batch([0], [0])
    with pytest.raises(RuntimeError, match="with augmentation"):
        next(drawn_set().plain_batches(2))


def test_plain_batches_are_every_image_once_in_order_padded(root):
    samples = ImageSet(root.open().images(TRAIN), (8, 20))
    batches = list(samples.plain_batches(2))
    assert len(samples) == 3
    assert [batch.tokens for batch in batches] == [("first", "second"), ("third",)]
    assert [len(batch) for batch in batches] == [2, 1]
    first = batches[0]
    assert first.images.shape == (2, 3, 8, 20)
    car, pedestrian, bus = (CLASSES.index(name) for name in ("car", "pedestrian", "bus"))
    assert first.instances.label.tolist() == [[car, pedestrian], [-1, -1]]
    assert first.instances.score.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert batches[1].instances.label.tolist() == [[bus]]
    assert not first.instances.owner[1].any()
    moved = first.to("cpu")
    assert _same(moved, first)
    assert moved.images.shape == first.images.shape


def test_instances_are_padded_to_the_most_there_are_by_hand():
    one = Instances(torch.full((2, 3), 1, dtype=torch.uint8), torch.tensor([7]), torch.tensor([0.25]))
    none = Instances(torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([], dtype=torch.long), torch.tensor([]))
    both = stack_instances([none, one])
    assert both.owner.tolist() == [[[0] * 3] * 2, [[1] * 3] * 2]
    assert both.label.tolist() == [[-1], [7]]
    assert both.score.tolist() == [[0.0], [0.25]]
    assert one.padded(3).label.tolist() == [7, -1, -1]
    assert one.padded(1).score.tolist() == [0.25]
    assert stack_instances([]) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_trainings_draw_the_same_images_whoever_loads_them(drawn_set, workers):
    samples = drawn_set(zoom=(1.0, 1.5))
    batches = list(training_batches(samples, 2, range(1, 4), order_seed=4, augment_seed=9, workers=workers))
    assert len(batches) == 3
    for step, batch in enumerate(batches, start=1):
        expected = drawn_set(zoom=(1.0, 1.5)).drawn_batch(batch_indices(3, 2, step, 4), [9 + 2 * step, 10 + 2 * step])
        assert _same(batch, expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_message_whoever_reads_it(drawn_set, root, workers):
    samples = drawn_set()
    for path in (root.path / "samples").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"^\S+(first|second|third)\.jpg is empty; expected a JPEG image$"):
        list(training_batches(samples, 2, range(2), 1, 2, workers))


def test_the_images_of_a_study_are_the_users_where_a_root_is_given(root):
    opened, told = root.open(), Console(file=io.StringIO())
    data = ImageDataSpec(root=root.path, train_split=f"{TRAIN}/some", eval_split=VAL)
    assert open_images(data, told).path == root.path
    assert find_images(told)(data) == (root.path, opened.fingerprint(TRAIN, VAL))
    for wrong in ({"train_split": "v1.0-test"}, {"eval_split": f"{TRAIN}/sume"}):
        with pytest.raises(InputError, match=r"unknown (version 'v1.0-test'|split 'sume')"):
            open_images(data.model_copy(update=wrong), told)
    assert told.file.getvalue() == ""


def test_embedded_images_are_made_once_in_the_cache(smoke_images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make, made = embedded.synthesize_images, []

    def copied(out, preset, seed, **rest):
        if not out.exists():
            shutil.copytree(smoke_images, out)
            made.append(out)
        make(out, preset, seed, **rest)  # which refuses what is not of this preset and seed

    monkeypatch.setattr(embedded, "synthesize_images", copied)
    told = Console(file=io.StringIO())
    first, second = (embedded.open_images(ImageDataSpec(preset="smoke"), told) for _ in range(2))
    assert made == [first.path] == [second.path]
    assert tmp_path / "cache" in first.path.parents
    assert str(first.path) in told.file.getvalue()
    assert _tokens(first.images(ImageDataSpec().train_split)) == _tokens(
        replace(first, path=smoke_images).images(ImageDataSpec().train_split)
    )
