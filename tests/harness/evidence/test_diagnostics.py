"""Frames of the diagnostics from run folders made by hand: means and differences worked out, gaps left out."""

import math
from dataclasses import replace

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from harness.diagnose.alignment import Alignment
from harness.diagnose.latency import Latency
from harness.evaluate.intervals import Analysis, Count, keep_analysis, kept_analysis
from harness.evidence import diagnostics
from harness.evidence.diagnostics import alignment_frame, breakdown_frame, progress_frame, terms_frame
from harness.evidence.results import costs
from harness.evidence.runs import StudyRuns
from harness.report import figures_diagnostics
from harness.report.figures_diagnostics import terms_figure
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
                taught |= {"map_gradient/feature": 1.0, "map_cosine/feature": 0.5 - row.seed - step / 100}
                taught |= {"weight_gradient/feature": 0.0, "weight_cosine/feature": 0.0}
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


def test_terms_have_their_share_and_the_cosines_that_there_are(plan, runs):
    frame = terms_frame(StudyRuns.open(plan, runs))
    feature = frame[(frame["term"] == "feature") & (frame["seed"] == 1)].set_index("bin")
    assert len(feature) == 20
    assert feature["step"].tolist() == [2 * bin_ + 0.5 for bin_ in range(20)]
    assert feature["share"].tolist() == [0.25] * 10 + [0.75] * 10
    assert feature["map_cosine"][0] == pytest.approx(-0.5)
    assert feature["map_cosine"][10] == pytest.approx(-0.7)
    assert feature["map_cosine"].notna().sum() == 2
    # It does not reach the weights.
    assert feature["weight_cosine"].isna().all()
    boxes = frame[(frame["term"] == "boxes") & (frame["role"] == "baseline")]
    assert set(boxes["share"]) == {0.2}
    assert boxes["map_cosine"].isna().all()


def test_progress_is_the_baselines_loss_less_the_students(plan, runs):
    weight = plan.detector_spec(next(row.job for row in plan.rows if row.role == "student")).detector.head.box_weight
    frame = progress_frame(StudyRuns.open(plan, runs)).set_index("bin")
    # The control sees more steps, and has none.
    assert set(frame["role"]) == {"student"}
    assert set(frame["seeds"]) == {2}
    # First half: 0 and 0.4 of the boxes' loss; second: 1 and 0.2.
    assert frame["gain"][3] == pytest.approx(0.2 * weight)
    assert frame["gain_std"][3] == pytest.approx(0.4 * weight / math.sqrt(2))
    assert frame["gain"][15] == pytest.approx(0.6 * weight)
    assert (frame["baseline"] - frame["student"]).tolist() == pytest.approx(frame["gain"].tolist())


def test_losses_of_other_batches_are_not_subtracted(plan, runs, folder):
    log = folder("student", 1).path / "metrics.jsonl"
    log.write_text(log.read_text().replace('"batch": 39,', '"batch": 1000,'))
    assert len(progress_frame(StudyRuns.open(plan, runs))) == 0


def test_breakdown_has_both_and_the_paired_difference_with_its_interval(plan, runs):
    frame = breakdown_frame(StudyRuns.open(plan, runs))
    student = frame[frame["role"] == "student"].set_index("name")
    car = student.loc["car"]
    # Points 24 and 32 against 20 and 30; differences 3, 5, 3 in the split and the draws, as in the table's test.
    assert (car["student"], car["baseline"], car["difference"]) == pytest.approx((28, 25, 3))
    reach = 2.201 * math.sqrt(2) * math.sqrt(SCENES / (SCENES - 1))
    assert (car["low"], car["high"]) == pytest.approx((3 - reach, 3 + reach), abs=0.01)
    assert (car["annotations"], car["scenes"], car["seeds"]) == (99, SCENES, 2)
    assert student.loc["missed", "difference"] == pytest.approx(1.5)
    assert student.loc["missed", "scenes"] == SCENES
    assert math.isnan(student.loc["bus", "low"])  # of two scenes
    assert set(student["group"]) == {"what errors cost", "class", "distance"}
    assert set(frame["role"]) == {"student", "control"}


def test_arm_that_lacks_a_seed_or_began_otherwise_has_no_breakdown(plan, runs, folder):
    folder("student", 1).analysis.write_bytes(b"half a file")
    assert set(breakdown_frame(StudyRuns.open(plan, runs))["role"]) == {"control"}
    control = folder("control", 0)
    control.complete(replace(control.result(), began={"weights": "others", "batches": "1 2"}))
    assert len(breakdown_frame(StudyRuns.open(plan, runs))) == 0


