"""Loops over the view transform for numba, which cannot compile functions with checked types."""

from functools import partial

import numpy as np

from detectors.compiled import ANY_ORDER, compiled


@compiled
def find_cells(
    ray: np.ndarray,
    origin: np.ndarray,
    depth: np.ndarray,
    low: np.ndarray,
    cell: float,
    z_range: np.ndarray,
    cells: np.ndarray,
    columns: int,
    rows: int,
) -> None:
    """The BEV cell of each depth bin of each feature, or -1 off the grid; each step rounds as torch rounds it.

    Args:
        ray: (n, features, 3): what one metre along the optical axis adds to a position.
        origin: (n, 3): where each camera hangs.
        depth: (d,): metres along the optical axis.
        low: (2,): where the grid begins, x and y.
        cell: Side of a cell.
        z_range: (2,): bottom and top.
        cells: int32 (n, features, d), which is filled.
        columns: Of the grid.
        rows: Of the grid.
    """
    for n in range(ray.shape[0]):
        for feature in range(ray.shape[1]):
            for d in range(len(depth)):
                x = (ray[n, feature, 0] * depth[d] + origin[n, 0] - low[0]) / cell
                y = (ray[n, feature, 1] * depth[d] + origin[n, 1] - low[1]) / cell
                z = ray[n, feature, 2] * depth[d] + origin[n, 2]
                if x >= 0 and x < columns and y >= 0 and y < rows and z >= z_range[0] and z < z_range[1]:
                    cells[n, feature, d] = np.int32(y) * columns + np.int32(x)
                else:
                    cells[n, feature, d] = -1


@partial(compiled, fastmath=ANY_ORDER)
def add_weighted(rows: np.ndarray, weights: np.ndarray, cell: np.ndarray, total: np.ndarray) -> None:
    """Add to each cell the rows of the features that fall into it, weighed.

    Args:
        rows: (features, c).
        weights: (features, d).
        cell: int32 (features, d): where each depth of a feature falls, -1 for nowhere.
        total: (cells, c), which is added to.
    """
    features, depths = cell.shape
    for feature in range(features):
        row = rows[feature]
        d = 0
        while d < depths:
            at, weight = cell[feature, d], weights[feature, d]
            d += 1
            # Neighbouring bins of a ray often share a cell.
            while d < depths and cell[feature, d] == at:
                weight += weights[feature, d]
                d += 1
            if at >= 0:
                target = total[at]
                for c in range(len(row)):
                    target[c] += weight * row[c]


@partial(compiled, fastmath=ANY_ORDER)
def weighted_gradients(
    grad: np.ndarray,
    rows: np.ndarray,
    weights: np.ndarray,
    cell: np.ndarray,
    grad_rows: np.ndarray,
    grad_weights: np.ndarray,
) -> None:
    """Both gradients of `add_weighted` from that of its sums, in one pass over the terms.

    Args:
        grad: (cells, c).
        rows: As there.
        weights: As there.
        cell: As there.
        grad_rows: (features, c) of zeros, which are filled.
        grad_weights: (features, d) of zeros, which are filled.
    """
    features, depths = cell.shape
    for feature in range(features):
        row, grad_row = rows[feature], grad_rows[feature]
        d = 0
        while d < depths:
            first, at, weight = d, cell[feature, d], weights[feature, d]
            d += 1
            while d < depths and cell[feature, d] == at:
                weight += weights[feature, d]
                d += 1
            if at >= 0:
                source = grad[at]
                product = rows.dtype.type(0)
                for c in range(len(row)):
                    product += source[c] * row[c]
                    grad_row[c] += weight * source[c]
                for same in range(first, d):
                    grad_weights[feature, same] = product
