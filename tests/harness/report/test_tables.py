"""A table cell is a mean over seeds, a gain is against the same seed's baseline, and what is missing says why."""

import csv
import dataclasses
import io
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from harness.evaluate.intervals import write_draws
from harness.evidence.attribution import Part
from harness.evidence.effects import Ascribed
from harness.evidence.line import Gain, Mean
from harness.evidence.results import costs, outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.evidence.statistics import Effect, Spread
from harness.report import render
from harness.report.answer import headlines
from harness.report.render import markdown_table, show
from harness.report.tables import published_table, results_table, verdicts_table
from harness.report.write import rounded, write
from harness.runs.folder import Result, RunFolder
from harness.study.load import load_study
from harness.study.papers import PublishedGain, read_paper
from harness.study.plan import plan_study
from tests.harness.report.lines import line

STUDY = """\
# Is the table right?
schedule: {steps: 5}
teachers:
  lidar: {preset: tiny_lidar}
students:
  camera: {preset: tiny_camera}
paths: [lidar->camera]
losses:
  feature: {weight: 1}
arms:
  feature: [feature]
seeds: [0, 1]
"""

ERRORS = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")

# mAP and NDS by row and seed, chosen by hand.
NUMBERS = {
    ("teacher", 0): (0.60, 0.50),
    ("baseline", 0): (0.20, 0.30),
    ("baseline", 1): (0.30, 0.30),
    ("student", 0): (0.24, 0.29),
    ("student", 1): (0.32, 0.31),
}


def of_role(lines, role):
    """The only line of that role."""
    (line,) = (line for line in lines if line.key.role == role)
    return line


def markdown(lines, study, papers=()):
    return "\n".join(map(render.markdown, [results_table(lines, study), *map(published_table, papers)]))


def latex(lines, study):
    return render.latex([results_table(lines, study)])


def print_table(lines, study, console):
    show(results_table(lines, study), console)


def write_tables(lines, spent, study, out):
    write(out, [results_table(lines, study)], lines, spent, [])


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return load_study(path)


@pytest.fixture
def plan(study):
    return plan_study(study, "data", int)


@pytest.fixture
def finish(plan, tmp_path):
    def finish(except_=()):
        for row in plan.rows:
            folder = RunFolder(tmp_path / "runs" / row.job)
            if (row.role, row.seed) in except_:
                folder.fail("FloatingPointError: loss 'feature' is nan", wrong_input=False)
                continue
            mean_ap, nds = NUMBERS[row.role, row.seed]
            errors = dict.fromkeys(ERRORS, 0.5)
            folder.write("job.json", {})
            for step, seconds in enumerate((0.5, 0.1, 0.2)):
                folder.log_step(step, {"seconds": seconds})
            metrics, machine = {"mAP": mean_ap, "NDS": nds, **errors}, {"peak_memory_mb": str(500 + row.seed)}
            folder.complete(Result(metrics, 1234, 60.0 + 60 * row.seed, machine, cpu_seconds=90.0))
        return tmp_path / "runs"

    return finish


def test_gain_is_the_mean_of_paired_differences(plan, finish):
    student = of_role(summary(outcomes(StudyRuns.open(plan, finish()))), "student")
    # By hand: gains of 4 and 2 points mAP, of -1 and +1 NDS.
    assert student.seeds == 2
    assert student.metrics["mAP"].value == pytest.approx(28)
    assert student.metrics["mAP"].std == pytest.approx(math.sqrt(32))
    assert student.gains["mAP"].mean.value == pytest.approx(3)
    assert student.gains["mAP"].mean.std == pytest.approx(math.sqrt(2))
    assert student.gains["NDS"].mean.value == pytest.approx(0)
    assert student.metrics["mATE"].value == pytest.approx(0.5)


