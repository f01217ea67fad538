"""The pictures of a search: what Optuna draws, laid out so that nothing covers anything."""

import warnings

import matplotlib
import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from harness.search import figures

SPACE = {name: FloatDistribution(0.1, 20.0, log=True) for name in ("feature", "relation", "response")}


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for number in range(5):
        params = {name: 0.2 * (number + 1) * (shift + 1) for shift, name in enumerate(SPACE)}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=SPACE, value=20.0 + number))
    return study


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slice", "contour"])
def test_no_panel_covers_another_nor_the_colour_bar(study, tmp_path, monkeypatch, name):
    drawn = {}

    def keep(axes, path):
        save(axes, path)
        drawn[path.name] = np.ravel(axes)[0].get_figure()

    save = figures._save
    monkeypatch.setattr(figures, "_save", keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures.draw(study, ("NDS",), {}, tmp_path)
    boxes = [axes.get_position() for axes in drawn[name].axes]
    assert len(boxes) == {"slice": 3, "contour": 9}[name] + 1
    covered = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert not covered


def test_what_is_drawn_later_keeps_its_own_style(study, tmp_path):
    before = dict(matplotlib.rcParams)
    figures.draw(study, ("NDS",), {}, tmp_path)
    assert dict(matplotlib.rcParams) == before
