"""Turns a study into trainings and tables. From Python, use `harness.open_study`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import Study as Study
    from harness.api import open_study as open_study

__all__ = ["Study", "open_study"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: every command imports this package, and few of them that.
    if name in __all__:
        from harness import api

        return getattr(api, name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