def test_a_gain_has_its_interval_over_scenes(plan, study, finish):
    runs = finish()
    # The split, and two draws; by role and seed. Gains in points: 4, 6, 2 and 2, 4, 4, in the mean 3, 5, 3.
    drawn = {
        ("baseline", 0): [0.20, 0.20, 0.20],
        ("baseline", 1): [0.30, 0.20, 0.30],
        ("student", 0): [0.24, 0.26, 0.22],
        ("student", 1): [0.32, 0.24, 0.34],
    }
    for row in plan.rows:
        values = drawn.get((row.role, row.seed))
        if values is not None:
            write_draws(RunFolder(runs / row.job).draws, dict.fromkeys(("mAP", "NDS"), np.array(values)), 12)
    table = summary(outcomes(StudyRuns.open(plan, runs)))
    student = of_role(table, "student")
    # The gains of seeds, 4 and 2, vary by 2, their mean by 1, with one degree of freedom: Student's 12.706. The draws
    # of single seeds vary by 8 and 0, those of the mean by 2: no more than seeds that differ by themselves give.
    reach = 12.706
    assert student.gains["mAP"].low == pytest.approx(3 - reach, abs=0.01)
    assert student.gains["mAP"].high == pytest.approx(3 + reach, abs=0.01)
    text = markdown(table, study)
    assert "+3.0 ± 1.4 [-9.7, +15.7]" in text
    assert "95 % CI of the mean gain over seeds and scenes" in text
    assert math.isnan(of_role(table, "baseline").gains["mAP"].low)


def test_runs_without_draws_have_intervals_over_seeds_alone(plan, study, finish):
    text = markdown(summary(outcomes(StudyRuns.open(plan, finish()))), study)
    # Gains of 4 and 2: a variance of 1 for the mean of two, and 12.706 for one degree of freedom.
    assert "| +3.0 ± 1.4 [-9.7, +15.7] |" in text
    assert "over seeds only, because there are fewer than 10 scenes or a run has no bootstrap draws" in text


def test_row_with_a_failed_seed_says_why_and_has_no_number(plan, study, finish):
    table = summary(outcomes(StudyRuns.open(plan, finish(except_=[("student", 1)]))))
    student = of_role(table, "student")
    assert math.isnan(student.metrics["mAP"].value)
    assert "loss 'feature' is nan" in student.missing
    assert "loss 'feature' is nan" in markdown(table, study)


def test_a_line_that_lacks_some_seeds_says_how_many_it_has(plan, finish, tmp_path):
    runs = finish()
    first, second = (row.job for row in plan.rows if row.role == "student")
    shutil.rmtree(runs / first)
    assert of_role(summary(outcomes(StudyRuns.open(plan, runs))), "student").missing == "1 of 2 seeds"
    shutil.rmtree(runs / second)
    assert of_role(summary(outcomes(StudyRuns.open(plan, runs))), "student").missing == "not run"
    failed = of_role(summary(outcomes(StudyRuns.open(plan, finish(except_=[("student", 1)])))), "student")
    assert failed.missing.startswith("failed: ")


def test_failed_baseline_leaves_the_student_without_a_gain(plan, finish):
    trained = outcomes(StudyRuns.open(plan, finish(except_=[("baseline", 1)])))
    student = next(each for each in trained if (each.key.role, each.seed) == ("student", 1))
    assert student.metrics["mAP"] == pytest.approx(32)
    assert math.isnan(student.gains["mAP"])
    # Nor does the mean over seeds pretend to one: it would be over one seed and be taken for two.
    line = of_role(summary(trained), "student")
    assert line.metrics["mAP"].value == pytest.approx(28)
    assert math.isnan(line.gains["mAP"].mean.value)
    assert math.isnan(line.gains["mAP"].mean.std)


def test_markdown_shows_mean_and_spread(plan, study, finish):
    text = markdown(summary(outcomes(StudyRuns.open(plan, finish()))), study)
    assert "| camera baseline | 2 | 25.0 ± 7.1 | **30.0 ± 0.0** |" in text
    assert "| lidar->camera feature | 2 | **28.0 ± 5.7** | **30.0 ± 1.4** |" in text
    assert "not of nuScenes" in text


