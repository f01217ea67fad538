"""Loops over voxels for numba, which cannot compile functions with checked types; for CPUs.

They compute what the library has several passes, a sort or a search for. Nothing is added in another order from one
call to the next.
"""

import numpy as np

from detectors.compiled import compiled

_DIGIT = 11
"""Bits by which keys are sorted at a time: as many counters as stay in the cache."""


@compiled
def add_rows(total: np.ndarray, rows: np.ndarray, terms: np.ndarray) -> None:
    """Add each row of `terms` (p, c) to the row of `total` (v, c) that `rows` (p,) names, one after the other."""
    for p in range(len(rows)):
        row = rows[p]
        for c in range(total.shape[1]):
            total[row, c] += terms[p, c]


@compiled
def stable_order(keys: np.ndarray, limit: int) -> np.ndarray:
    """Indices that sort keys from 0 to below a limit; equal ones stay in their order.

    Args:
        keys: int64 (n,).
        limit: Decides how many passes there are.

    Returns:
        int64 (n,).
    """
    order, sorted_further = np.arange(len(keys)), np.empty(len(keys), dtype=np.int64)
    shift = 0
    while (limit - 1) >> shift > 0:
        place = np.zeros((1 << _DIGIT) + 1, dtype=np.int64)
        for key in keys:
            place[((key >> shift) & ((1 << _DIGIT) - 1)) + 1] += 1
        for digit in range(1 << _DIGIT):
            place[digit + 1] += place[digit]
        for i in order:
            digit = (keys[i] >> shift) & ((1 << _DIGIT) - 1)
            sorted_further[place[digit]] = i
            place[digit] += 1
        order, sorted_further = sorted_further, order
        shift += _DIGIT
    return order


