"""MLflow's database is there as a whole or not at all, whoever is killed or comes at the same time."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from harness.errors import InputError
from harness.tracking.database import make_database, sqlite_file
from harness.tracking.store import check_store


def fill(uri):
    """What MLflow does, as far as it matters here: a table at first, its row at last."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, database:
        database.execute("create table experiments (name text)")
        database.execute("insert into experiments values ('Default')")


def torn(file):
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("create table experiments (name text)")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_one_that_is_stopped_meanwhile_leaves_nothing_in_its_place(tmp_path):
    file = tmp_path / "mlflow.db"

    def stopped(uri):
        torn(uri.removeprefix("sqlite:///"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_database(file, stopped)
    assert not file.exists()
    make_database(file, fill)
    assert names(tmp_path) == ["mlflow.db"]


def test_two_at_once_make_one(tmp_path):
    file, made = tmp_path / "mlflow.db", []
    together = threading.Barrier(2)

    def make(_):
        together.wait()
        make_database(file, lambda uri: made.append(uri) or fill(uri))

    with ThreadPoolExecutor() as pool:
        list(pool.map(make, range(2)))
    assert len(made) == 1
    assert names(tmp_path) == ["mlflow.db"]


def test_a_torn_one_is_set_aside_and_told(tmp_path, capsys):
    file = tmp_path / "mlflow.db"
    for count in (1, 2):
        file.unlink(missing_ok=True)
        torn(file)
        make_database(file, fill)
        assert names(tmp_path) == ["mlflow.db", *(f"mlflow.db.torn-{number}" for number in range(1, count + 1))]
        assert f"moved to {file}.torn-{count}" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["whole", "somebody else's", "no database"])
def test_what_is_not_torn_is_left_alone(tmp_path, content):
    file = tmp_path / "mlflow.db"
    if content == "no database":
        file.write_text("a letter of some length, which is no database at all")
    else:
        with closing(sqlite3.connect(file)) as database, database:
            database.execute(f"create table {'experiments' if content == 'whole' else 'birds'} (name text)")
            database.execute(f"insert into {'experiments' if content == 'whole' else 'birds'} values ('Default')")
    before = file.read_bytes()
    make_database(file, lambda uri: pytest.fail("nothing to make"))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////tmp/a.db", "/tmp/a.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///a.db?timeout=20", None),
        ("postgresql://host/a", None),
        ("http://host:5000", None),
    ],
)
def test_only_a_file_of_sqlite_is_made(uri, file):
    found = sqlite_file(uri)
    assert (str(found) if found else None) == file


@pytest.mark.slow
def test_mlflow_takes_a_database_that_was_torn_in_its_first_tables(tmp_path):
    torn(tmp_path / "mlflow.db")
    check_store(f"sqlite:///{tmp_path}/mlflow.db", "paths")
    check_store(f"sqlite:///{tmp_path}/mlflow.db", "paths")
    assert names(tmp_path) == ["mlflow.db", "mlflow.db.torn-1"]


def test_a_place_where_nothing_can_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/mlflow\.db cannot be used"):
        check_store(f"sqlite:///{tmp_path}/file/mlflow.db", "paths")
