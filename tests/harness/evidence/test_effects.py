"""From trainings to claims: which rows are held against each other, and what may be said of them and of a paper."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness.evidence.effects import agreement, attributions, foremost, gains, groups, unlike, verdict
from harness.evidence.line import Key, Outcome
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import Draws, StudyRuns
from harness.evidence.statistics import Effect, Spread
from harness.report.tables import attribution_table, p_text, verdicts_table
from harness.study.load import load_study
from harness.study.papers import PublishedGain
from harness.study.plan import plan_study


def effect(value, error, seeds=3):
    """Of many degrees of freedom, so that an interval is the value and 1.96 errors to both sides."""
    return Effect(value, Spread(error**2, 10_000, 0.0, 0), seeds, 0)


def in_mAP(ascribed):
    """The parts in mAP."""
    return [each.part for each in ascribed if each.metric == "mAP"]


@pytest.mark.parametrize(
    ("value", "adjusted", "seeds", "said"),
    [
        (3.0, 0.01, 3, "significant (better)"),
        (-3.0, 0.01, 3, "significant (worse)"),
        (3.0, 0.2, 3, "significant before correction"),
        (-3.0, 0.2, 3, "significant before correction"),
        (1.0, 1.0, 3, "not significant"),
        (3.0, 0.01, 1, "significant (better)"),
        (3.0, 0.2, 1, "significant before correction"),
        (1.0, 1.0, 1, "not significant"),
    ],
)
def test_verdicts(value, adjusted, seeds, said):
    assert verdict(effect(value, 1.0, seeds), adjusted) == said


def test_nothing_is_said_of_what_nothing_is_known():
    assert verdict(Effect.unknown(), math.nan) == ""


@pytest.mark.parametrize(
    ("value", "published", "said"),
    [
        (3.0, 2.5, "same sign, inside our 95 % CI"),
        (3.0, 8.0, "same sign"),
        (1.0, 2.5, "inconclusive"),
        (-3.0, 2.5, "opposite sign"),
        (-3.0, -2.5, "same sign, inside our 95 % CI"),
        (3.0, "up", "same sign"),
        (3.0, "down", "opposite sign"),
        (1.0, "up", "inconclusive"),
        (3.0, 0.0, ""),
    ],
)
def test_against_a_paper(value, published, said):
    gain = PublishedGain(path="lidar->camera", losses=("feature",), mAP=published, mark="read")
    assert agreement(effect(value, 1.0), gain, "mAP") == said


@pytest.mark.parametrize("mark", ["uncertain", "recalled"])
def test_what_was_not_read_for_certain_is_judged_by_nobody(mark):
    gain = PublishedGain(path="lidar->camera", losses=("feature",), mAP=2.5, mark=mark)
    assert agreement(effect(3.0, 1.0), gain, "mAP") == ""
    assert agreement(effect(3.0, 1.0), None, "mAP") == ""
    read = PublishedGain(path="lidar->camera", losses=("feature",), NDS=2.5, mark="read")
    assert agreement(effect(3.0, 1.0), read, "mAP") == ""


BASELINE = {"mAP": [20.0, 21.0, 19.0], "NDS": [25.0, 25.5, 24.5]}


def trained(arms, unpaired=(), missing=(), split=""):
    """Outcomes of a camera's baseline and of arms by name: mAP by seed; NDS is half of what mAP gains more."""
    given = []
    for arm, values in {"baseline": BASELINE["mAP"], **arms}.items():
        for seed, value in enumerate(values):
            gone = (arm, seed) in missing
            nds = BASELINE["NDS"][seed] + (value - BASELINE["mAP"][seed]) / 2
            is_baseline = arm == "baseline"
            role, path = ("baseline", "") if is_baseline else ("student", "lidar->camera")
            given.append(
                Outcome(
                    key=Key(role, "camera", path, arm, arm, split),
                    seed=seed,
                    job=f"{arm}{seed}{split}",
                    baseline="" if is_baseline else f"baseline{seed}{split}",
                    metrics={"mAP": math.nan, "NDS": math.nan} if gone else {"mAP": value, "NDS": nds},
                    gains={},
                    parameters=1,
                    published={},
                    missing="failed" if gone else "",
                    unpaired="began otherwise" if (arm, seed) in unpaired else "",
                    warning="",
                    machine="",
                    draws=None,
                )
            )
    return given


def with_draws(given):
    """The same outcomes in 50 draws of 30 scenes."""
    random = np.random.default_rng(0)
    return [
        replace(each, draws=Draws({m: np.append(v, random.normal(v, 1, 50)) for m, v in each.metrics.items()}, 30))
        for each in given
    ]


