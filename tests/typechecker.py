"""The checker that jaxtyping's import hook applies to every annotated function of ours in the test run."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

# The hook decorates methods one by one, and beartype knows what Self is only when it decorates the class.
check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))
