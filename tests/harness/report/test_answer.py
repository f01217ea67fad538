"""The answer follows from the table, and says little where little is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.evaluate.intervals import write_draws
from harness.evidence.line import HEADLINE_METRICS, Gain, Key, Line, Mean
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.report.answer import headlines
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
    assert found[0] == "1 of 3 rows have no result yet."


def test_one_seed_speaks_of_no_loss(told, planned, folder):
    (student,) = (row.job for row in planned.plan.rows if (row.role, row.seed) == ("student", 0))
    drawn = np.array([0.352, 0.36, 0.34, 0.35, 0.37])
    write_draws(RunFolder(folder / "runs" / student).draws, dict.fromkeys(("mAP", "NDS"), drawn), 12)
    found = told(seeds=[0])
    assert found[0].startswith("1 of 1 distilled rows gains NDS significantly (Holm, 95 %): lidar->camera unidistill;")
    assert found[0].endswith("1 seed, so intervals cover the choice of validation scenes only.")
    assert not any("detectable" in line for line in found)


def test_headlines_count_what_the_table_says(planned):
    def line(number, verdicts):
        gain = Gain(Mean(1.0 + number, 0.1), low=0.5, high=0.5, detectable=1.3)
        gains = {
            metric: replace(gain, verdict=verdict) for metric, verdict in zip(("mAP", "NDS"), verdicts, strict=True)
        }
        gains["NDS"] = replace(gains["NDS"], agreement="inconclusive" if number else "")
        key = Key("student", "camera", "lidar->camera", f"arm {number}", "", "")
        return Line(key, 5, {}, "", "", "", "", {}, gains, 12, 2, ())

    verdicts = [
        ("not significant", "significant (better)"),
        ("significant (better)", "significant (worse)"),
        ("not significant", "significant (better)"),
    ]
    found = headlines([line(number, pair) for number, pair in enumerate(verdicts)], planned.study)
    assert found[0] == (
        "2 of 3 distilled rows gain NDS significantly (Holm, 95 %): lidar->camera arm 0, lidar->camera arm 2; "
        "1 loses: lidar->camera arm 1; largest gain: lidar->camera arm 2 +3.0 pp [+0.5, +0.5]; 2 seeds."
    )
    assert found[1] == "Minimum detectable effect in NDS (80 % power): camera 1.3 pp."
    assert found[2] == "Compared with published gains that were read for certain: 2 inconclusive."


def test_an_answer_without_intervals_does_not_speak_of_significance(planned):
    gains = {metric: Gain(Mean(1.0, 0.1)) for metric in HEADLINE_METRICS}
    key = Key("student", "camera", "lidar->camera", "arm", "", "")
    (found, *_) = headlines([Line(key, 5, {}, "", "", "", "", {}, gains, 0, 2, ())], planned.study)
    assert found.startswith("Too few seeds and scenes to test whether any of 1 distilled rows gains NDS;")