def renamed(given, before, after):
    """The same outcomes, of which some are those of another arm's trainings."""
    return [replace(each, job=re.sub(rf"^{before}(?=\d)", after, each.job)) for each in given]


ARMS = {"good": [24.0, 25.5, 23.5], "same": [20.5, 20.5, 19.5], "bad": [17.0, 17.5, 15.5]}


def gains_table(given):
    """A row for each line and metric."""
    return pd.DataFrame(
        {**key._asdict(), "metric": metric, **vars(gain), "gain": gain.mean.value, "mean": None}
        for key, of in gains(groups(given), {}).items()
        for metric, gain in of.items()
    )


def test_gains_are_over_the_baseline_and_share_what_seeds_leave_over():
    found = gains_table(trained(ARMS)).set_index(["arm", "metric"])
    assert found.loc[("good", "mAP"), "gain"] == pytest.approx((4 + 4.5 + 4.5) / 3)
    reach = found["high"] - found["low"]
    assert reach.xs("mAP", level="metric").round(9).nunique() == 1  # of all arms together
    assert found.loc[("good", "mAP"), "verdict"] == "significant (better)"
    assert found.loc[("bad", "NDS"), "verdict"] == "significant (worse)"
    assert found.loc[("same", "mAP"), "verdict"] == "not significant"
    assert (found["holm"] >= found["p"]).all()
    assert found["detectable"].xs("mAP", level="metric").nunique() == 1


def test_an_arm_that_lacks_a_seed_or_began_otherwise_has_no_gain_and_disturbs_no_other():
    whole = gains_table(trained({"good": ARMS["good"], "same": ARMS["same"]})).set_index(["arm", "metric"])
    for spoilt in ({"missing": [("bad", 1)]}, {"unpaired": [("bad", 1)]}):
        found = gains_table(trained(ARMS, **spoilt)).set_index(["arm", "metric"])
        pd.testing.assert_frame_equal(found, whole)


def test_no_gain_without_its_baseline():
    found = gains_table(trained(ARMS, missing=[("baseline", 0)]))
    assert found["gain"].isna().all()
    assert (found["verdict"] == "").all()


def test_two_arms_of_the_same_trainings_are_one():
    twice = trained({"good": ARMS["good"], "again": ARMS["good"], "same": ARMS["same"]})
    twice = renamed(twice, "again", "good")
    once = gains_table(trained({"good": ARMS["good"], "same": ARMS["same"]})).set_index(["arm", "metric"])
    found = gains_table(twice).set_index(["arm", "metric"])
    assert found.loc[("again", "mAP"), "p"] == pytest.approx(once.loc[("good", "mAP"), "p"])


def test_rows_on_further_splits_are_no_result_and_no_part_of_the_family():
    both = gains_table(trained(ARMS) + trained(ARMS, split="synthetic_train"))
    on_train = both[both["split"] != ""]
    assert on_train["holm"].isna().all()
    assert (on_train["verdict"] == "").all()
    assert on_train["p"].notna().all()
    own = gains_table(trained(ARMS))
    assert both[both["split"] == ""]["holm"].tolist() == pytest.approx(own["holm"].tolist())


def test_scenes_count_only_where_every_training_has_its_draws():
    drawn = with_draws(trained(ARMS))
    assert (gains_table(drawn)["scenes"] == 30).all()
    drawn[3] = replace(drawn[3], draws=None)
    assert (gains_table(drawn)["scenes"] == 0).all()


def test_an_arm_that_spreads_more_is_told():
    (group,) = groups(trained(ARMS))
    assert group.blocks["mAP"].unlike() == {}
    wild = {f"arm {number}": [20.1, 21.0 + number / 7, 19.0] for number in range(8)} | {"wild": [10.0, 40.0, 19.0]}
    lines = unlike(groups(trained(wild)))
    assert any(line.startswith("lidar->camera wild: its seeds vary more") for line in lines)
    assert all(line.endswith("so its 95 % CI is too short and those of the others are too long.") for line in lines)


def test_a_baseline_that_spreads_more_is_told_of_all_gains_over_it():
    alike = {f"arm {number}": [10.0, 40.0 + number / 7, 19.0] for number in range(8)}
    lines = unlike(groups(trained(alike)))
    assert lines[0].startswith("camera baseline: its seeds vary more in mAP than those of other arms")
    assert lines[0].endswith("the 95 % CIs of all gains over it are too short.")


