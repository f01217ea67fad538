"""Frames of the diagnostics from run folders made by hand: means and differences worked out, gaps left out."""

import math
import shutil
from dataclasses import replace

import matplotlib.text
import numpy as np
import pytest
from matplotlib.colors import to_hex

from harness.diagnose.alignment import Alignment
from harness.diagnose.latency import Latency
from harness.evaluate.intervals import Analysis, Count, keep_analysis, kept_analysis
from harness.evidence.diagnostics import (
    alignment_records,
    breakdown_records,
    progress_records,
    student_arms,
    terms_records,
    unexamined,
)
from harness.evidence.results import costs
from harness.evidence.runs import StudyRuns
from harness.report.figures_diagnostics import (
    alignment_figure,
    breakdown_figure,
    cosines_figure,
    progress_figure,
    terms_figure,
)
from harness.runs.folder import Result, RunFolder
from harness.runs.small_files import keep_model
from harness.study.load import load_study
from harness.study.plan import plan_study
from harness.style import INK

STUDY = """\
# Are the frames right?
schedule: {steps: 40}
teachers:
  lidar: {preset: tiny_lidar, seed: 0}
students:
  camera: {preset: tiny_camera, longer_baseline: 1.5}
paths: [lidar->camera]
losses:
  feature: {weight: 1}
arms:
  feature: [feature]
seeds: [0, 1]
"""
SCENES = 12
# By role and seed: the loss of boxes, which differs alone, over the first and over the second half.
LOSSES = {
    ("baseline", 0): (3.0, 2.0),
    ("baseline", 1): (3.0, 2.0),
    ("student", 0): (3.0, 1.0),
    ("student", 1): (2.6, 1.8),
}
# AP in the split and in two draws, as fractions.
DRAWN = {
    ("baseline", 0): [0.20, 0.20, 0.20],
    ("baseline", 1): [0.30, 0.20, 0.30],
    ("student", 0): [0.24, 0.26, 0.22],
    ("student", 1): [0.32, 0.24, 0.34],
}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return plan_study(load_study(path), "data", int)


@pytest.fixture
def runs(plan, tmp_path):
    """Folders of all jobs, with what they keep."""
    teacher = next(row.job for row in plan.rows if row.role == "teacher")
    for row in plan.rows:
        folder = RunFolder(tmp_path / "runs" / row.job)
        folder.write("job.json", {})
        halves = LOSSES.get((row.role, row.seed), (1.0, 1.0))
        for step in range(60 if row.role == "control" else 40):
            boxes = halves[step >= 20]
            taught = {} if row.role != "student" else {"share/feature": 0.25 if step < 20 else 0.75}
            if taught and step % 20 == 0:
                taught |= {"weight_gradient/feature": 1.0, "weight_cosine/feature": 0.5 - row.seed - step / 100}
            raw = {"raw/heatmap": 1.0, "raw/boxes": boxes, "share/heatmap": 0.5, "share/boxes": 0.2}
            folder.log_step(step, {"batch": step, "seconds": 0.1, **raw, **taught})
        values = np.array(DRAWN.get((row.role, row.seed), [0.5, 0.5, 0.5]))
        groups = {
            "what errors cost": {"missed": values / 2},
            "class": {"car": values, "bus": values},
            "distance": {"0-4 m": values},
        }
        counts = {"class": {"car": Count(99, SCENES), "bus": Count(3, 2)}, "distance": {"0-4 m": Count(50, SCENES)}}
        keep_analysis(folder.analysis, Analysis(SCENES, groups, counts))
        keep_model(folder.latency, Latency(milliseconds=10.0 + row.seed, samples=20, device="cpu (x)", threads=1))
        alike = 0.1 if row.role == "baseline" else 0.3 + row.seed / 10
        cka = {level: {"foreground": alike, "background": None} for level in ("low", "high")}
        cells = {"foreground": 7, "background": 93}
        if row.role in ("baseline", "student"):
            keep_model(folder.alignment(teacher), Alignment(weights=("a", "b"), samples=5, cells=cells, cka=cka))
        began = {"weights": f"weights {row.seed}", "batches": "1 2"}
        folder.complete(Result({"mAP": 0.1, "NDS": 0.1}, 5, 60.0, {}, began=began if row.role != "teacher" else {}))
    return tmp_path / "runs"


