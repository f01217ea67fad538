"""What a search writes down of its confirmation: means, gains with the intervals of the evidence, and optimism."""

import math

import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from harness.evidence.line import Gain, Key, Line, Mean
from harness.search.confirmation import FOUND
from harness.search.opened_search import open_search
from harness.search.report import confirmation_table, trials_table
from harness.search.trials import open_book

WEIGHT = "losses.feature.weight"
STUDY = {
    "data": {"preset": "smoke"},
    "schedule": {"steps": 4},
    "teachers": {"lidar": {"preset": "tiny_lidar", "seed": 0}},
    "students": {"radar": {"preset": "tiny_radar"}},
    "paths": ["lidar->radar"],
    "losses": {"feature": {"weight": 1.0}},
    "arms": {"one": ["feature"]},
    "search": {"space": {WEIGHT: {"low": 0.1, "high": 10.0}}, "train_split": "synthetic_train"},
}


def line(role, arm, nds, gain, missing=""):
    path, unknown = "lidar->radar" if role == "student" else "", Mean(math.nan, math.nan)
    return Line(
        key=Key(role, "radar", path, arm, "", ""),
        metrics={"mAP": unknown, "NDS": Mean(nds, 0.5)},
        gains={"mAP": Gain(unknown), "NDS": gain},
        scenes=12,
        seeds=2,
        parameters=1,
        published={},
        missing=missing,
        unpaired="",
        warning="",
        machine="",
        jobs=(),
    )


@pytest.fixture
def asked(tmp_path):
    """A search, its book with one trial, and that trial."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    opened = open_search(path, [])
    with open_book(tmp_path / "search", None, opened.search, {}) as book:
        book.study.add_trial(
            create_trial(params={WEIGHT: 2.0}, distributions={WEIGHT: FloatDistribution(0.1, 10.0)}, values=[34.0])
        )
        yield opened, book, book.study.get_trials()[0]


def test_a_confirmed_gain_has_its_interval_and_is_held_against_what_the_search_said(asked):
    opened, book, chosen = asked
    nothing = Gain(Mean(math.nan, math.nan))
    lines = [
        line("teacher", "", 60.0, nothing),
        line("baseline", "baseline", 30.0, nothing),
        line("student", FOUND, 32.5, Gain(Mean(2.5, 0.7), low=1.0, high=4.0)),
        line("student", "current", 0.0, nothing, "not run"),
    ]
    table = confirmation_table(opened, lines, book, chosen, (31.0,))
    assert table.header[2:] == ("NDS", "gain NDS", "search NDS", "optimism NDS", "optimism of gain NDS")
    rows = [tuple(cell.text for cell in row) for row in table.rows]
    assert rows == [
        ("baseline", "2", "30.0 ± 0.5", "", "31.0", "+1.0", ""),
        # The search gained 34 - 31 = 3, of which 2.5 were confirmed.
        (FOUND, "2", "32.5 ± 0.5", "+2.5 ± 0.7 [+1.0, +4.0]", "34.0", "+1.5", "+0.5"),
        ("current", "2", "not run", "", "", "", ""),
    ]
    assert "95 % CI" in table.notes[0]


def test_every_trial_has_its_values_and_the_chosen_one_says_so(asked):
    (row,) = trials_table(*asked).rows
    assert [cell.text for cell in row] == ["0", "34.00", "2", FOUND]
