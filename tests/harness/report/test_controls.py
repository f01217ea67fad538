"""Known answers pass where they come out, fail where they cannot, and are undecided where the study cannot say."""

from dataclasses import replace

import pytest

from harness.evidence.controls import judge_all, outcome_of
from harness.evidence.line import Gain, Mean
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.report.answer import headlines
from harness.report.controls import controls_table, marked
from harness.report.render import latex, markdown
from harness.report.tables import results_table
from harness.study.controls import ControlSpec

NAN = float("nan")
BETTER, WORSE, UNSURE = "significant (better)", "significant (worse)", "not significant"


def _gain(low, mean, high, verdict):
    return Gain(Mean(mean, 0.1), 12, low, high, p=0.01, holm=0.02, verdict=verdict)


@pytest.mark.parametrize(
    ("expect", "bounds", "gain", "outcome"),
    [
        ("gains", {"at_least": 2.0}, (1.0, 2.5, 4.0, BETTER), "passed"),
        ("gains", {"at_least": 2.0}, (1.0, 1.9, 2.8, BETTER), "undecided"),
        ("gains", {"at_least": 2.0}, (0.2, 1.0, 1.8, BETTER), "failed"),
        ("gains", {"at_least": 2.0}, (-1.0, 1.5, 4.0, UNSURE), "undecided"),
        ("gains", {}, (0.1, 0.5, 0.9, BETTER), "passed"),
        ("gains", {}, (-1.0, 0.5, 2.0, UNSURE), "undecided"),
        ("gains", {}, (-2.0, -1.0, -0.1, WORSE), "failed"),
        ("does not gain", {}, (-1.0, 0.5, 2.0, UNSURE), "passed"),
        ("does not gain", {}, (-2.0, -1.0, -0.1, WORSE), "passed"),
        ("does not gain", {}, (0.1, 0.5, 0.9, BETTER), "failed"),
        # Before correction alone, which is no gain for sure.
        ("does not gain", {}, (0.1, 0.5, 0.9, "significant before correction"), "passed"),
        ("level", {}, (-0.9, 0.1, 1.0, UNSURE), "passed"),
        ("level", {}, (-0.9, 0.1, 1.1, UNSURE), "undecided"),
        ("level", {"within": 0.5}, (0.1, 0.2, 0.5, BETTER), "passed"),
        ("level", {"within": 0.5}, (0.6, 1.0, 1.4, BETTER), "failed"),
        ("level", {"within": 0.5}, (-1.4, -1.0, -0.6, WORSE), "failed"),
    ],
)
def test_outcome(expect, bounds, gain, outcome):
    assert outcome_of(ControlSpec(row="a->b c", expect=expect, **bounds), _gain(*gain)) == outcome


@pytest.fixture
def judged(planned, folder):
    """``judged(gain, expect)``: the study with a control on its student, and what comes of it."""

    def judge(change, expect="gains", **bounds):
        control = ControlSpec(row="lidar -> camera unidistill", expect=expect, **bounds)
        study = planned.study.model_copy(update={"controls": {"known": control}})
        lines = summary(outcomes(StudyRuns.open(planned.plan, folder / "runs")))
        lines = [replace(line, gains=line.gains | change) if line.key.role == "student" else line for line in lines]
        return study, lines, judge_all(lines, study)

    return judge


def test_a_control_that_passes_says_so_and_marks_nothing(judged):
    study, lines, outcome = judged({"NDS": _gain(2.0, 5.0, 8.0, BETTER)}, at_least=2.0)
    assert outcome[0].outcome == "passed"
    assert headlines(lines, study)[0] == "Controls: 1 of 1 passed."
    assert marked(results_table(lines, study), outcome).title == "Results"
    text = markdown(controls_table(outcome))
    assert (
        "| known | lidar->camera unidistill | gains at least 2 | NDS | +5.0 ± 0.1 | [+2.0, +8.0] | 0.02 | passed |"
        in text
    )


def test_a_control_that_fails_marks_every_table_and_comes_first(judged):
    study, lines, outcome = judged({"NDS": _gain(2.0, 5.0, 8.0, BETTER)}, expect="does not gain")
    first = headlines(lines, study)[0]
    assert first.startswith("Controls: 0 of 1 passed; failed: known (+5.0 pp [+2.0, +8.0]).")
    assert "cannot be relied on" in first
    table = marked(results_table(lines, study), outcome)
    assert table.title == "Results (failed control: known)"
    assert r"\caption{Results (failed control: known)}" in latex([table])
    assert "Failed control: known." in markdown(controls_table(outcome))


@pytest.mark.parametrize(
    ("gain", "why"),
    [
        (Gain(Mean(NAN, NAN)), "too few seeds and scenes"),
        (Gain(Mean(1.0, NAN)), "too few seeds and scenes"),
        (_gain(-1.0, 0.5, 2.0, UNSURE), "its interval allows both"),
    ],
)
def test_a_control_that_nobody_can_judge_says_why(judged, gain, why):
    study, lines, outcome = judged({"NDS": gain}, at_least=1.0)
    assert (outcome[0].outcome, outcome[0].why) == ("undecided", why)
    assert headlines(lines, study)[0].startswith("Controls: 0 of 1 passed; undecided: known")
    assert f"undecided: {why}" in markdown(controls_table(outcome))


def test_a_row_without_result_leaves_it_undecided(judged, planned):
    study, lines, _ = judged({})
    gone = [replace(line, missing="not run", gains=dict.fromkeys(line.gains, Gain(Mean(NAN, NAN)))) for line in lines]
    assert judge_all(gone, study)[0].why == "not run"
    assert judge_all([], study)[0].why == "its row was not planned"


def test_a_study_without_controls_says_nothing_of_them(judged, planned):
    _, lines, _ = judged({})
    assert judge_all(lines, planned.study) == []
    assert controls_table([]) is None
    assert not any("Controls" in sentence for sentence in headlines(lines, planned.study))
