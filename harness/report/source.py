"""Source: what a report is made from, whether a study file and its run folders or a bundle of them says it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

from rich.console import Console

from harness.data.root import NuScenesRoot, count_samples
from harness.study.load import load_study
from harness.study.plan import Plan, plan_study
from harness.study.spec import StudySpec
from harness.world.roots import find_images, open_root


@dataclass(frozen=True)
class Source:
    """A study, its plan and its runs."""

    name: str
    """Of the study; its tables go into a folder of that name."""
    study: StudySpec
    plan: Plan
    runs: Path
    root: NuScenesRoot | None
    """The dataset; None where it is not at hand."""
    question: str = ""
    """What the study asks, in words; empty where it does not say."""
    kept: Path | None = None
    """Folder of what an earlier report kept of the dataset: of a bundle, which has none."""


def of_study(path: Path, given: Sequence[str], runs: Path, console: Console) -> Source:
    """From a study's file.

    Args:
        path: The file.
        given: Overrides of it.
        runs: Its run folders.
        console: Told where a dataset is made first.
    """
    study = load_study(path, given)
    root = open_root(study.data, console)
    samples = partial(count_samples, root, study.data.train_split)
    plan = plan_study(study, root.fingerprint(), samples, find_images(console))
    return Source(path.stem, study, plan, runs, root, question(path))


def question(study: Path) -> str:
    """The first comment of a study's file, without what it says of its plan; empty where there is none."""
    comment = takewhile(lambda line: line.startswith("#"), study.read_text("utf-8").splitlines())
    text = " ".join(line.lstrip("# ").rstrip() for line in comment)
    return re.sub(r"\s*\bPlan\b[^:]*:.*?\b\d+ trainings?\b.*?\.(?=\s|$)", "", text).strip()
