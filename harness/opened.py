"""An opened study: dataset, plan and run folders, for run, report and search."""

import re
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

from rich.console import Console

from harness.data.balance import class_balance
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
    """Name of the study, and of the folder of its tables."""
    study: StudySpec
    plan: Plan
    runs_dir: Path
    root: NuScenesRoot | None
    """The dataset; None for a bundle."""
    question: str = ""
    """The question of the study as text; empty if it has none."""
    stored_tables: Path | None = None
    """Folder of the report in a bundle, whose pictures are used because a bundle has no dataset."""


class Planner:
    """Plans studies on one dataset and reads its tables only once, because a search makes hundreds of plans."""

    def __init__(self, root: NuScenesRoot, console: Console) -> None:
        self.root = root
        self.fingerprint = root.fingerprint()
        self.samples = cache(root.count)
        """Counts the samples of a split, or of a share of its scenes."""
        self._balanced = cache(lambda *which: len(class_balance(root, root.tokens(*which))))
        self._images = cache(find_images(console))

    def plan(self, study: StudySpec) -> Plan:
        """Plan a study on this dataset."""
        which = study.data.train_split, study.data.train_share
        samples, balanced = partial(self.samples, *which), partial(self._balanced, *which)
        return plan_study(study, self.fingerprint, samples, self._images, balanced)


def open_study(asked: Asked, console: Console) -> Opened:
    """Open the study of a command line.

    Args:
        asked: The study with its flags.
        console: Shows that an embedded dataset is being made.

    Raises:
        InputError: The study, its dataset or another input is wrong.
    """
    study = load_study(asked.path, asked.overrides)
    root = open_root(study.data, console)
    plan = Planner(root, console).plan(study)
    return Opened(asked.name, study, plan, asked.runs_dir, root, question(asked.path))


def question(study: Path) -> str:
    """Return the first comment of a study file without its sentence about the plan; empty if there is none."""
    comment = takewhile(lambda line: line.startswith("#"), study.read_text("utf-8").splitlines())
    text = " ".join(line.lstrip("# ").rstrip() for line in comment)
    return re.sub(r"\s*\bPlan\b[^:]*:.*?\b\d+ trainings?\b.*?\.(?=\s|$)", "", text).strip()
