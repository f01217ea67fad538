"""A study, opened: its dataset, its plan and where its runs lie; the same for run, report and search."""

import re
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

from rich.console import Console

from harness.data.root import NuScenesRoot
from harness.flags import Asked
from harness.study.load import load_study
from harness.study.plan import Plan, plan_study
from harness.study.spec import StudySpec
from harness.world.roots import find_images, open_root


@dataclass(frozen=True)
class Opened:
    """A study, its plan and its runs."""

    name: str
    """The study's name; its tables go into a folder of that name."""
    study: StudySpec
    plan: Plan
    runs_dir: Path
    root: NuScenesRoot | None
    """The dataset; None where it is not at hand, as for a bundle."""
    question: str = ""
    """What the study asks, in words; empty where it does not say."""
    stored_tables: Path | None = None
    """Folder of an earlier report, with its pictures of the dataset: of a bundle, which has no dataset."""


class Planner:
    """Plans studies on one dataset, whose tables are read once for all of them: a search plans by the hundred."""

    def __init__(self, root: NuScenesRoot, console: Console) -> None:
        self.root = root
        self.fingerprint = root.fingerprint()
        self.samples = cache(root.count)
        """Counts those of a split."""
        self._images = cache(find_images(console))

    def plan(self, study: StudySpec) -> Plan:
        """The plan of a study whose splits are of this dataset."""
        return plan_study(study, self.fingerprint, partial(self.samples, study.data.train_split), self._images)


def open_study(asked: Asked, console: Console) -> Opened:
    """The study of a command line.

    Args:
        asked: What the command line says.
        console: Told where an embedded dataset has to be made first.

    Raises:
        InputError: The study, its dataset or something that is given to it is not as it has to be.
    """
    study = load_study(asked.path, asked.overrides)
    root = open_root(study.data, console)
    plan = Planner(root, console).plan(study)
    return Opened(asked.name, study, plan, asked.runs_dir, root, question(asked.path))


def question(study: Path) -> str:
    """The first comment of a study's file, without what it says of its plan; empty where there is none."""
    comment = takewhile(lambda line: line.startswith("#"), study.read_text("utf-8").splitlines())
    text = " ".join(line.lstrip("# ").rstrip() for line in comment)
    return re.sub(r"\s*\bPlan\b[^:]*:.*?\b\d+ trainings?\b.*?\.(?=\s|$)", "", text).strip()
