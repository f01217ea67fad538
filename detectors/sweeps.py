"""SweepSpec: which LiDAR sweeps before the keyframe's a detector reads, and what of them."""

from typing import Self

from pydantic import Field, model_validator

from detectors.spec import Spec


class SweepSpec(Spec):
    """How the sweeps before a keyframe are read. At the defaults: the nearest ones, as many as there are."""

    pool: int = Field(default=0, ge=0)
    """In training, the sweeps are drawn at random from so many nearest ones, anew each time (mmdetection3d: 10). 0:
    they are the nearest. After training they always are."""
    fill: bool = False
    """Whether the oldest sweep is repeated where a scene has too few before a keyframe (CenterPoint, UniDistill)."""
    near: bool = False
    """Whether returns within a metre of the sensor, mostly from the ego car, stay (UniDistill)."""

    @model_validator(mode="after")
    def _drawn_sweeps_are_different_ones(self) -> Self:
        if self.pool and self.fill:
            raise ValueError(
                "of sweeps that are drawn at random (pool), none is repeated (fill); leave one of them out"
            )
        return self