def test_equal_results_give_equal_files(plan, study, finish, tmp_path):
    runs = finish()
    for name in ("a", "b"):
        opened = StudyRuns.open(plan, runs)
        write_tables(summary(outcomes(opened)), costs(opened), study, tmp_path / name)
    for file in ("table.md", "table.tex", "table.csv", "cost.md", "cost.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert str(tmp_path) not in (tmp_path / "a" / file).read_text()


def test_costs_are_means_over_the_finished_seeds(plan, study, finish, tmp_path):
    runs = finish(except_=[("student", 0)])
    opened = StudyRuns.open(plan, runs)
    write_tables(summary(outcomes(opened)), costs(opened), study, tmp_path / "tables")
    text = (tmp_path / "tables" / "cost.md").read_text()
    # Two baselines of 1 and 2 minutes; the median step of 0.5, 0.1 and 0.2 s; the larger memory.
    assert "| camera baseline | 2 | 1,234 |  | 200 | 1.5 | 1.5 | 501 |" in text
    assert "| lidar->camera feature | 1 | 1,234 |  | 200 | 2.0 | 1.5 | 501 |" in text


def test_nothing_finished_costs_nothing_and_every_row_says_why(plan, study, tmp_path):
    runs = StudyRuns.open(plan, tmp_path / "none")
    assert costs(runs) == []
    write_tables(summary(outcomes(runs)), [], study, tmp_path / "tables")
    assert (tmp_path / "tables" / "cost.csv").read_text().startswith("role,model,path,arm,seeds,parameters,latency_ms,")
    assert not (tmp_path / "tables" / "attribution.csv").exists()
    assert "CPU minutes" in (tmp_path / "tables" / "cost.md").read_text()
    assert (tmp_path / "tables" / "table.tex").read_text().count("not run") == 3


def test_an_attribution_has_a_file_which_goes_with_it(plan, study, finish, tmp_path):
    lines = summary(outcomes(StudyRuns.open(plan, finish())))
    part = Part("added", ("feature",), (), Effect(1.0, Spread(0.0, 0, 0.0, 0), 2, 0))
    write(tmp_path, [], lines, [], [Ascribed("lidar->camera", "mAP", part, math.nan)])
    assert (tmp_path / "attribution.csv").read_text().startswith("path,kind,what,to,metric,effect,low,")
    write(tmp_path, [], lines, [], [])
    assert not (tmp_path / "attribution.csv").exists()


def test_terminal_shows_every_number_however_narrow_it_is(plan, study, finish):
    out = io.StringIO()
    print_table(summary(outcomes(StudyRuns.open(plan, finish()))), study, Console(file=out, width=40))
    assert "…" not in out.getvalue()
    assert "28.0 ± 5.7" in out.getvalue()


PAPER = """\
{name: A, title: B, venue: C 2023, arxiv: D, notes: [Read with care.],
 gains: [{path: lidar->camera, losses: [feature], mAP: 2.5, NDS: 2.25, mark: uncertain},
         {path: camera->lidar, losses: [feature], mAP: 9.0, NDS: 9.0, mark: read}],
 rows: [{label: a student, dataset: nuScenes test, mAP: 28.9, mATE: 0.637, mark: recalled, source: memory}]}
"""


@pytest.fixture
def paper(tmp_path):
    path = tmp_path / "paper.yaml"
    path.write_text(PAPER)
    return read_paper(path)


def test_published_numbers_carry_their_marks(plan, study, finish, paper):
    table = summary(outcomes(StudyRuns.open(plan, finish()), [paper]))
    text = markdown(table, study, [paper])
    assert "| +2.5? | +2.2? | 1,234 |" in text
    assert "9.0" not in text  # of another path
    assert "but their row is uncertain" in text
    assert "| a student | nuScenes test | 28.9† |  | 0.637† |  |  |  |  | memory |" in text
    assert "Recalled from memory" in text
    assert "Read with care." in text
    tex = latex(table, study)
    assert r"lidar$\rightarrow$camera feature & \num{2} & {\bfseries \num{28.0} $\pm$ \num{5.7}}" in tex
    assert r"\toprule" in tex
    assert "but their row is uncertain" in tex
    # Without a paper there are no columns of papers.
    assert "mAAE | parameters |" in markdown(summary(outcomes(StudyRuns.open(plan, finish()))), study)


def test_gain_of_an_untrained_teacher_has_no_published_counterpart(study, finish, paper, tmp_path):
    control = plan_study(load_study(tmp_path / "study.yaml", ["teachers.lidar.trained=false"]), "data", int)
    runs = StudyRuns.open(control, tmp_path / "none")
    assert not any(each.published for each in outcomes(runs, [paper]))


def test_rows_of_several_kinds_of_machines_are_marked(plan, study, finish):
    runs = finish()
    assert "kind of machine" not in markdown(summary(outcomes(StudyRuns.open(plan, runs))), study)
    for row in plan.rows:
        if row.role == "student" and row.seed == 1:
            folder = RunFolder(runs / row.job)
            machine = {"device": "cuda (H200)", "torch": "2.11", "threads": "1"}
            folder.complete(dataclasses.replace(folder.result(), machine=machine))
    text = markdown(summary(outcomes(StudyRuns.open(plan, runs))), study)
    assert "| camera baseline [b] |" in text
    assert "| lidar->camera feature [a, b] |" in text
    assert "[a] cuda (H200), torch 2.11, 1 thread(s), sparse convolution: unknown, TF32: unknown" in text
    out = io.StringIO()
    print_table(summary(outcomes(StudyRuns.open(plan, runs))), study, Console(file=out, width=200))
    assert "camera baseline [b]" in out.getvalue()
    assert "[a] cuda (H200)" in out.getvalue()


@pytest.mark.parametrize(
    ("fact", "other"),
    [("sparse", "plain torch"), ("tf32", "convolutions, sparse"), ("deterministic", "torch, cuDNN")],
)
def test_rows_of_one_gpu_with_other_settings_are_marked(plan, study, finish, fact, other):
    runs = finish()
    machine = {"device": "cuda (H200)", "torch": "2.13.0", "threads": "1", "sparse": "spconv-cu126 2.3.8"}
    machine |= {"tf32": "convolutions", "deterministic": "none"}
    for number, row in enumerate(plan.rows):
        folder = RunFolder(runs / row.job)
        folder.complete(dataclasses.replace(folder.result(), machine=machine | ({} if number else {fact: other})))
    text = markdown(summary(outcomes(StudyRuns.open(plan, runs))), study)
    assert "on different kinds of machines or with different settings" in text
    assert other in text
    # On a processor none of them is used.
    for row in plan.rows:
        folder = RunFolder(runs / row.job)
        folder.complete(dataclasses.replace(folder.result(), machine=folder.result().machine | {"device": "cpu"}))
    assert "different settings" not in markdown(summary(outcomes(StudyRuns.open(plan, runs))), study)


@pytest.mark.parametrize(("what", "said"), [("weights", "initial weights"), ("batches", "batches differ")])
def test_runs_that_began_otherwise_are_not_subtracted(plan, study, finish, what, said):
    runs = finish()
    for row in plan.rows:
        folder = RunFolder(runs / row.job)
        # The baseline is longer: as many batches as there are in both are compared.
        began = {"weights": "a hash", "batches": "aa bb" if row.role == "student" else "aa bb cc"}
        if row.role == "student" and row.seed == 1:
            began |= {what: "aa xx"}
        folder.complete(dataclasses.replace(folder.result(), began=began))
    trained = outcomes(StudyRuns.open(plan, runs))
    alike, otherwise = (each for each in trained if each.key.role == "student")
    assert alike.unpaired == ""
    assert alike.gains["mAP"] == pytest.approx(4)
    assert said in otherwise.unpaired
    assert math.isnan(otherwise.gains["mAP"])
    # Its own number stands.
    assert otherwise.metrics["mAP"] == pytest.approx(32)
    text = markdown(summary(trained), study)
    assert "| unpaired | unpaired |" in text
    assert said in text


def test_models_scored_again_are_paired_by_what_they_were_trained_from(study, finish, tmp_path):
    runs = finish()
    plan = plan_study(load_study(tmp_path / "study.yaml", ["data.also_score=[synthetic_train]"]), "data", int)
    for row in plan.rows:
        folder = RunFolder(runs / row.job)
        if row.split:
            folder.write("job.json", {})
            folder.complete(Result({"mAP": 0.5, "NDS": 0.5} | dict.fromkeys(ERRORS, 0.5), 1, 1.0, {}))
        else:
            began = {"weights": f"of {row.role}", "batches": ""}
            folder.complete(dataclasses.replace(folder.result(), began=began))
    students = [each for each in outcomes(StudyRuns.open(plan, runs)) if each.key.role == "student"]
    assert all(student.unpaired and math.isnan(student.gains["mAP"]) for student in students)
    assert len(students) == 4


def test_what_is_doubtful_about_a_training_is_said_below_the_table(plan, study, finish):
    runs = finish()
    (row,) = (row for row in plan.rows if row.role == "student" and row.seed == 1)
    folder = RunFolder(runs / row.job)
    folder.complete(replace(folder.result(), warnings={"adversarial": "its discriminator has won"}))
    text = markdown(summary(outcomes(StudyRuns.open(plan, runs))), study)
    assert "Warning for lidar->camera feature: loss 'adversarial': its discriminator has won." in text


def test_a_metric_of_which_nothing_is_known_has_no_interval_and_no_verdict(plan, study, finish):
    """As mAP where no detector finds anything yet."""
    runs = finish()
    for row in plan.rows:
        folder = RunFolder(runs / row.job)
        result = folder.result()
        folder.complete(dataclasses.replace(result, metrics={**result.metrics, "mAP": 0.0}))
    lines = summary(outcomes(StudyRuns.open(plan, runs)))
    table = verdicts_table(lines, study)
    assert [cell.text for cell in table.rows[0][1:]] == ["mAP", "+0.0", *[""] * 5]
    assert "over seeds. p (Holm): corrected for the 1 gains" in table.notes[0]
    told = headlines(lines, study)
    assert told[0] == (
        "The 1 distilled row does not gain NDS significantly (Holm, 95 %); "
        "largest gain in NDS: lidar->camera feature +0.0 pp [-12.7, +12.7]; 2 seeds."
    )
    assert "nan" not in " ".join([markdown_table(table), *told])
    assert any("Brackets: " in note for note in results_table(lines, study).notes)


def test_in_files_a_tiny_p_value_is_not_nought():
    given = {"what": "a", "seeds": 3, "mAP": 1 / 3, "gain_mAP_p": 1.23456e-9, "holm": 0.123456}
    assert rounded(given) == {"what": "a", "seeds": 3, "mAP": 0.333333, "gain_mAP_p": 1.235e-9, "holm": 0.1235}
    assert math.isnan(rounded({"holm": math.nan})["holm"])
    assert given["mAP"] == 1 / 3


def test_no_gain_below_zero_is_best(plan, study, finish):
    student = of_role(summary(outcomes(StudyRuns.open(plan, finish()))), "student")

    def bold_gains(*values):
        lines = [
            replace(
                student,
                key=student.key._replace(arm=str(number)),
                gains={m: Gain(Mean(value, 0.1)) for m in ("mAP", "NDS")},
            )
            for number, value in enumerate(values)
        ]
        return [row[5].best for row in results_table(lines, study).rows]

    assert bold_gains(-2.3, -1.6) == [False, False]
    assert bold_gains(-2.3, 0.1) == [False, True]


@pytest.mark.parametrize(
    ("verdict", "word", "sentence"),
    [
        ("significant (better)", "better", "better, worse: significant, p (Holm) < 0.05."),
        ("significant before correction", "uncorr.", "uncorr.: significant before correction, only p < 0.05."),
        ("not significant", "n.s.", "n.s.: not significant, which does not mean no gain."),
    ],
)
def test_verdicts_are_explained_in_the_words_that_are_printed(study, verdict, word, sentence):
    lines = [line("lidar->camera feature", (1, 0.5, 1.5), (1, 0.5, 1.5), verdict=verdict)]
    table = verdicts_table(lines, study)
    printed = {}
    for width in (60, 200):
        console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True)
        show(table, console)
        printed[width] = " ".join(re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()).split())
    assert sentence in printed[60]
    assert f"{word}:" not in printed[200].replace("(better)", "")
    assert f"{verdict}" in printed[200].partition("Gain and 95")[2]
    others = {"better", "uncorr.", "n.s."} - {word}
    assert not any(f"{other}:" in text or f"{other}," in text for other in others for text in printed.values())