@compiled
def distinct(keys: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The different keys, sorted, and for each key which of them it is; int64 (d,) and (n,)."""
    values, number = np.empty(len(keys), dtype=np.int64), np.empty(len(keys), dtype=np.int64)
    count = 0
    for i in stable_order(keys, limit):
        if count == 0 or values[count - 1] != keys[i]:
            values[count] = keys[i]
            count += 1
        number[i] = count - 1
    return values[:count].copy(), number


@compiled
def unravelled(cells: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Sample, z, y, x of cells that are counted over all samples of a shape; int64 (n, 4)."""
    index = np.empty((len(cells), 4), dtype=np.int64)
    for i in range(len(cells)):
        line, index[i, 3] = divmod(cells[i], shape[2])
        plane, index[i, 2] = divmod(line, shape[1])
        index[i, 0], index[i, 1] = divmod(plane, shape[0])
    return index


@compiled
def voxel_means(
    position: np.ndarray, sample: np.ndarray, others: np.ndarray, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The voxels that hold a point, and what their points are in the mean; points outside of the shape are dropped.

    Args:
        position: float (p, 3): z, y, x in voxels.
        sample: int64 (p,).
        others: float (p, c): more columns to take the mean of.
        shape: Voxels of a sample.

    Returns:
        int64 (v, 4): sample, z, y, x, sorted; float (v, 3 + c): x, y, z from the middle of the voxel in voxels, and the
        other columns; int64 (v,): points.
    """
    points, cells = np.empty(len(position), dtype=np.int64), np.empty(len(position), dtype=np.int64)
    count, samples = 0, 1
    for p in range(len(position)):
        z, y, x = position[p]
        if 0 <= z < shape[0] and 0 <= y < shape[1] and 0 <= x < shape[2]:
            points[count] = p
            cells[count] = ((sample[p] * shape[0] + int(z)) * shape[1] + int(y)) * shape[2] + int(x)
            samples = max(samples, sample[p] + 1)
            count += 1
    occupied, number = distinct(cells[:count], samples * shape[0] * shape[1] * shape[2])
    index = unravelled(occupied, shape)
    total = np.zeros((len(occupied), 3 + others.shape[1]), dtype=position.dtype)
    counts = np.zeros(len(occupied), dtype=np.int64)
    half = total.dtype.type(0.5)
    for i in range(count):
        p, voxel = points[i], number[i]
        counts[voxel] += 1
        for axis in range(3):
            total[voxel, axis] += position[p, 2 - axis] - np.floor(position[p, 2 - axis]) - half
        for c in range(others.shape[1]):
            total[voxel, 3 + c] += others[p, c]
    for voxel in range(len(total)):
        for c in range(total.shape[1]):
            total[voxel, c] /= counts[voxel]
    return index, total, counts


@compiled
def voxel_groups(
    position: np.ndarray, sample: np.ndarray, shape: tuple[int, int, int], most_points: int, most_voxels: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first voxels of each sample that hold a point, and the first points of each; others are dropped.

    Args:
        position: float (p, 3): z, y, x in voxels.
        sample: int64 (p,).
        shape: Voxels of a sample.
        most_points: Of a voxel.
        most_voxels: Of a sample.

    Returns:
        int64 (v, 4): sample, z, y, x, sorted; int64 (v, most_points): points in their order, then -1.
    """
    points, cells = np.empty(len(position), dtype=np.int64), np.empty(len(position), dtype=np.int64)
    count, samples = 0, 1
    for p in range(len(position)):
        z, y, x = position[p]
        if 0 <= z < shape[0] and 0 <= y < shape[1] and 0 <= x < shape[2]:
            points[count] = p
            cells[count] = ((sample[p] * shape[0] + int(z)) * shape[1] + int(y)) * shape[2] + int(x)
            samples = max(samples, sample[p] + 1)
            count += 1
    occupied, number = distinct(cells[:count], samples * shape[0] * shape[1] * shape[2])
    index = unravelled(occupied, shape)
    rows = np.full((len(occupied), most_points), -1, dtype=np.int64)
    filled = np.zeros(len(occupied), dtype=np.int64)
    voxels = np.zeros(samples, dtype=np.int64)
    stays = np.zeros(len(occupied), dtype=np.bool_)
    for i in range(count):
        voxel = number[i]
        if filled[voxel] == 0:
            stays[voxel] = voxels[index[voxel, 0]] < most_voxels
            voxels[index[voxel, 0]] += 1
        if filled[voxel] < most_points:
            rows[voxel, filled[voxel]] = points[i]
        filled[voxel] += 1
    return index[stays], rows[stays]


@compiled
def _end_to_end(lists: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The beginnings of lists (offsets, v), each as long as its count says, one after the other."""
    joined = np.empty(counts.sum(), dtype=np.int64)
    end = 0
    for offset in range(len(counts)):
        joined[end : end + counts[offset]] = lists[offset, : counts[offset]]
        end += counts[offset]
    return joined


@compiled
def neighbours(
    index: np.ndarray, shape: tuple[int, int, int], kernel: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of sites that lie within an odd kernel of each other: input and output rows offset by offset, and numbers.

    Args:
        index: int64 (v, 4): sample, z, y, x, sorted.
        shape: Cells of a sample.
        kernel: Its extents.

    Returns:
        int64 (p,), (p,) and (offsets,).
    """
    half_z, half_y, half_x = kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
    # Keys on a grid with a margin of half a kernel: no offset leads from one row or sample into the next.
    rows, columns = shape[1] + 2 * half_y, shape[2] + 2 * half_x
    keys = np.empty(len(index), dtype=np.int64)
    for v in range(len(index)):
        plane = index[v, 0] * (shape[0] + 2 * half_z) + index[v, 1]
        keys[v] = (plane * rows + index[v, 2]) * columns + index[v, 3]

    # A pair under an offset is the reverse of a pair under the opposite one: look up only the first half of them.
    offsets = kernel[0] * kernel[1] * kernel[2]
    middle = offsets // 2
    ins = np.empty((offsets, len(keys)), dtype=np.int64)
    outs = np.empty((offsets, len(keys)), dtype=np.int64)
    counts = np.zeros(offsets, dtype=np.int64)
    for line in range(kernel[0] * kernel[1] // 2 + 1):
        first = line * kernel[2]
        shift = ((line // kernel[1] - half_z) * rows + line % kernel[1] - half_y) * columns - half_x
        # As the keys are sorted, so are those that are looked for: no search begins anew.
        begin = 0
        for v in range(len(keys)):
            wanted = keys[v] + shift
            while keys[begin] < wanted:
                begin += 1
            at = begin
            for offset in range(first, min(first + kernel[2], middle)):
                # Written whether it counts or not: a branch that nobody can predict takes longer.
                end = counts[offset]
                ins[offset, end], outs[offset, end] = at, v
                hit = keys[at] == wanted
                counts[offset] += hit
                at += hit
                wanted += 1
    for v in range(len(keys)):
        ins[middle, v] = outs[middle, v] = v
    counts[middle] = len(keys)
    for offset in range(middle):
        opposite, count = offsets - 1 - offset, counts[offset]
        ins[opposite, :count], outs[opposite, :count] = outs[offset, :count], ins[offset, :count]
        counts[opposite] = count
    return _end_to_end(ins, counts), _end_to_end(outs, counts), counts


@compiled
def windows(
    index: np.ndarray,
    shape: tuple[int, int, int],
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The output cells that see an input site; input and output rows of the pairs offset by offset, and their numbers.

    Args:
        index: int64 (v, 4): sample, z, y, x of the input sites, sorted.
        shape: Cells of the output.
        kernel: Its extents.
        stride: In input cells.
        padding: In input cells.

    Returns:
        int64 (v_out, 4): sample, z, y, x, sorted; int64 (p,), (p,) and (offsets,).
    """
    offsets = kernel[0] * kernel[1] * kernel[2]
    rows = np.empty((offsets, len(index)), dtype=np.int64)
    cells = np.empty((offsets, len(index)), dtype=np.int64)
    counts = np.zeros(offsets, dtype=np.int64)
    for offset in range(offsets):
        kz, ky, kx = offset // (kernel[1] * kernel[2]), offset // kernel[2] % kernel[1], offset % kernel[2]
        count = 0
        for v in range(len(index)):
            z, y, x = index[v, 1] + padding[0] - kz, index[v, 2] + padding[1] - ky, index[v, 3] + padding[2] - kx
            out_z, out_y, out_x = z // stride[0], y // stride[1], x // stride[2]
            # Written whether it counts or not: a branch that nobody can predict takes longer.
            rows[offset, count] = v
            cells[offset, count] = ((index[v, 0] * shape[0] + out_z) * shape[1] + out_y) * shape[2] + out_x
            count += (
                (out_z * stride[0] == z) & (out_y * stride[1] == y) & (out_x * stride[2] == x)
                & (out_z >= 0) & (out_y >= 0) & (out_x >= 0)
                & (out_z < shape[0]) & (out_y < shape[1]) & (out_x < shape[2])
            )  # fmt: skip
        counts[offset] = count
    samples = index[-1, 0] + 1 if len(index) else 1
    occupied, number = distinct(_end_to_end(cells, counts), samples * shape[0] * shape[1] * shape[2])
    return unravelled(occupied, shape), _end_to_end(rows, counts), number, counts
