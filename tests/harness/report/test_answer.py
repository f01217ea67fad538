"""The answer follows from the table, and says little where little is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.evaluate.intervals import write_draws
from harness.evidence.line import HEADLINE_METRICS, Gain, Key, Line, Mean
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.report.answer import answer, headlines
from harness.runs.folder import RunFolder


@pytest.fixture
def told(planned, folder):
    """``told(missing)``: the headlines of the study, of two seeds or one, without some of its results."""

    def told(missing=(), seeds=(0, 1)):
        trained = [each for each in outcomes(StudyRuns.open(planned.plan, folder / "runs")) if each.seed in seeds]
        gone = {"missing": "not run", "gains": dict.fromkeys(HEADLINE_METRICS, math.nan)}
        trained = [
            replace(each, **gone, metrics=dict.fromkeys(each.metrics, math.nan))
            if (each.key.role, each.seed) in missing
            else each
            for each in trained
        ]
        study = planned.study.model_copy(update={"seeds": tuple(seeds)})
        return headlines(summary(trained), study)

    return told


def test_headlines_of_two_seeds(told):
    found = told()
    # 35.2 against 30.1 for both seeds; scenes move student and baseline alike, seeds not at all.
    assert not any("no result yet" in line for line in found)
    assert found[-1] == "These are numbers of the embedded synthetic world, not of nuScenes."
    assert not any("validation scenes only" in line for line in found)


def test_what_is_missing_comes_first(told):
    found = told(missing=[("student", 1)])
    assert found[0] == "1 of 3 rows has no result yet."


def test_one_seed_speaks_of_no_loss(told, planned, folder):
    (student,) = (row.job for row in planned.plan.rows if (row.role, row.seed) == ("student", 0))
    drawn = np.array([0.352, 0.36, 0.34, 0.35, 0.37])
    write_draws(RunFolder(folder / "runs" / student).draws, dict.fromkeys(("mAP", "NDS"), drawn), 12)
    found = told(seeds=[0])
    assert found[0].startswith("The 1 distilled row gains NDS significantly (Holm, 95 %): lidar->camera unidistill;")
    assert found[0].endswith("1 seed, so intervals cover the choice of validation scenes only.")
    assert not any("detectable" in line for line in found)


BETTER, WORSE, UNSURE = "significant (better)", "significant (worse)", "not significant"


def row(name, gain, verdict, agreement="", role="student"):
    """A line whose gain in NDS is given, with the verdict of it; `name` is a path or a model, and an arm."""
    of, _, arm = name.partition(" ")
    gains = {metric: Gain(Mean(gain, 0.1), 12, 0.5, 0.5, detectable=1.3, verdict=UNSURE) for metric in HEADLINE_METRICS}
    gains["NDS"] = replace(gains["NDS"], verdict=verdict, agreement=agreement)
    path, model = (of, of.partition("->")[2]) if "->" in of else ("", of)
    return Line(Key(role, model, path, arm, "", ""), 5, {}, "", "", "", "", {}, gains, 12, 2, ())


def test_headlines_count_what_the_table_says(planned):
    rows = [
        row("lidar->camera arm 0", 1.0, BETTER),
        row("lidar->camera arm 1", 2.0, WORSE, "inconclusive"),
        row("lidar->camera arm 2", 3.0, BETTER, "inconclusive"),
    ]
    found = headlines(rows, planned.study)
    assert found[0] == (
        "2 of 3 distilled rows gain NDS significantly (Holm, 95 %): lidar->camera arm 0, lidar->camera arm 2; "
        "1 loses: lidar->camera arm 1; largest gain in NDS: lidar->camera arm 2 +3.0 pp [+0.5, +0.5]; 2 seeds."
    )
    assert found[1] == "Minimum detectable effect in NDS (80 % power): camera 1.3 pp."
    assert found[2] == "Compared with published gains that were read for certain: 2 inconclusive."


def test_controls_are_no_distilled_rows_and_have_their_own_clause(planned):
    longer = row("camera baseline, 1.3 x steps", 2.1, BETTER, role="control")
    distilled = row("lidar->camera arm", 1.0, UNSURE)
    assert answer([longer, distilled], planned.study) == (
        "The 1 distilled row does not gain NDS significantly (Holm, 95 %); control: camera baseline, 1.3 x steps gains "
        "+2.1 pp; largest gain in NDS: lidar->camera arm +1.0 pp [+0.5, +0.5]; 2 seeds."
    )
    # One that shows nothing is no finding.
    assert "control" not in answer([replace(longer, gains=distilled.gains), distilled], planned.study)
    untrained = planned.study.teachers["lidar"].model_copy(update={"trained": False})
    study = planned.study.model_copy(update={"teachers": {"lidar": untrained}})
    assert answer([longer, row("lidar->camera arm", -5.6, WORSE)], study) == (
        "Controls: camera baseline, 1.3 x steps gains +2.1 pp, lidar->camera arm loses 5.6 pp; 2 seeds."
    )


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (1, "1 of 6 distilled rows gains NDS significantly (Holm, 95 %): lidar->camera a0;"),
        (4, ": lidar->camera a0, lidar->camera a1, lidar->camera a2, lidar->camera a3;"),
        (5, ": lidar->camera a0, lidar->camera a1, lidar->camera a2 and 2 more;"),
    ],
)
def test_few_rows_are_all_named_and_more_never_means_one(planned, count, names):
    rows = [row(f"lidar->camera a{number}", 1.0 + number, BETTER if number < count else UNSURE) for number in range(6)]
    assert names in answer(rows, planned.study)


@pytest.mark.parametrize(
    ("gains", "largest"),
    [
        (
            (2.26, 2.34, 1.0),
            "largest gains in NDS: lidar->camera a0 +2.3 pp [+0.5, +0.5], lidar->camera a1 +2.3 pp [+0.5, +0.5];",
        ),
        ((0.01,) * 5, "largest gain in NDS: +0.0 pp, of 5 rows;"),
    ],
)
def test_rows_that_show_the_same_number_have_the_largest_gain_together(planned, gains, largest):
    rows = [row(f"lidar->camera a{number}", gain, UNSURE) for number, gain in enumerate(gains)]
    assert largest in answer(rows, planned.study)


def test_an_answer_without_intervals_does_not_speak_of_significance(planned):
    gains = {metric: Gain(Mean(1.0, 0.1)) for metric in HEADLINE_METRICS}
    key = Key("student", "camera", "lidar->camera", "arm", "", "")
    (found, *_) = headlines([Line(key, 5, {}, "", "", "", "", {}, gains, 0, 2, ())], planned.study)
    assert found.startswith("Too few seeds and scenes to test whether the 1 distilled row gains NDS;")