def test_the_legend_tells_plain_from_class_balanced_epochs(plan, study, finish):
    lines = summary(outcomes(StudyRuns.open(plan, finish())))
    steps = study.schedule.steps
    assert f"students: {steps} steps of batch" in results_table(lines, study).notes[0]
    in_epochs = {"steps": None, "epochs": 20.0, "class_balanced": True}
    balanced = study.model_copy(update={"schedule": study.schedule.model_copy(update=in_epochs)})
    expected = "students: 20 epochs of class-balanced samples (CBGS, each of 4.39 plain ones), batch"
    assert expected in results_table(lines, balanced, plain_epochs=4.3932).notes[0]
    in_steps = study.model_copy(
        update={"schedule": study.schedule.model_copy(update={"class_balanced": True, "steps": steps})}
    )
    assert f"students: {steps} steps of class-balanced samples (CBGS), batch" in results_table(lines, in_steps).notes[0]


def test_the_legend_speaks_only_of_what_is_shown(plan, study, finish):
    table = results_table(summary(outcomes(StudyRuns.open(plan, finish()))), study)

    def printed(width, terminal):
        console = Console(file=io.StringIO(), width=width, force_terminal=terminal, no_color=True)
        show(table, console)
        return " ".join(re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()).split())

    spread, errors, bold = "±: standard deviation", "Errors are nuScenes'", "Bold: best rows"
    assert all(each in printed(200, terminal=True) and each in " ".join(table.notes) for each in (spread, errors, bold))
    narrow, pipe = printed(60, terminal=True), printed(60, terminal=False)
    assert bold in narrow
    assert not any(each in narrow for each in (spread, errors))
    assert spread in pipe
    assert not any(each in pipe for each in (errors, bold))
    left_out = "Left out: the columns of errors, cost; --columns errors,cost shows them."
    assert left_out in narrow
    assert left_out in pipe
    assert "Left out" not in printed(250, terminal=True)