@pytest.fixture
def folder(plan, runs):
    """``folder(role, seed)``."""
    return lambda role, seed: RunFolder(
        runs / next(row.job for row in plan.rows if (row.role, row.seed) == (role, seed))
    )


def made(collect, plan, folder):
    """The records of all arms."""
    return collect(StudyRuns.open(plan, folder), student_arms(plan))


def test_terms_have_their_share_and_the_cosines_that_there_are(plan, runs):
    frame = made(terms_records, plan, runs).frame
    feature = frame[(frame["term"] == "feature") & (frame["seed"] == 1)].reset_index()
    assert feature["step"].tolist() == [2 * part + 0.5 for part in range(20)]
    assert feature["share"].tolist() == [0.25] * 10 + [0.75] * 10
    assert feature["cosine"][0] == pytest.approx(-0.5)
    assert feature["cosine"][10] == pytest.approx(-0.7)
    assert feature["cosine"].notna().sum() == 2
    boxes = frame[frame["term"] == "boxes"]
    assert set(boxes["share"]) == {0.2}
    assert boxes["cosine"].isna().all()


def test_progress_is_the_baselines_loss_less_the_students(plan, runs):
    weight = plan.detector_spec(next(row.job for row in plan.rows if row.role == "student")).detector.head.box_weight
    frame = made(progress_records, plan, runs).frame
    assert set(frame["arm"]) == {"feature"}
    # First half: 0 and 0.4 of the boxes' loss; second: 1 and 0.2.
    assert frame["gain"][3] == pytest.approx(0.2 * weight)
    assert frame["gain_std"][3] == pytest.approx(0.4 * weight / math.sqrt(2))
    assert frame["gain"][15] == pytest.approx(0.6 * weight)


def test_losses_of_other_batches_are_not_subtracted(plan, runs, folder):
    log = folder("student", 1).path / "metrics.jsonl"
    log.write_text(log.read_text().replace('"batch": 39,', '"batch": 1000,'))
    assert len(made(progress_records, plan, runs)) == 0


def test_breakdown_has_both_and_the_paired_difference_with_its_interval(plan, runs):
    frame = made(breakdown_records, plan, runs).frame
    student = frame.set_index("name")
    car = student.loc["car"]
    # Points 24 and 32 against 20 and 30; differences 3, 5, 3 in the split and the draws, as in the table's test.
    assert (car["student"], car["baseline"], car["difference"]) == pytest.approx((28, 25, 3))
    reach = 2.201 * math.sqrt(2) * math.sqrt(SCENES / (SCENES - 1))
    assert (car["low"], car["high"]) == pytest.approx((3 - reach, 3 + reach), abs=0.01)
    assert student.loc["missed", "difference"] == pytest.approx(1.5)
    assert not math.isnan(student.loc["missed", "low"])
    assert math.isnan(student.loc["bus", "low"])  # of two scenes
    assert set(student["group"]) == {"what errors cost", "class", "distance"}
    assert set(frame["arm"]) == {"feature"}


def test_arm_that_lacks_a_seed_has_no_breakdown(plan, runs, folder):
    folder("student", 1).analysis.write_bytes(b"half a file")
    assert len(made(breakdown_records, plan, runs)) == 0


def test_arm_that_began_otherwise_has_no_breakdown(plan, runs, folder):
    student = folder("student", 0)
    student.complete(replace(student.result(), began={"weights": "others", "batches": "1 2"}))
    assert len(made(breakdown_records, plan, runs)) == 0


def test_analyses_of_other_draws_are_not_paired(plan, runs, folder):
    kept = kept_analysis(folder("student", 0).analysis)
    groups = {group: {name: drawn[:2] for name, drawn in numbers.items()} for group, numbers in kept.groups.items()}
    keep_analysis(folder("student", 0).analysis, replace(kept, groups=groups))
    assert len(made(breakdown_records, plan, runs)) == 0


