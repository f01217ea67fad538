"""Instance masks as run lengths, in the two spellings that there are: nuImages' (base64) and COCO's."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pycocotools import mask as coco

Rle = dict[str, Any]
"""``size`` (height, width) and ``counts``, column by column."""


def encode(mask: Bool[np.ndarray, "h w"]) -> Rle:
    """COCO's compressed run lengths of a mask, as text that JSON can hold."""
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}


def encode_nuimages(mask: Bool[np.ndarray, "h w"]) -> Rle:
    """The same as nuImages writes it: once more through base64."""
    found = encode(mask)
    return {"size": found["size"], "counts": base64.b64encode(found["counts"].encode("ascii")).decode("ascii")}


def decode(segmentation: Mapping[str, Any] | Sequence[Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """COCO's run lengths, compressed or not, or polygons, as a mask of an image of this height and width.

    Raises:
        ValueError: It is none of these, or of another size.
    """
    try:
        if isinstance(segmentation, Mapping):
            stated = tuple(segmentation["size"])
            if stated != size:
                raise ValueError(
                    f"a mask of {stated[0]} x {stated[1]} (height x width), the image has {size[0]} x {size[1]}"
                )
            whole = (
                segmentation
                if isinstance(segmentation["counts"], str | bytes)
                else coco.frPyObjects(segmentation, *size)
            )
        else:
            whole = coco.merge(coco.frPyObjects(segmentation, *size))
        return coco.decode(whole).astype(bool)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"no mask in COCO's format: {error!r}") from error


def decode_nuimages(mask: Mapping[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask as nuImages' tables hold it; ValueError as `decode`."""
    try:
        counts = base64.b64decode(mask["counts"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no mask in nuImages' format: {error!r}") from error
    return decode({"size": mask["size"], "counts": counts}, size)


def paint(
    masks: Sequence[Bool[np.ndarray, "h w"]], first: Float[np.ndarray, " k"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w"]:
    """Who owns each pixel: one more than the index of the mask with the highest `first` of those on it, 0 nobody."""
    owner = np.zeros(size, dtype=np.uint8)
    for index in np.argsort(first, kind="stable"):
        owner[masks[index]] = index + 1
    return owner


def boxes_around(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Bounding box of a mask that is not empty: left, top, right, bottom; the last two are the last pixels' own."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


MAX_INSTANCES = 255
"""Of an image: what a byte can number."""
