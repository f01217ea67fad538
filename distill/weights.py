"""The balance weights that UniDistill publishes for its four paths, by the sensors of teacher and student."""

PUBLISHED = "unidistill"
"""The value of a weight in a study that stands for the published weight of the path."""

UNIDISTILL: dict[str, dict[str, float]] = {
    "camera+lidar->lidar": {"feature": 10.0, "relation": 1.0, "response": 10.0},
    "camera+lidar->camera": {"feature": 10.0, "relation": 5.0, "response": 10.0},
    "camera->lidar": {"feature": 10.0, "relation": 5.0, "response": 1.0},
    "lidar->camera": {"feature": 100.0, "relation": 40.0, "response": 10.0},
}
"""Paper and released code agree on them. They balance that code's detection loss, not ours: defaults for full scale."""


def published_weight(loss: str, path: str) -> float:
    """The published weight of a loss on a path such as ``camera+lidar->camera``.

    Raises:
        ValueError: There is none.
    """
    try:
        return UNIDISTILL[path][loss]
    except KeyError:
        raise ValueError(
            f"UniDistill publishes no weight of loss {loss!r} for {path}; it has {', '.join(UNIDISTILL)}, "
            f"each with {', '.join(UNIDISTILL['lidar->camera'])}"
        ) from None