def test_analyses_of_other_draws_are_not_paired(plan, runs, folder):
    kept = kept_analysis(folder("student", 0).analysis)
    groups = {group: {name: drawn[:2] for name, drawn in numbers.items()} for group, numbers in kept.groups.items()}
    keep_analysis(folder("student", 0).analysis, replace(kept, groups=groups))
    assert set(breakdown_frame(StudyRuns.open(plan, runs))["role"]) == {"control"}


def test_a_run_that_must_not_be_believed_counts_nowhere(plan, runs, folder):
    (folder("student", 1).path / "result.json").write_text('{"metrics": {"mAP": 0.1')
    opened = StudyRuns.open(plan, runs)
    for name in ("progress", "breakdown"):
        assert "student" not in set(getattr(diagnostics, f"{name}_frame")(opened)["role"])
    for name in ("terms", "alignment"):
        frame = getattr(diagnostics, f"{name}_frame")(opened)
        assert set(frame[frame["role"] == "student"]["seed"]) == {0}
    assert [cost.seeds for cost in costs(opened) if cost.role == "student"] == [1]


def test_alignment_has_the_students_beside_its_baselines(plan, runs, folder):
    frame = alignment_frame(StudyRuns.open(plan, runs))
    low = frame[(frame["level"] == "low") & (frame["region"] == "foreground")].set_index("seed")
    assert low["baseline"].tolist() == [0.1, 0.1]
    assert low["student"].tolist() == pytest.approx([0.3, 0.4])
    assert low["cells"].tolist() == [7, 7]
    assert frame[frame["region"] == "background"]["student"].isna().all()
    teacher = next(row.job for row in plan.rows if row.role == "teacher")
    folder("baseline", 0).alignment(teacher).unlink()
    frame = alignment_frame(StudyRuns.open(plan, runs)).set_index("seed")
    assert frame.loc[0, "baseline"].isna().all()
    assert len(frame) == 8


def test_latency_is_in_the_table_of_costs(plan, runs, folder):
    def latency():
        (cost,) = (cost for cost in costs(StudyRuns.open(plan, runs)) if cost.role == "student")
        return cost.latency_ms

    assert latency() == pytest.approx(10.5)
    for seed in (0, 1):
        folder("student", seed).latency.unlink()
    assert math.isnan(latency())


def _figures(plan, runs):
    opened = StudyRuns.open(plan, runs)
    terms, breakdown = diagnostics.terms_frame(opened), diagnostics.breakdown_frame(opened)
    return {
        "terms": figures_diagnostics.terms_figure(terms),
        "cosines": figures_diagnostics.cosines_figure(terms, "map"),
        "progress": figures_diagnostics.progress_figure(diagnostics.progress_frame(opened)),
        "alignment": figures_diagnostics.alignment_figure(diagnostics.alignment_frame(opened)),
        "errors": figures_diagnostics.errors_figure(breakdown),
        "classes": figures_diagnostics.classes_figure(breakdown),
        "distances": figures_diagnostics.distances_figure(breakdown),
    }


def test_nothing_stored_is_empty_frames_with_columns_and_figures_that_say_so(plan, tmp_path):
    for name in ("terms", "progress", "alignment", "breakdown"):
        frame = getattr(diagnostics, f"{name}_frame")(StudyRuns.open(plan, tmp_path / "none"))
        assert len(frame) == 0
        assert list(frame.columns) == [*diagnostics.KEYS, *getattr(diagnostics, name.upper())]
    for figure in _figures(plan, tmp_path / "none").values():
        assert any("nothing is known" in text.get_text() for text in figure.texts)
        figure.savefig(tmp_path / "empty.svg")


def test_figures_are_transparent_and_their_text_is_of_one_colour(plan, runs, tmp_path):
    for name, figure in _figures(plan, runs).items():
        figure.savefig(tmp_path / f"{name}.svg")
        assert figure.axes, name
        assert figure.get_facecolor()[3] == 0
        texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
        assert {to_hex(text.get_color()) for text in texts} == {INK}, name
        assert all(axes.patch.get_alpha() == 0 for axes in figure.axes)
        assert len({text.get_text() for text in texts}) > 3


def test_shares_are_stacked_the_detection_terms_below(plan, runs):
    frame = terms_frame(StudyRuns.open(plan, runs))
    assert isinstance(frame, pd.DataFrame)
    axes = terms_figure(frame).axes[0]
    # Heatmap 50 %, boxes 20 %, feature 25 % or 75 %: the top of the last area.
    tops = axes.collections[-1].get_paths()[0].vertices
    assert tops[:, 1].max() == pytest.approx(145)
    assert [area.get_label() for area in axes.collections] == ["heatmap", "boxes", "feature"]