STUDY = """\
schedule: {steps: 5}
teachers: {lidar: {preset: tiny_lidar}}
students: {camera: {preset: tiny_camera}}
paths: [lidar->camera]
losses: {feature: {weight: 1}, response: {weight: 1}}
arms: {all_combinations: [feature, response]}
seeds: [0, 1, 2]
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    return load_study(tmp_path / "study.yaml")


def test_attribution_of_a_factorial_study(study):
    values = {"feature": [22.0, 23.5, 21.5], "response": [21.0, 22.0, 20.5], "feature+response": [26.0, 27.0, 25.5]}
    found = attributions(groups(trained(values)), study)
    assert {each.path for each in found} == {"lidar->camera"}
    effects = {(part.kind, part.what): part.effect.value for part in in_mAP(found)}
    # Means 20, 22.33, 21.17, 26.17.
    assert effects["main effect", ("feature",)] == pytest.approx((7 / 3 + 5) / 2)
    assert effects["interaction", ("feature", "response")] == pytest.approx(5 - 7 / 3)
    assert effects["Shapley value", ("feature",)] == pytest.approx((7 / 3 + 5) / 2)
    table = attribution_table(found)
    assert [row[1].text for row in table.rows][:2] == ["main effect of feature", "main effect of response"]
    assert any("all orders" in note for note in table.notes)


def test_a_missing_arm_leaves_what_the_others_tell(study):
    values = {"feature": [22.0, 23.5, 21.5], "response": [21.0, 22.0, 20.5], "feature+response": [26.0, 27.0, 25.5]}
    found = attributions(groups(trained(values, missing=[("response", 2)])), study)
    assert [(part.kind, part.what, part.to) for part in in_mAP(found)] == [
        ("added", ("response",), ("feature",)),
    ]


def test_one_seed_ascribes_nothing_to_a_loss(study):
    values = {"feature": [22.0], "response": [21.0], "feature+response": [26.0]}
    of_one = [each for each in trained(values) if each.seed == 0]
    for given, said in (
        (of_one, "Their 95 % CI is unknown"),
        (with_draws(of_one), "95 % CI over scenes. p (Holm): corrected"),
    ):
        notes = " ".join(attribution_table(attributions(groups(given), study)).notes)
        assert said in notes
        assert "One seed: the interval covers the choice of validation scenes only." in notes
        assert "seeds and scenes" not in notes


def test_sets_of_losses_that_are_the_same_trainings_cancel(tmp_path):
    """On this path the variant has the fields of the loss that it is a variant of."""
    (tmp_path / "study.yaml").write_text(
        STUDY.replace("response: {weight: 1}", "again: {loss: feature, weight: 1}").replace("response", "again")
    )
    given = trained({"feature": [22.0, 23.5, 21.5], "again": [22.0, 23.5, 21.5], "feature+again": [26.0, 27.0, 25.5]})
    compared = groups(renamed(given, "again", "feature"))
    found = attributions(compared, load_study(tmp_path / "study.yaml"))
    effects = {(part.kind, part.what): part.effect for part in in_mAP(found)}
    # Means 20, 22.33, 22.33, 26.17.
    assert effects["main effect", ("feature",)].value == pytest.approx(((67 / 3 - 20) + (78.5 - 67) / 3) / 2)
    assert effects["interaction", ("feature", "again")].value == pytest.approx(78.5 / 3 + 20 - 2 * 67 / 3)
    # The arm that is there twice counts twice: weights 1, -2, 1.
    square, _ = compared[0].blocks["mAP"].residual
    assert effects["interaction", ("feature", "again")].spread.seeds == pytest.approx(6 * square / 3)


def test_nothing_finished_is_no_table(study, tmp_path):
    given = outcomes(StudyRuns.open(plan_study(study, "data", int), tmp_path / "none"))
    assert attributions(groups(given), study) == []
    assert attribution_table([]) is None
    assert verdicts_table(summary(given), study) is None


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.5, "0.50"),
        (0.0496, "0.0496"),
        (0.0504, "0.0504"),
        (0.049, "0.049"),
        (0.0012, "0.0012"),
        (0.0003, "0.0003"),
        (1e-9, "< 0.0001"),
    ],
)
def test_p_values_as_they_are_read(p, text):
    assert p_text(p) == text


def test_what_was_read_for_certain_comes_before_what_was_not():
    one = PublishedGain(path="lidar->camera", losses=("feature",), mAP=2.5, mark="uncertain")
    other = PublishedGain(path="lidar->camera", losses=("feature",), mAP=1.5, mark="read")
    assert foremost({"A": one, "B": other}) == ("B", other)
    assert foremost({"A": one}) == ("A", one)
    assert foremost({}) == ("", None)
