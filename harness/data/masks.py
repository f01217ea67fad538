"""Converts instance masks in run lengths, in nuImages' spelling (base64) and COCO's."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from pycocotools import mask as coco

Rle = dict[str, Any]
"""``size`` (height, width) and ``counts``, column by column."""
Segmentation = Mapping[str, Any] | Sequence[Any]
"""Run lengths, or a list of polygons."""


def encode(mask: Bool[np.ndarray, "h w"]) -> Rle:
    """COCO's compressed run lengths of a mask, as text that JSON can hold."""
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def encode_nuimages(mask: Bool[np.ndarray, "h w"]) -> Rle:
    """The same as nuImages writes it: once more through base64."""
    rle = encode(mask)
    return {"size": rle["size"], "counts": base64.b64encode(rle["counts"].encode("ascii")).decode("ascii")}


def coco_rows(
    image: int, masks: Bool[np.ndarray, "k h w"], labels: Int[np.ndarray, " k"]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The masks of an image, those that are not empty, as COCO's annotations; each with its index."""
    for index in np.flatnonzero(masks.any(axis=(1, 2))).tolist():
        yield (
            index,
            {
                "image_id": image,
                "category_id": int(labels[index]) + 1,
                # Without a bounding box: pycocotools would take the area of a result from that.
                "segmentation": encode(masks[index]),
                "area": int(masks[index].sum()),
            },
        )


def paint(
    segmentations: Sequence[Segmentation], size: tuple[int, int], small_first: bool = False
) -> UInt8[np.ndarray, "h w"]:
    """Who owns each pixel of an image: one more than the index of the first mask on it, 0 nobody.

    Run by run, which costs what masks' outlines are long, not what images are large.

    Args:
        segmentations: The masks, 255 at most.
        size: Height and width of the image.
        small_first: The smallest mask on a pixel owns it instead.

    Raises:
        ValueError: A segmentation is neither COCO's run lengths, compressed or not, nor polygons, or of another size.
    """
    runs = [_runs(segmentation, size) for segmentation in segmentations]
    order = sorted(range(len(runs)), key=lambda i: (-sum(runs[i][1::2]), -i)) if small_first else range(len(runs))[::-1]
    owner = np.zeros(math.prod(size), dtype=np.uint8)
    for index in order:
        ends = np.cumsum(runs[index]).tolist()
        for start, end in zip(ends[::2], ends[1::2], strict=False):
            owner[start:end] = index + 1
    # Runs go down the columns.
    return owner.reshape(size[::-1]).T.copy()


def _runs(segmentation: Segmentation, size: tuple[int, int]) -> list[int]:
    """Lengths of the runs outside and inside a mask, by turns, all pixels of the image together."""
    if isinstance(segmentation, Mapping):
        stated, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(stated, list | tuple) or tuple(stated) != size:
            raise ValueError(f"a mask of size {stated} (height, width); the image has {list(size)}")
    else:
        # pycocotools trusts what it is given with its memory.
        _check_polygons(segmentation, size)
        counts = coco.merge(coco.frPyObjects(segmentation, *size))["counts"]
    runs: Any = _decompressed(counts) if isinstance(counts, str | bytes) else counts
    well_formed = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not well_formed or sum(runs) != math.prod(size):
        raise ValueError(f"the run lengths of a mask do not add up to {math.prod(size)} pixels")
    return list(runs)


def _check_polygons(polygons: Any, size: tuple[int, int]) -> None:
    reach = 2 * max(size)
    if not isinstance(polygons, list) or not polygons:
        raise ValueError("a mask is not in COCO's format: it is neither run lengths nor a list of polygons")
    for corners in polygons:
        numbers = isinstance(corners, list) and all(type(place) in (int, float) for place in corners)
        if (
            not numbers
            or len(corners) < 6
            or len(corners) % 2
            or not all(-reach <= place <= reach for place in corners)
        ):
            raise ValueError("a polygon of a mask is not a list x, y, x, y, ... of three or more corners in the image")


def _decompressed(counts: str | bytes) -> list[int]:
    """COCO's compressed run lengths: five bits a character, the lowest first; from the fourth on differences."""
    runs: list[int] = []
    value = shift = 0
    for character in counts if isinstance(counts, bytes) else counts.encode("utf-8"):
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"run lengths of a mask contain {chr(character)!r}, which is not one of COCO's characters")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the run lengths of a mask end in the middle of a number")
    return runs


def from_nuimages(mask: Mapping[str, Any]) -> Rle:
    """A mask as nuImages' tables hold it, as COCO writes it; ValueError where it is none."""
    try:
        return {"size": mask["size"], "counts": base64.b64decode(mask["counts"], validate=True)}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a mask is not in nuImages' format: {error!r}") from error


def box_around(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Bounding box of a mask that is not empty: left, top, right, bottom; the last two are the last pixels' own."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


MAX_INSTANCES = 255
"""Of an image: what a byte can number."""
