"""What an earlier call mirrored is known without MLflow, and no longer believed once any of it changed or is gone."""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.console import Console

from harness.study.load import load_study
from harness.study.plan import plan_study
from harness.tracking.glance import PARENT
from harness.tracking.study import Mirror

SMOKE_STUDY = Path(__file__).parents[3] / "studies" / "smoke.yaml"


@dataclass
class Mirrored:
    """A study whose report was mirrored, with one run below that of the study."""

    folder: Path
    child: str

    @property
    def tables(self):
        return self.folder / "tables"

    @property
    def database(self):
        return self.folder / "mlflow.db"

    @property
    def client(self):
        return MlflowClient(f"sqlite:///{self.database}")

    @property
    def mirror(self):
        """As another call makes it."""
        study = load_study(SMOKE_STUDY)
        plan = plan_study(study, "data", int)
        return Mirror(f"sqlite:///{self.database}", "smoke", study, plan, self.folder, Console(file=io.StringIO()))

    def holds(self, markdown="a table", failed=False, done=1):
        return self.mirror.is_finished(self.tables, markdown, [], failed, done)


@pytest.fixture
def mirrored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables" / "figures").mkdir(parents=True)
    (tmp_path / "tables" / "table.md").write_text("a table")
    (tmp_path / "tables" / "figures" / "gains.svg").write_text("<svg/>")
    made = Mirrored(tmp_path, "")
    mirror = made.mirror
    assert mirror.closed is None
    store = mirror.open()
    made.child, _ = store.run({PARENT: store.parent}, "a job")
    assert mirror.closed is None, "it is not closed yet"
    mirror.finish(made.tables, "a table", [], failed=False)
    assert store.alive
    return made


def test_what_was_mirrored_is_known_until_something_else_is_to_be_said(mirrored):
    assert mirrored.holds()
    assert not mirrored.holds(markdown="another table")
    assert not mirrored.holds(failed=True)
    assert not mirrored.holds(done=2)
    (mirrored.tables / "figures" / "gains.svg").write_text("<SVG/>")
    assert not mirrored.holds()


def test_what_somebody_deleted_is_not_believed_to_be_there(mirrored):
    client = mirrored.client
    experiment = client.get_experiment_by_name("smoke").experiment_id
    run = client.get_run(client.get_run(mirrored.child).data.tags[PARENT])
    for delete, restore, which in (
        (client.delete_run, client.restore_run, mirrored.child),
        (client.delete_run, client.restore_run, run.info.run_id),
        (client.delete_experiment, client.restore_experiment, experiment),
    ):
        assert mirrored.holds()
        delete(which)
        assert not mirrored.holds()
        restore(which)
    assert mirrored.holds()
    copy = Path(run.info.artifact_uri) / "tables" / "table.md"
    content = copy.read_bytes()
    copy.unlink()
    assert not mirrored.holds()
    copy.write_bytes(content)
    assert mirrored.holds()
    aside = shutil.move(mirrored.database, mirrored.folder / "aside.db")
    assert mirrored.mirror.closed is None
    mirrored.database.write_text("no database at all, but a text that is long enough to be taken for one")
    assert mirrored.mirror.closed is None
    shutil.move(aside, mirrored.database)
    assert mirrored.holds()


def test_a_study_that_goes_on_is_not_closed(mirrored):
    mirror = mirrored.mirror
    mirror.open()
    assert not mirrored.holds()
    mirror.store.stop()
    assert not mirrored.holds()
