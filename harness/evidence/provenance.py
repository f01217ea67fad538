"""Finds out which version of the code made which rows of a table."""

from collections import Counter

from harness.evidence.line import Key
from harness.evidence.runs import StudyRuns


def made_by(runs: StudyRuns) -> dict[str, list[tuple[str, int]]]:
    """Names and seeds of the rows that each commit made, the one that made most first.

    A commit has a + where files differed from it, and is "unknown" where the result does not say.
    """
    made: dict[str, list[tuple[str, int]]] = {}
    for row in runs.plan.rows:
        result = runs[row.job].result
        if result is not None:
            made.setdefault(result.machine.get("commit", "unknown"), []).append((Key.of(row).name, row.seed))
    return dict(sorted(made.items(), key=lambda item: -len(item[1])))


def commit_lines(runs: StudyRuns) -> list[str]:
    """Return a sentence for a caption if several commits made the rows; else nothing."""
    made = made_by(runs)
    if len(made) < 2:
        return []
    count = Counter(Key.of(row).name for row in runs.plan.rows if runs[row.job].result is not None)
    usual, *others = made
    clauses = [f"{commit} made {_rows(made[commit], count)}" for commit in others]
    modified = any(commit.endswith("+") for commit in made)
    return [
        f"More than one version of the code made these rows: {'; '.join(clauses)}; {usual} made all others."
        + (" A + marks uncommitted changes on top of a commit." if modified else "")
    ]


def _rows(rows: list[tuple[str, int]], count: Counter[str]) -> str:
    """Name the rows of a commit, with seeds if it did not make all of them."""
    seeds = {name: [str(seed) for row, seed in rows if row == name] for name in count}
    suffixes = {name: "" if len(made) == count[name] else f" (seed {', '.join(made)})" for name, made in seeds.items()}
    return ", ".join(f"{name}{which}" for name, which in suffixes.items() if seeds[name])
