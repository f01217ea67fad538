"""Mask AP is what can be worked out by hand from COCO's rule: the mean of the best precision at 101 recalls."""

import math

import numpy as np
import pytest

from detectors.geometry.boxes import CLASSES
from harness.evaluate.mask_ap import mask_ap

SIZE = (30, 64)
"""Height and width of the images."""
CAR, TRUCK, CONE = 0, 1, 8


def rectangle(top, left, height, width):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


ONE, OTHER = rectangle(2, 3, 10, 20), rectangle(15, 30, 12, 25)


def truth(*objects):
    """Masks and labels of an image."""
    masks = np.array([mask for mask, _ in objects], dtype=bool).reshape(-1, *SIZE)
    return masks, np.array([label for _, label in objects], dtype=np.int64)


def seen(*objects):
    """Masks, labels and scores of an image."""
    return (*truth(*(pair[:2] for pair in objects)), np.array([score for *_, score in objects], dtype=np.float32))


def measure(wanted, predicted):
    """Of one image, or of several in lists."""
    images = [each if isinstance(each, list) else [each] for each in (wanted, predicted)]
    return mask_ap(zip(*images, strict=True))


def test_what_is_found_as_it_is_scores_full_marks():
    measured = measure(truth((ONE, CAR), (OTHER, TRUCK)), seen((ONE, CAR, 0.3), (OTHER, TRUCK, 0.9)))
    for key in ("AP", "AP50", "AP50/car", "AP50/truck"):
        assert measured[key] == pytest.approx(1)


def test_one_of_two_objects_missed_is_51_of_101_recalls():
    # Recall reaches a half: precision is 1 at 0, 0.01, ..., 0.5, which are 51 recalls, and 0 at the other 50.
    measured = measure(truth((ONE, CAR), (OTHER, CAR)), seen((ONE, CAR, 0.8)))
    assert [measured[key] for key in ("AP50", "AP50/car")] == pytest.approx([51 / 101] * 2)
    assert measured["AP"] == pytest.approx(51 / 101)


def test_objects_of_another_class_are_not_found():
    measured = measure(truth((ONE, CAR)), seen((ONE, TRUCK, 0.9)))
    assert (measured["AP"], measured["AP50"], measured["AP50/car"]) == (0, 0, 0)
    assert math.isnan(measured["AP50/truck"])


def test_nothing_found_is_zero():
    measured = measure(truth((ONE, CAR)), seen())
    assert (measured["AP"], measured["AP50"], measured["AP50/car"]) == (0, 0, 0)


@pytest.mark.parametrize("predicted", [[], [(ONE, CAR, 0.9)]], ids=["nothing seen", "something seen"])
def test_without_any_object_nothing_is_known(predicted):
    measured = measure(truth(), seen(*predicted))
    assert measured.keys() == {"AP", "AP50", *(f"AP50/{name}" for name in CLASSES)}
    assert all(map(math.isnan, measured.values()))


def test_the_mean_is_over_the_classes_that_there_are():
    measured = measure(truth((ONE, CAR), (OTHER, CONE)), seen((ONE, CAR, 0.9)))
    assert measured["AP50/car"] == pytest.approx(1)
    assert measured["AP50/traffic_cone"] == 0
    assert [measured["AP"], measured["AP50"]] == pytest.approx([0.5, 0.5])
    assert sum(math.isnan(value) for value in measured.values()) == 8


@pytest.mark.parametrize(("rows", "counted"), [(31, 3), (36, 5), (38, 6), (48, 10)])
def test_an_overlap_counts_for_the_thresholds_below_it(rows, counted):
    """Of 50 columns so many are covered: an overlap of 0.62 passes 0.5, 0.55 and 0.6, but not 0.65 or 0.75."""
    measured = measure(truth((rectangle(4, 5, 7, 50), CAR)), seen((rectangle(4, 5, 7, rows), CAR, 0.9)))
    assert measured["AP50"] == pytest.approx(1)
    assert measured["AP"] == pytest.approx(counted / 10)


def test_an_overlap_below_a_half_is_none():
    measured = measure(truth((rectangle(4, 5, 7, 50), CAR)), seen((rectangle(4, 5, 7, 24), CAR, 0.9)))
    assert (measured["AP"], measured["AP50"]) == (0, 0)


def test_masks_overlap_and_not_their_boxes():
    """Every other column of a block, and the columns in between."""
    columns = np.arange(SIZE[1]) % 2 == 0
    block = rectangle(4, 5, 12, 41)
    measured = measure(truth((block & columns, CAR)), seen((block & ~columns, CAR, 0.9)))
    assert (measured["AP"], measured["AP50"]) == (0, 0)


