"""Masks survive both spellings, and COCO's and nuImages' own programs read what we write; nonsense is refused."""

import base64
import json
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nuimages.utils.utils import mask_decode
from pycocotools import mask as coco

from harness.data.masks import MAX_INSTANCES, box_around, encode, encode_nuimages, from_nuimages, paint

FEW = settings(max_examples=40)
MASKS = st.tuples(st.integers(1, 9), st.integers(1, 12)).flatmap(lambda size: arrays(bool, size))


def decode(segmentation, size):
    return paint([segmentation], size) > 0


@pytest.fixture(params=[0.0, 0.0005, 0.03, 0.5, 1.0])
def large(request):
    """A mask whose share of set pixels decides how many run lengths there are, and of how many digits."""
    return np.random.default_rng(0).random((130, 71)) < request.param


@FEW
@given(mask=MASKS)
def test_cocos_spelling_gives_a_mask_back(mask):
    written = json.loads(json.dumps(encode(mask)))
    assert written["size"] == list(mask.shape)
    assert np.array_equal(decode(written, mask.shape), mask)


@FEW
@given(mask=MASKS)
def test_the_devkit_reads_our_spelling_of_nuimages_and_so_do_we(mask):
    written = json.loads(json.dumps(encode_nuimages(mask)))
    assert np.array_equal(mask_decode(written), mask)
    assert np.array_equal(decode(from_nuimages(written), mask.shape), mask)


def test_cocos_own_program_and_ours_read_each_other(large):
    theirs = coco.encode(np.asfortranarray(large.astype(np.uint8)))
    assert np.array_equal(decode(theirs, (130, 71)), large)
    assert np.array_equal(coco.decode(encode(large)), large)
    assert np.array_equal(decode(from_nuimages(encode_nuimages(large)), (130, 71)), large)


def test_run_lengths_go_down_the_columns_and_begin_outside_by_hand():
    assert decode({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3)).tolist() == [
        [False, True, False],
        [True, False, False],
    ]
    assert decode({"size": [2, 3], "counts": [0, 3, 2, 1]}, (2, 3)).tolist() == [
        [True, True, False],
        [True, False, True],
    ]
    # Of these two the first is spelt with a character a run.
    assert decode({"size": [2, 3], "counts": "123"}, (2, 3)).tolist() == [[False, True, False], [True, False, False]]


@FEW
@given(mask=MASKS)
def test_a_list_of_run_lengths_is_read_as_cocos_own_program_reads_it(mask):
    runs = [len(list(same)) for _, same in groupby(mask.T.ravel().tolist())]
    written = {"size": list(mask.shape), "counts": [0, *runs] if mask[0, 0] else runs}
    assert np.array_equal(decode(written, mask.shape), mask)
    assert np.array_equal(coco.decode(coco.frPyObjects(written, *mask.shape)), mask)


def test_polygons_are_filled_by_hand_and_several_are_one_object():
    size = (5, 9)
    expected = np.zeros(size, dtype=bool)
    expected[1:3, 1:4] = True
    block = [1, 1, 4, 1, 4, 3, 1, 3]  # x, y, x, y, ... of its corners
    assert np.array_equal(decode([block], size), expected)
    expected[:, 6:8] = True
    expected[2:4, 3:5] = True
    strip, overlapping = [6.0, 0.0, 8.0, 0.0, 8.0, 5.0, 6.0, 5.0], [3, 2, 5, 2, 5, 4, 3, 4]
    assert np.array_equal(decode([block, strip, overlapping], size), expected)


def test_what_a_polygon_covers_outside_the_image_is_cut_off():
    found = decode([[-2, 2, 3, 2, 3, 6, -2, 6]], (4, 7))
    expected = np.zeros((4, 7), dtype=bool)
    expected[2:, :3] = True
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("write", ["encode", "encode_nuimages", "list"])
def test_a_mask_of_another_size_is_refused_by_both_sizes(write):
    from harness.data import masks

    mask = np.ones((4, 6), dtype=bool)
    written = {"size": [4, 6], "counts": [0, 24]} if write == "list" else getattr(masks, write)(mask)
    written = masks.from_nuimages(written) if write == "encode_nuimages" else written
    for size in ((6, 4), (4, 7), (3, 8)):
        with pytest.raises(ValueError, match=rf"mask of size \[4, 6\].*image has \[{size[0]}, {size[1]}\]"):
            decode(written, size)
    assert decode(written, (4, 6)).all()