def test_columns_of_a_paper_are_there_only_if_they_say_something(study):
    lines = [line("lidar->camera feature", (1, 0.5, 1.5), (1, 0.5, 1.5), verdict="not significant")]
    assert verdicts_table(lines, study).header[-1] == "MDE"
    gain = PublishedGain(path="lidar->camera", losses=("feature",), mAP=2.5, NDS=2.25, mark="read")
    told = [replace(each, published={"A": gain}) for each in lines]
    assert verdicts_table(told, study).header[-1] == "paper"


def test_lines_that_show_the_same_number_are_best_together(plan, study, finish):
    """1.05 is shown as 1.1, though pandas rounds it to 1.0."""
    lines = summary(outcomes(StudyRuns.open(plan, finish())))
    shown = {"teacher": 9.0, "baseline": 1.05, "student": 1.08}
    lines = [
        replace(line, metrics=line.metrics | {"mAP": replace(line.metrics["mAP"], value=shown[line.key.role])})
        for line in lines
    ]
    text = markdown(lines, study)
    assert "| camera baseline | 2 | **1.1 ± 7.1** |" in text
    assert "| lidar->camera feature | 2 | **1.1 ± 5.7** |" in text


def test_weights_that_set_themselves_are_below_the_table_and_in_its_file(study, plan, finish, tmp_path):
    finish()
    for seed, weight in ((0, 1.5), (1, 2.5)):
        (job,) = [row.job for row in plan.rows if (row.role, row.seed) == ("student", seed)]
        folder = RunFolder(tmp_path / "runs" / job)
        folder.complete(replace(folder.result(), weights={"feature": weight}))
    lines = summary(outcomes(StudyRuns.open(plan, tmp_path / "runs")))
    details = "\n".join(results_table(lines, study).details)
    assert "Weights that set themselves, by row: lidar->camera feature: feature 2 ± 0.707." in details
    write_tables(lines, [], study, tmp_path)
    with (tmp_path / "table.csv").open() as file:
        assert [row["weight_feature"] for row in csv.DictReader(file)] == ["", "", "2.0"]
    pulled = load_study(tmp_path / "study.yaml", ["losses.feature.weight={lidar->camera: {pull: 0.3}, others: 2.0}"])
    assert "feature (weight pull 0.3 on lidar->camera / 2.0 on others)" in "\n".join(
        results_table(lines, pulled).details
    )
