"""Source: what a report is made from, whether a study file and its run folders or a bundle of them says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from harness.data.embedded import find_images, open_root
from harness.data.root import NuScenesRoot, count_samples
from harness.study.load import load_study
from harness.study.plan import Plan, plan_study
from harness.study.spec import StudySpec


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
    return Source(path.stem, study, plan_study(study, root.fingerprint(), samples, find_images(console)), runs, root)
