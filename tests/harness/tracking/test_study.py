"""What MLflow has of a study beside its numbers: outcomes of controls, and weights that have set themselves."""

import io
from dataclasses import replace

from mlflow import MlflowClient
from rich.console import Console

from harness.evidence.line import Mean
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.study.controls import ControlSpec
from harness.tracking.study import Mirror


def test_controls_are_tags_of_the_study_and_weights_metrics_of_an_arm(planned, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables").mkdir()
    control = ControlSpec(row="lidar->camera unidistill", expect="does not gain")
    study = planned.study.model_copy(update={"controls": {"known": control}})
    lines = summary(outcomes(StudyRuns.open(planned.plan, folder / "runs")))
    set_ = {"feature": Mean(0.5, 0.1)}
    lines = [replace(line, weights=set_ if line.key.role == "student" else {}) for line in lines]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mirror = Mirror(uri, "smoke", study, planned.plan, folder / "runs", Console(file=io.StringIO()))
    mirror.finish(tmp_path / "tables", "a table", lines, failed=False)
    assert mirror.store.alive
    client = MlflowClient(uri)
    assert client.get_run(mirror.store.parent).data.tags["control.known"] in ("passed", "failed", "undecided")
    (student,) = mirror.store.runs({"kind": "arm", "role": "student"})
    assert student.data.metrics["weight/feature"] == 0.5