NONSENSE = {
    "no run lengths": {"size": [4, 6]},
    "no size": {"counts": [24]},
    "size none": {"size": None, "counts": [24]},
    "size a number": {"size": 24, "counts": [24]},
    "size of one side": {"size": [4], "counts": [24]},
    "size of three sides": {"size": [4, 6, 1], "counts": [24]},
    "run lengths none": {"size": [4, 6], "counts": None},
    "run lengths a number": {"size": [4, 6], "counts": 24},
    "run lengths words": {"size": [4, 6], "counts": ["a"]},
    "run lengths negative": {"size": [4, 6], "counts": [3, -3, 24]},
    "run lengths fractions": {"size": [4, 6], "counts": [3.5, 20.5]},
    # pycocotools would read beyond its memory.
    "too few pixels": {"size": [4, 6], "counts": [3, 3]},
    "too many pixels": {"size": [4, 6], "counts": [3, 30]},
    "far too many pixels": {"size": [4, 6], "counts": [2**40]},
    "nothing in the list": {"size": [4, 6], "counts": []},
    "nothing compressed": {"size": [4, 6], "counts": ""},
    "compressed words": {"size": [4, 6], "counts": "nonsense!!"},
    "compressed too few pixels": {"size": [4, 6], "counts": "08"},
    "compressed negative": {"size": [4, 6], "counts": "n0J"},
    # Of these h0 alone would be all pixels.
    "compressed cut off": {"size": [4, 6], "counts": "h0P"},
    "compressed and more": {"size": [4, 6], "counts": "h0p"},
    "compressed no ASCII": {"size": [4, 6], "counts": "ä" * 12},
    "no polygon": [],
    "an empty polygon": [[]],
    "a word": "polygon",
    "a polygon of words": [["a", "b", "c", "d", "e", "f"]],
    "a number as a polygon": [5],
    "corners without a list around them": [1, 1, 3, 1, 3, 3],
    "a polygon of one corner": [[1, 2]],
    "a polygon of two corners": [[1, 1, 3, 1]],
    "half a corner": [[1, 1, 3, 1, 3, 3, 1]],
    # With these pycocotools asks for all the memory there is.
    "a corner of nothing": [[1, 1, 3, 1, 3, None]],
    "a corner nowhere": [[1, 1, 3, 1, 3, float("nan")]],
    "a corner at infinity": [[1, 1, 3, 1, 3, float("inf")]],
    "a corner far out": [[1, 1, 3, 1, 3, 1e12]],
    "a corner far out at the left": [[1, 1, 3, 1, 3, -1e12]],
    "run lengths of another size as a polygon": [{"size": [9, 9], "counts": [3, 30]}],
}


@pytest.mark.parametrize("segmentation", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_a_value_error(segmentation):
    with pytest.raises(ValueError, match="mask"):
        decode(segmentation, (4, 6))


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [4, 6], "counts": "no base64!"},
        {"size": [4, 6], "counts": "ä"},
        # b64decode would leave out what is none of its letters.
        {"size": [4, 6], "counts": "aD!A="},
        {"size": [4, 6], "counts": None},
        {"size": [4, 6], "counts": [24]},
        {"size": [4, 6]},
        {"counts": base64.b64encode(b"h0").decode()},
        {"size": [4, 6], "counts": ""},
        {"size": [4, 6], "counts": base64.b64encode(b"08").decode()},
        {"size": [4, 6], "counts": base64.b64encode(b"\xff\xff").decode()},
    ],
    ids=str,
)
def test_nonsense_of_nuimages_is_a_value_error(mask):
    with pytest.raises(ValueError, match="mask"):
        decode(from_nuimages(mask), (4, 6))


def _row(*pixels):
    return encode(np.array([pixels], dtype=bool))


def test_the_first_of_several_masks_owns_a_pixel_by_hand():
    polygon = [[1, 0, 4, 0, 4, 1, 1, 1]]
    owner = paint([_row(0, 0, 1, 0, 0), polygon, {"size": [1, 5], "counts": [0, 4, 1]}], (1, 5))
    assert owner.dtype == np.uint8
    assert owner.tolist() == [[3, 2, 1, 2, 0]]


def test_or_the_smallest_does_by_hand():
    masks = [_row(1, 1, 1, 1, 1, 0), _row(0, 1, 0, 0, 0, 0), _row(0, 1, 1, 1, 0, 0), _row(0, 0, 1, 1, 1, 0)]
    # Of two that are as small as each other it is the first.
    assert paint(masks, (1, 6), small_first=True).tolist() == [[1, 2, 3, 3, 4, 0]]
    assert paint(masks[:1] + masks[:0:-1], (1, 6), small_first=True).tolist() == [[1, 4, 2, 2, 2, 0]]
    assert paint(masks, (1, 6)).tolist() == [[1, 1, 1, 1, 1, 0]]


@FEW
@given(masks=st.tuples(st.integers(1, 5), st.integers(2, 5), st.integers(1, 6)).flatmap(lambda s: arrays(bool, s)))
def test_owners_are_those_that_comparing_whole_masks_gives(masks):
    written, size = [encode(mask) for mask in masks], masks.shape[1:]
    first = np.where(masks.any(axis=0), masks.argmax(axis=0) + 1, 0)
    assert np.array_equal(paint(written, size), first)
    area = np.where(masks, masks.sum(axis=(1, 2))[:, None, None], masks[0].size + 1)
    smallest = np.where(masks.any(axis=0), area.argmin(axis=0) + 1, 0)
    assert np.array_equal(paint(written, size, small_first=True), smallest)


def test_nothing_owns_nothing():
    for small_first in (False, True):
        assert np.array_equal(paint([], (2, 3), small_first), np.zeros((2, 3)))


def test_as_many_as_are_allowed_have_numbers_of_their_own():
    masks = [_row(*row) for row in np.eye(MAX_INSTANCES, dtype=bool)]
    assert paint(masks, (1, MAX_INSTANCES)).tolist() == [list(range(1, MAX_INSTANCES + 1))]


def test_a_box_around_a_mask_ends_at_its_last_pixels_by_hand():
    mask = np.zeros((5, 9), dtype=bool)
    mask[3, 7] = True
    assert box_around(mask) == [7, 3, 7, 3]
    mask[1, 2] = True
    assert box_around(mask) == [2, 1, 7, 3]