def test_a_run_that_must_not_be_believed_counts_nowhere(plan, runs, folder):
    (folder("student", 1).path / "result.json").write_text('{"metrics": {"mAP": 0.1')
    for collect in (progress_records, breakdown_records):
        assert len(made(collect, plan, runs)) == 0
    for collect in (terms_records, alignment_records):
        assert set(made(collect, plan, runs).column("seed")) == {0}
    assert [cost.seeds for cost in costs(StudyRuns.open(plan, runs)) if cost.role == "student"] == [1]


def test_alignment_has_the_students_beside_its_baselines(plan, runs, folder):
    frame = made(alignment_records, plan, runs).frame
    low = frame[(frame["level"] == "low") & (frame["region"] == "foreground")].set_index("seed")
    assert low["baseline"].tolist() == [0.1, 0.1]
    assert low["student"].tolist() == pytest.approx([0.3, 0.4])
    assert frame[frame["region"] == "background"]["student"].isna().all()
    teacher = next(row.job for row in plan.rows if row.role == "teacher")
    folder("baseline", 0).alignment(teacher).unlink()
    frame = made(alignment_records, plan, runs).frame.set_index("seed")
    assert frame.loc[0, "baseline"].isna().all()
    assert len(frame) == 8


def test_what_is_not_examined_is_counted_and_named(plan, runs, folder):
    def lacking():
        return [*unexamined(StudyRuns.open(plan, runs)).values()]

    assert lacking() == [([], 4), ([], 2)]
    teacher = next(row.job for row in plan.rows if row.role == "teacher")
    folder("student", 1).alignment(teacher).unlink()
    folder("baseline", 0).analysis.unlink()
    assert lacking() == [(["camera · baseline · seed 0"], 4), (["lidar->camera · feature · seed 1"], 2)]
    # What has no result could have neither.
    shutil.rmtree(folder("student", 1).path)
    assert lacking() == [(["camera · baseline · seed 0"], 2), ([], 1)]


def test_latency_is_in_the_table_of_costs(plan, runs, folder):
    def latency():
        (cost,) = (cost for cost in costs(StudyRuns.open(plan, runs)) if cost.role == "student")
        return cost.latency_ms

    assert latency() == pytest.approx(10.5)
    for seed in (0, 1):
        folder("student", seed).latency.unlink()
    assert math.isnan(latency())


def test_nothing_stored_is_empty_frames(plan, tmp_path):
    for collect in (terms_records, progress_records, alignment_records, breakdown_records):
        assert len(made(collect, plan, tmp_path / "none")) == 0


def test_figures_are_transparent_and_their_text_is_of_one_colour(plan, runs, tmp_path):
    terms = made(terms_records, plan, runs)
    for figure in (
        terms_figure(terms),
        cosines_figure(terms),
        progress_figure(made(progress_records, plan, runs)),
        alignment_figure(made(alignment_records, plan, runs)),
        breakdown_figure(made(breakdown_records, plan, runs), "AP by class"),
    ):
        figure.savefig(tmp_path / "figure.svg")
        assert figure.axes
        assert figure.get_facecolor()[3] == 0
        texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
        assert {to_hex(text.get_color()) for text in texts} == {INK}
        assert all(axes.patch.get_alpha() == 0 for axes in figure.axes)
        assert len({text.get_text() for text in texts}) > 3


def test_shares_are_stacked_the_detection_terms_below(plan, runs):
    axes = terms_figure(made(terms_records, plan, runs)).axes[0]
    # Heatmap 50 %, boxes 20 %, feature 25 % or 75 %: the top of the last area.
    tops = axes.collections[-1].get_paths()[0].vertices
    assert tops[:, 1].max() == pytest.approx(145)
    assert [area.get_label() for area in axes.collections] == ["heatmap", "boxes", "feature"]
