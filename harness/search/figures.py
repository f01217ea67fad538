"""Draws a search with Optuna: history, fields, pairs of fields, importances and the trade-off."""

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib import rc_context
from matplotlib.figure import Figure
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from harness.runs.folder import atomic_write
from harness.style import BLUE, INK, new_figure, plain, quiet

FORMATS = ("png", "svg")
_PANEL = (4.2, 3.2)
"""Inches of one of several axes."""


def draw(study: optuna.Study, objectives: tuple[str, ...], importances: Mapping[str, float], out: Path) -> list[str]:
    """Draw all that the finished trials are enough for; the pictures' names, to which FORMATS are the suffixes.

    Args:
        study: The search.
        objectives: Names of its values; of two, all pictures but the trade-off are of the first.
        importances: How much each field matters; empty where they are not known.
        out: Folder.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 2:
        return []
    fields = [key for key in complete[0].params if len({str(trial.params.get(key)) for trial in complete}) > 1]
    first: dict[str, Any] = {"target_name": objectives[0]}
    if len(objectives) > 1:
        first["target"] = lambda trial: trial.values[0]
    wanted: dict[str, Callable[[], Any]] = {"history": lambda: plots.plot_optimization_history(study, **first)}
    if fields:
        wanted["slice"] = lambda: plots.plot_slice(study, params=fields, **first)
    if len(fields) > 1:
        wanted["contour"] = lambda: plots.plot_contour(study, params=fields, **first)
    if importances:
        wanted["importance"] = lambda: _bars(importances, objectives[0])
    if len(objectives) == 2:
        wanted["pareto"] = lambda: plots.plot_pareto_front(study, target_names=list(objectives))
    for name, plot in wanted.items():
        # Optuna sets a style for all that is drawn later in the process.
        with rc_context(), warnings.catch_warnings():
            # Every one of Optuna's functions says that it is experimental.
            warnings.simplefilter("ignore")
            _save(plot(), out / name)
    return list(wanted)


def _bars(importances: Mapping[str, float], objective: str) -> Any:
    figure = new_figure(6, 0.8 + 0.4 * len(importances), ground="white")
    axes = figure.subplots()
    names = list(importances)[::-1]
    axes.barh([plain(name) for name in names], [importances[name] for name in names], color=BLUE)
    axes.set_xlabel(plain(f"importance for {objective}"), color=INK)
    quiet(axes, "x")
    return axes


def _save(drawn: Any, path: Path) -> None:
    """Write one or several axes of a figure as files in all formats."""
    axes = np.atleast_1d(np.asarray(drawn, dtype=object))
    figure: Figure = axes.ravel()[0].get_figure()
    if axes.size > 1:
        rows, columns = axes.shape if axes.ndim == 2 else (1, axes.size)
        figure.set_size_inches(_PANEL[0] * columns, _PANEL[1] * rows)
        # Makes room for Optuna's colour bar, too.
        figure.set_layout_engine("constrained")
    for kind in FORMATS:
        content = io.BytesIO()
        # Without a date, equal searches draw equal files.
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(content, format=kind, dpi=120, bbox_inches="tight", metadata=metadata)
        atomic_write(path.with_suffix(f".{kind}"), content.getvalue())
