"""A published gain is a number or a direction; what a file must not say is an error that names file, row and choice."""

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.report.tables import published_text, results_table
from harness.study.load import load_study
from harness.study.papers import read_paper
from harness.study.plan import plan_study

PAPERS = Path(__file__).parents[3] / "studies" / "papers"
PAPER = """\
name: A
title: B
venue: C 2023
arxiv: D
gains:
  - {{path: lidar->camera, losses: [output], {gain}}}
rows:
  - {{label: a student, dataset: nuScenes val, mAP: 28.9, mark: {mark}, source: its table 2}}
"""


@pytest.fixture
def read(tmp_path):
    """A paper with one gain and one row."""

    def read(gain="NDS: up, mark: read", mark="read"):
        path = tmp_path / "paper.yaml"
        path.write_text(PAPER.format(gain=gain, mark=mark))
        return read_paper(path)

    return read


@pytest.mark.parametrize(
    ("value", "direction", "points"),
    [("up", "up", None), ("down", "down", None), ("1.5", "up", 1.5), ("-1", "down", -1.0), ("0", None, 0.0)],
)
def test_a_gain_has_a_direction_whether_or_not_it_has_a_number(read, value, direction, points):
    (gain,) = read(f"NDS: {value}, mark: read").gains
    assert (gain.direction("NDS"), gain.points("NDS")) == (direction, points)
    assert (gain.direction("mAP"), gain.points("mAP")) == (None, None)


@pytest.mark.parametrize("value", ["sideways", "101", "-101", ".nan", ".inf", "true", "[1]"])
def test_what_is_neither_points_nor_a_direction_is_refused(read, value):
    with pytest.raises(InputError) as error:
        read(f"NDS: {value}, mark: read")
    assert "paper.yaml: gains.0.NDS (lidar->camera ['output']): " in str(error.value)
    assert "allowed: points between -100 and 100, up, down" in str(error.value)


def test_a_gain_that_says_nothing_is_refused(read):
    with pytest.raises(InputError, match="neither mAP nor NDS is given"):
        read("mark: read")


def test_an_unknown_mark_names_file_row_and_marks(read):
    with pytest.raises(InputError) as error:
        read(mark="reed")
    assert str(error.value).endswith(
        "paper.yaml: rows.0.mark (a student): unknown mark 'reed'; did you mean 'read'? "
        "allowed: read, recalled, uncertain"
    )


@pytest.mark.parametrize("loss", ["output", "activation", "adversarial"])
def test_x3kds_losses_alone_raise_nds(loss):
    gain = read_paper(PAPERS / "x3kd.yaml").gain("lidar->camera", frozenset({loss}))
    assert (gain.direction("NDS"), gain.direction("mAP"), gain.mark) == ("up", None, "read")


def test_a_direction_is_no_number_in_a_table(read, tmp_path):
    (tmp_path / "study.yaml").write_text(
        "schedule: {steps: 1}\nteachers: {lidar: {preset: tiny_lidar}}\nstudents: {camera: {preset: tiny_camera}}\n"
        "paths: [lidar->camera]\nlosses: {output: {weight: 1}}\narms: {output: [output]}\n"
    )
    study = load_study(tmp_path / "study.yaml")
    runs = StudyRuns.open(plan_study(study, "data", int), tmp_path / "none")
    trained = outcomes(runs, [read()])
    assert "A gain NDS" in results_table(summary(trained), study).header
    (gains,) = (each.published for each in trained if each.key.role == "student")
    assert [published_text(gain, "NDS") for gain in gains.values()] == ["up"]
    mixed = outcomes(runs, [read("mAP: up, NDS: 2.5, mark: read")])
    (gains,) = (each.published for each in mixed if each.key.role == "student")
    (gain,) = gains.values()
    assert (gain.points("mAP"), gain.direction("mAP"), gain.points("NDS")) == (None, "up", 2.5)
