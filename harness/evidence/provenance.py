"""Provenance: which version of the code, which machine and which spec made each row of a table, and when."""

import json

import pandas as pd

from harness.evidence.line import Key
from harness.evidence.results import columns_of
from harness.evidence.runs import StudyRuns

OF_THE_RUN = ("commit", "peak_memory_mb")
"""What a result says of its machine and is of the run alone."""


def provenance(runs: StudyRuns) -> pd.DataFrame:
    """One row for each row of the plan.

    Columns: row (its name), role, model, path, arm, losses, split, seed, job (id), commit (with a + where files
    differed from it; empty without a result, "unknown" where the result does not say), machine (all that is known of
    its kind), spec (of the job, as JSON), and finished_at (seconds since 1970, NaN without a result).
    """
    rows = []
    for row in runs.plan.rows:
        run = runs[row.job]
        facts = run.result.machine if run.result else {}
        rows.append(
            {
                "row": Key.of(row).name,
                **columns_of(row),
                "commit": facts.get("commit", "unknown") if run.result else "",
                "machine": ", ".join(f"{key} {value}" for key, value in facts.items() if key not in OF_THE_RUN),
                "spec": json.dumps(run.job.spec.model_dump(mode="json"), sort_keys=True),
                "finished_at": run.finished_at,
            }
        )
    return pd.DataFrame(rows)


def commit_lines(found: pd.DataFrame) -> list[str]:
    """For a caption: which commits made which rows, where it was more than one; else nothing.

    Args:
        found: Of `provenance`.
    """
    made = found[found["commit"] != ""]
    commits = made["commit"].value_counts(sort=True)
    if len(commits) < 2:
        return []
    usual, *others = commits.index
    told = [f"{commit} made {_rows(made, commit)}" for commit in others]
    modified = any(commit.endswith("+") for commit in commits.index)
    return [
        f"Made by more than one version of the code: {'; '.join(told)}; {usual} made all others."
        + (" + stands for changes on top of a commit." if modified else "")
    ]


def _rows(made: pd.DataFrame, commit: str) -> str:
    """The rows of a commit, with their seeds where it did not make all of them."""
    names = []
    for name, rows in made.groupby("row", sort=False):
        own = rows.loc[rows["commit"] == commit, "seed"]
        if len(own) == len(rows):
            names.append(str(name))
        elif len(own):
            names.append(f"{name} (seed {', '.join(map(str, own))})")
    return ", ".join(names)
