"""Loops over tiles of maps for numba: the sums by which a convolution goes to Winograd's domain and comes back.

Tiles begin every 4 pixels, and each has 6 x 6 numbers in that domain.
"""

from functools import partial

import numpy as np

from detectors.loops import ANY_ORDER, compiled


@partial(compiled, fastmath=ANY_ORDER)
def spread(maps: np.ndarray, matrix: np.ndarray, pad: int, channels: int, numbers: np.ndarray) -> None:
    """Each tile's pixels, combined by a matrix along the columns and along the rows of the tile.

    Args:
        maps: (b, h, w channels).
        matrix: (6, taps): 4 or 6 pixels a side to 6 numbers a side.
        pad: Pixels that a tile begins before its place; outside of the map they are 0.
        channels: Of the maps.
        numbers: (36, b tiles, channels), which is filled.
    """
    samples, height, length = maps.shape
    taps = matrix.shape[1]
    down, across = (height + 3) // 4, (length // channels + 3) // 4
    lines = np.empty((6, (4 * across + 2) * channels), maps.dtype)
    tile = 0
    for sample in range(samples):
        for y in range(down):
            lines[:] = 0
            for tap in range(taps):
                row = 4 * y - pad + tap
                if 0 <= row < height:
                    source = maps[sample, row]
                    for i in range(6):
                        factor = matrix[i, tap]
                        if factor != 0:
                            line = lines[i, pad * channels : pad * channels + length]
                            for c in range(length):
                                line[c] += factor * source[c]
            for x in range(across):
                for i in range(6):
                    pixels = lines[i, 4 * x * channels : (4 * x + taps) * channels].reshape((taps, channels))
                    p0, p1, p2, p3 = pixels[0], pixels[1], pixels[2], pixels[3]
                    for k in range(6):
                        target = numbers[6 * i + k, tile]
                        f0, f1, f2, f3 = matrix[k, 0], matrix[k, 1], matrix[k, 2], matrix[k, 3]
                        if taps == 4:
                            for c in range(channels):
                                target[c] = (f0 * p0[c] + f1 * p1[c]) + (f2 * p2[c] + f3 * p3[c])
                        else:
                            p4, p5, f4, f5 = pixels[4], pixels[5], matrix[k, 4], matrix[k, 5]
                            for c in range(channels):
                                one = f0 * p0[c] + f1 * p1[c] + f2 * p2[c]
                                target[c] = one + (f3 * p3[c] + f4 * p4[c] + f5 * p5[c])
                tile += 1


@partial(compiled, fastmath=ANY_ORDER)
def collect(numbers: np.ndarray, matrix: np.ndarray, pad: int, channels: int, maps: np.ndarray) -> None:
    """The transpose of `spread`: numbers of the tiles combined to pixels, which are added up where tiles overlap.

    Args:
        numbers: (36, b tiles, channels).
        matrix: (6, taps), as there.
        pad: As there.
        channels: Of the maps.
        maps: (b, h, w channels) of zeros, which are filled.
    """
    samples, height, length = maps.shape
    taps = matrix.shape[1]
    down, across = (height + 3) // 4, (length // channels + 3) // 4
    lines = np.empty((6, (4 * across + 2) * channels), maps.dtype)
    first, last = pad * channels, pad * channels + length
    tile = 0
    for sample in range(samples):
        for y in range(down):
            lines[:] = 0
            for x in range(across):
                for i in range(6):
                    n0, n1, n2 = numbers[6 * i, tile], numbers[6 * i + 1, tile], numbers[6 * i + 2, tile]
                    n3, n4, n5 = numbers[6 * i + 3, tile], numbers[6 * i + 4, tile], numbers[6 * i + 5, tile]
                    for tap in range(taps):
                        line = lines[i, (4 * x + tap) * channels : (4 * x + tap + 1) * channels]
                        f0, f1, f2 = matrix[0, tap], matrix[1, tap], matrix[2, tap]
                        f3, f4, f5 = matrix[3, tap], matrix[4, tap], matrix[5, tap]
                        for c in range(channels):
                            line[c] += (f0 * n0[c] + f1 * n1[c] + f2 * n2[c]) + (f3 * n3[c] + f4 * n4[c] + f5 * n5[c])
                tile += 1
            l0, l1, l2 = lines[0, first:last], lines[1, first:last], lines[2, first:last]
            l3, l4, l5 = lines[3, first:last], lines[4, first:last], lines[5, first:last]
            for tap in range(taps):
                row = 4 * y - pad + tap
                if 0 <= row < height:
                    target = maps[sample, row]
                    f0, f1, f2 = matrix[0, tap], matrix[1, tap], matrix[2, tap]
                    f3, f4, f5 = matrix[3, tap], matrix[4, tap], matrix[5, tap]
                    for c in range(length):
                        target[c] += (f0 * l0[c] + f1 * l1[c] + f2 * l2[c]) + (f3 * l3[c] + f4 * l4[c] + f5 * l5[c])
