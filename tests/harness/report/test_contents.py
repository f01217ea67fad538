"""What the page says follows from the table, and says so little where little is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.evaluate.intervals import write_draws
from harness.evidence.line import HEADLINE_METRICS, Gain, Key, Line, Mean
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.report.contents import headlines
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
    assert not any("One seed" in line for line in found)


def test_what_is_missing_comes_first(told):
    found = told(missing=[("student", 1)])
    assert found[0] == "1 of 3 rows have no result yet."


def test_one_seed_speaks_of_no_loss(told, planned, folder):
    (student,) = (row.job for row in planned.plan.rows if (row.role, row.seed) == ("student", 0))
    drawn = np.array([0.352, 0.36, 0.34, 0.35, 0.37])
    write_draws(RunFolder(folder / "runs" / student).draws, dict.fromkeys(("mAP", "NDS"), drawn), 12)
    found = told(seeds=[0])
    assert found[0].startswith("Most NDS gains lidar->camera unidistill: +5.1 mAP [")
    assert "One seed: all of it is about these trained models, and nothing about a loss." in found
    assert not any("could have seen" in line for line in found)


def test_headlines_count_what_the_table_says(planned):
    def line(number, verdicts):
        gain = Gain(Mean(1.0 + number, 0.1), low=0.5, high=0.5, detectable=1.3)
        gains = {
            metric: replace(gain, verdict=verdict) for metric, verdict in zip(("mAP", "NDS"), verdicts, strict=True)
        }
        gains["NDS"] = replace(gains["NDS"], agreement="no evidence" if number else "")
        key = Key("student", "camera", "lidar->camera", f"arm {number}", "", "")
        return Line(key, {}, gains, 12, 2, 5, {}, "", "", "", "", ())

    verdicts = [("higher", "not told apart"), ("higher, looked at alone", "lower")]
    found = headlines([line(number, pair) for number, pair in enumerate(verdicts)], planned.study)
    assert found[0] == "Most NDS gains lidar->camera arm 1: +2.0 mAP [+0.5, +0.5], +2.0 NDS [+0.5, +0.5]."
    assert found[1] == (
        "Of 4 gains, 1 are higher and 1 lower than 0 after all of them were looked at; "
        "1 more would be, looked at alone."
    )
    assert found[2] == "The smallest gain of the camera that this study could have seen: 1.3 mAP, 1.3 NDS."
    assert found[3] == "Against what papers report, where that was read for certain: no evidence 1."