def test_a_false_alarm_costs_only_where_it_is_surer():
    wanted = truth((ONE, CAR))
    assert measure(wanted, seen((ONE, CAR, 0.6), (OTHER, CAR, 0.5)))["AP50"] == pytest.approx(1)
    assert measure(wanted, seen((ONE, CAR, 0.6), (OTHER, CAR, 0.7)))["AP50"] == pytest.approx(1 / 2)


def test_an_object_that_is_found_twice_is_found_once():
    shifted = rectangle(2, 4, 10, 20)
    measured = measure(truth((ONE, CAR), (OTHER, CAR)), seen((ONE, CAR, 0.9), (shifted, CAR, 0.8), (OTHER, CAR, 0.7)))
    # Precision 1 at 51 recalls, two thirds at the other 50.
    assert measured["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_object_is_looked_for_in_its_own_image():
    wanted, elsewhere = truth((ONE, CAR)), seen((ONE, CAR, 0.9))
    assert measure([wanted, truth()], [elsewhere, seen()])["AP50"] == pytest.approx(1)
    assert measure([wanted, truth()], [seen(), elsewhere])["AP50"] == 0
    # The false alarm of the second image is the surer one.
    both = [seen((ONE, CAR, 0.5)), seen((ONE, CAR, 0.6))]
    assert measure([wanted, truth()], both)["AP50"] == pytest.approx(1 / 2)


def test_small_objects_count_neither_as_missed_nor_as_false_alarms():
    small = rectangle(20, 4, 7, 9)
    assert small.sum() == 63
    wanted, found = [(OTHER, CAR)], [(OTHER, CAR, 0.5)]
    for missed, alarm in (([], [(small, CAR, 0.9)]), ([(small, CAR)], []), ([(small, CAR)], [(small, CAR, 0.9)])):
        measured = measure(truth(*wanted, *missed), seen(*found, *alarm))
        assert [measured["AP"], measured["AP50"]] == pytest.approx([1, 1])
    assert math.isnan(measure(truth((small, CAR)), seen((small, CAR, 0.9)))["AP"])


def test_what_counts_begins_at_64_pixels():
    least = rectangle(20, 4, 8, 8)
    assert measure(truth((least, CAR)), seen())["AP50"] == 0
    assert measure(truth((OTHER, CAR)), seen((OTHER, CAR, 0.5), (least, CAR, 0.9)))["AP50"] == pytest.approx(1 / 2)


def test_an_objects_pixels_count_and_not_those_of_its_box():
    thin = np.eye(*SIZE, dtype=bool)
    assert thin.sum() == 30
    wanted = truth((OTHER, CAR), (thin, CAR))
    assert measure(wanted, seen((OTHER, CAR, 0.5)))["AP50"] == pytest.approx(1)
    assert measure(truth((OTHER, CAR)), seen((OTHER, CAR, 0.5), (thin, CAR, 0.9)))["AP50"] == pytest.approx(1)


def test_masks_without_a_pixel_are_none():
    nothing = np.zeros(SIZE, dtype=bool)
    measured = measure(truth((nothing, CAR), (ONE, CAR)), seen((nothing, CAR, 0.9), (ONE, CAR, 0.5)))
    assert measured["AP"] == pytest.approx(1)


def test_no_more_than_the_hundred_surest_of_an_image_are_looked_at():
    alarms = [(OTHER, CAR, 0.9)] * 99
    wanted = truth((ONE, CAR))
    assert measure(wanted, seen(*alarms, (ONE, CAR, 0.5)))["AP50"] == pytest.approx(1 / 100)
    assert measure(wanted, seen(*alarms, (OTHER, CAR, 0.9), (ONE, CAR, 0.5)))["AP50"] == 0


def test_the_order_of_objects_and_images_changes_nothing():
    rng = np.random.default_rng(0)

    def objects(count):
        corners = zip(rng.integers(0, 15, count), rng.integers(0, 40, count), strict=True)
        return [(rectangle(top, left, 9 + top % 6, 10 + left % 13), int(rng.integers(2))) for top, left in corners]

    images = [objects(count) for count in (3, 0, 5)]
    found = [
        [
            (np.roll(mask, 1, axis=1), label, float(score))
            for (mask, label), score in zip(image, rng.random(9), strict=False)
        ]
        for image in images
    ]
    found[1] = [(ONE, CAR, 0.4), (OTHER, TRUCK, 0.2)]
    measured = measure([truth(*image) for image in images], [seen(*image) for image in found])
    turned = measure([truth(*image[::-1]) for image in images[::-1]], [seen(*image[::-1]) for image in found[::-1]])
    assert turned == pytest.approx(measured, nan_ok=True)
    assert 0 < measured["AP"] < measured["AP50"] <= 1


def test_cocos_program_prints_nothing(capsys):
    measure(truth((ONE, CAR)), seen((ONE, CAR, 0.9)))
    measure(truth((ONE, CAR)), seen())
    assert capsys.readouterr() == ("", "")
