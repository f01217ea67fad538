"""A search that cannot be ends in one message that names what is wrong and in exit status 2, with nothing begun."""

import re

import pytest
import yaml
from optuna.trial import TrialState
from typer.testing import CliRunner

from harness.data.root import NuScenesRoot
from harness.search.__main__ import app
from harness.search.opened_search import open_search
from harness.search.trials import open_book

WEIGHT = "losses.feature.weight"
BOUNDS = {"low": 0.1, "high": 10.0, "log": True}
STUDY = {
    "data": {"preset": "smoke"},
    "schedule": {"steps": 2, "batch_size": 2},
    "teachers": {"lidar": {"preset": "tiny_lidar", "seed": 0}},
    "students": {"radar": {"preset": "tiny_radar"}, "lidar": {"preset": "tiny_lidar"}},
    "paths": ["lidar->radar"],
    "losses": {"feature": {"weight": 1.0}, "relation": {"weight": 1.0}},
    "arms": {"only": ["feature"]},
    "search": {"space": {WEIGHT: BOUNDS}, "trials": 2},
}


class Place:
    """A folder with a study in it, from where the command is called."""

    def __init__(self, folder, root, tracking):
        self.folder, self.root, self.tracking = folder, root, tracking
        self.study = folder / "study.yaml"
        self.write(STUDY)

    def write(self, content):
        self.study.write_text(yaml.safe_dump(content))

    def search(self, **fields):
        """Other fields of the section search."""
        self.write({**STUDY, "search": {**STUDY["search"], **fields}})

    def files(self):
        """What every file holds; locks are empty and nobody's."""
        paths = [path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {path: path.read_bytes() for path in paths}

    def refused(self, *flags):
        """The message of the command, which changed nothing."""
        before = self.files()
        where = [f"--{name}-dir={self.folder / name}" for name in ("runs", "searches")]
        data = ["--data-root", str(self.root), "--version", "v1.0-synthetic", "--out", str(self.folder / "out")]
        where += [f"--tracking-uri={self.tracking}", "--device=cpu"]
        result = CliRunner().invoke(app, [str(self.study), *data, *where, *map(str, flags)])
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert self.files() == before
        return result.stderr

    def begin(self):
        """The journal of a search in which a trial was tried."""
        given = [f"data.root={self.root}"]
        opened = open_search(self.study, given)
        identity = opened.identity(NuScenesRoot(self.root, "v1.0-synthetic").fingerprint())
        with open_book(self.folder / "searches" / "study", None, opened.search, identity) as book:
            book.end(book.ask(1)[0], TrialState.COMPLETE, (1.0,))
        return self.folder / "searches" / "study" / "journal.log"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """A store for all, for it takes seconds to make one."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture
def place(tmp_path, smoke_path, tracking):
    return Place(tmp_path, smoke_path, tracking)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"losses.feature.wieght": BOUNDS}, "unknown key 'wieght'; did you mean 'weight'?"),
        ({"losses.featur.weight": BOUNDS}, "unknown loss 'featur'; did you mean 'feature'?"),
        ({"losses.relation.weight": BOUNDS}, "arm 'only', unknown loss 'relation'; allowed: feature"),
        ({"losses": BOUNDS}, "search.space.losses: "),
        ({"schedule.lrr": BOUNDS}, "unknown key 'lrr'; did you mean 'lr'?"),
        ({"shcedule.lr": BOUNDS}, "unknown key 'shcedule'; did you mean 'schedule'?"),
        ({"students.lidar.preset": {"choices": ["tiny_lidar", "tiny_radar"]}}, "unknown student 'lidar'; "),
        ({"arms.only.featur": {"choices": [True, False]}}, "arms.only.featur cannot be searched; allowed: "),
        ({"arms.only.feature": {"choices": [1, 0]}}, "arms.only.feature: allowed: choices true and false"),
        ({"teachers.lidar.seed": {"choices": [0, 1]}}, "teachers.lidar.seed cannot be searched; allowed: "),
        ({"seeds": {"choices": [0, 1]}}, "seeds cannot be searched"),
        ({WEIGHT: {"choices": ["much", "little"]}}, '"much" is not possible'),
        ({WEIGHT: {"choices": [True, False]}}, "true is not possible"),
        ({WEIGHT: {"choices": [1.0, 1]}}, "contain a value twice"),
        ({WEIGHT: {"choices": [1.0]}}, "search.space.losses.feature.weight.choices: "),
        ({"schedule.steps": {"low": 1, "high": 9}}, "with a fractional part; add whole: true for whole numbers"),
        ({"schedule.steps": {"low": 1, "high": 9, "step": 2.5}}, "3.5 is not possible"),
        ({WEIGHT: {"low": -1.0, "high": 1.0}}, "-1.0 is not possible"),
        ({WEIGHT: {"low": 2.0, "high": 1.0}}, "search.space.losses.feature.weight: low 2 is not below"),
        ({WEIGHT: {"low": 1.0, "high": 1.0}}, "low 1 is not below high 1"),
        ({WEIGHT: {"low": 0.0, "high": 1.0, "log": True}}, "on a log scale, low must be above 0, not 0"),
        ({WEIGHT: {"low": 1.0, "high": float("inf")}}, "high: Input should be a finite number"),
        ({WEIGHT: {"low": "little", "high": 1.0}}, "low: Input should be a valid number"),
        ({WEIGHT: {**BOUNDS, "stpe": 1}}, "unknown key 'stpe'; did you mean 'step'?"),
        ({WEIGHT: 3.0}, "search.space.losses.feature.weight: "),
        ({}, "search.space: "),
    ],
)
def test_a_space_that_is_none_of_the_studys_is_named(place, space, words):
    place.search(space=space)
    assert words in place.refused()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"path": "lidar->camera"}, "search.path: unknown path 'lidar->camera'; did you mean 'lidar->radar'?"),
        ({"arm": "onyl"}, "search.arm: unknown arm 'onyl'; did you mean 'only'?"),
        ({"seeds": [100, 1]}, "search.seeds: seed 1 is also in search.confirm.seeds"),
        ({"seeds": [100, 100]}, "search.seeds: [100, 100] contain a value twice"),
        ({"eval_split": "synthetic_val"}, "search.eval_split: the study reports 'synthetic_val'"),
        ({"eval_split": "synthetic_tuen"}, "unknown split 'synthetic_tuen'; did you mean 'synthetic_tune'?"),
        ({"train_split": "synthetic_trian"}, "unknown split 'synthetic_trian'; did you mean 'synthetic_train'?"),
        ({"sampler": "tpee"}, "search.sampler: Input should be 'tpe', "),
        ({"pruner": "medain"}, "search.pruner: Input should be 'none', 'median' or"),
        ({"objective": "mAPP"}, "search.objective.0: Input should be 'mAP' or 'NDS'"),
        ({"trails": 3}, "unknown key 'trails'; did you mean 'trials'?"),
        ({"share": 0}, "search.share: "),
    ],
)
def test_a_section_search_that_cannot_be_is_named(place, fields, words):
    place.search(**fields)
    assert words in place.refused()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trials", "0"], "--trials 0 is not a number of trials"),
        (["--trials", "-1"], "--trials -1 is not a number of trials"),
        (["--timeout", "0"], "--timeout 0 is not a time"),
        (["--timeout", "nan"], "--timeout nan is not a time"),
        (["--set", "search.trials=0"], "search.trials: Input should be greater than 0"),
        (["--set", "data.eval_split=synthetic_vall"], "unknown split 'synthetic_vall'; did you mean 'synthetic_val'?"),
        (["--set", "data.also_score=[synthetic_tune]"], "the study reports 'synthetic_tune'"),
        (["--storage", "nonsense"], "storage nonsense cannot be used: "),
        (["--storage", "abacus://here/search"], "storage abacus://here/search cannot be used: "),
        (["--storage", "postgresql://nobody@nowhere.invalid/x"], "storage postgresql://nobody@nowhere.invalid/x "),
        (["--storage", "sqlite:////dev/null/x.db"], "storage sqlite:////dev/null/x.db cannot be used: "),
    ],
)
def test_a_flag_that_cannot_be_is_named(place, flags, words):
    assert words in place.refused(*flags)


def test_a_study_without_a_search_is_named(place):
    place.write({key: value for key, value in STUDY.items() if key != "search"})
    assert f"{place.study} has no section search, such as search: " in place.refused()


@pytest.mark.parametrize("what", ["--runs-dir", "--searches-dir", "--out", "--found-study"])
def test_a_folder_that_is_a_file_is_named_before_anything_is_trained(place, what):
    path = place.folder / "file"
    path.write_text("mine")
    flags = [what, path / "found.yaml" if what == "--found-study" else path]
    assert re.search(rf"folder {path}\S* cannot be made: (File exists|Not a directory)", place.refused(*flags))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"search": {**STUDY["search"], "space": {WEIGHT: {**BOUNDS, "low": 0.2}}}},
            "weight.low is 0.1 there, 0.2 here",
        ),
        ({"search": {**STUDY["search"], "share": 0.5}}, "search.share is 1.0 there, 0.5 here"),
        (
            {"search": {**STUDY["search"], "space": {WEIGHT: BOUNDS, "schedule.lr": BOUNDS}}},
            'search.space.schedule.lr is absent there, {"high": 10.0, ',
        ),
        ({"schedule": {"steps": 3, "batch_size": 2}}, "study.schedule.steps is 2 there, 3 here"),
    ],
)
def test_a_journal_of_another_search_is_left_as_it_is_and_the_difference_named(place, change, words):
    journal = place.begin()
    place.write({**STUDY, **change})
    message = place.refused()
    assert f"storage {journal} contains a different search named 'study': " in message
    assert words in message


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda lines: [*lines[:2], b"garbage\n", *lines[2:]], 3),
        (lambda lines: [*lines[:2], lines[2][:20] + b"\n", *lines[3:]], 3),
        (lambda lines: [*lines, b"\0" * 512], None),
        (lambda lines: [b"a note of mine, and no journal"], 1),
    ],
    ids=["a line more", "a line cut", "zeros at the end", "no journal"],
)
def test_a_damaged_journal_is_left_as_it_is_and_the_line_named(place, damage, line):
    journal = place.begin()
    lines = damage(journal.read_bytes().splitlines(keepends=True))
    journal.write_bytes(b"".join(lines))
    assert f"{journal}:{line or len(lines)} is not a line of a search journal: " in place.refused()


def test_a_database_that_is_none_is_left_as_it_is(place):
    path = place.folder / "notes.db"
    path.write_text("a note of mine, and no database")
    assert f"storage sqlite:///{path} cannot be used: " in place.refused("--storage", f"sqlite:///{path}")
