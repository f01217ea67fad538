"""A number of a spec is a finite number: what only looks like one, or could be taken for one, is refused."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from detectors.spec import Spec


class Part(Spec):
    count: int = 1


class Whole(Spec):
    count: Annotated[int, Field(gt=0)] = 1
    rate: float = 1.0
    several: tuple[int, ...] = ()
    named: dict[str, float] = Field(default_factory=dict)
    either: int | Literal["paired"] | None = None
    any: bool | int | float | str | None = None
    part: Part = Part()
    flag: bool = False


@pytest.mark.parametrize("value", [True, False, "1", "0-2", "1e3", "", float("inf"), float("-inf"), float("nan"), None])
@pytest.mark.parametrize("put", ["count", "rate", "several", "named", "part"])
def test_no_look_alike_is_a_number(put, value):
    given = {"several": (2, value), "named": {"a": value}, "part": {"count": value}}.get(put, value)
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate({put: given})
    assert caught.value.errors()[0]["loc"][0] == put


@pytest.mark.parametrize("value", [True, "0-2", -0.5])
def test_nor_is_it_one_of_several_kinds(value):
    with pytest.raises(ValidationError):
        Whole(either=value)


def test_a_number_stays_what_it_is():
    spec = Whole(count=8.0, rate=2, several=[1, 2], named={"a": 3}, either="paired", flag="no")
    assert (spec.count, spec.rate, spec.several, spec.named) == (8, 2.0, (1, 2), {"a": 3.0})
    assert (spec.either, spec.flag) == ("paired", False)
    assert Whole.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("value", [True, 1, 1.5, "1", None])
def test_where_anything_may_stand_nothing_is_changed(value):
    assert Whole(any=value).any == value
    assert type(Whole(any=value).any) is type(value)
