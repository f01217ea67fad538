"""Mirrors a search to MLflow: one parent run with one child run per trial. Optuna's storage stays the source."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from harness.tracking.glance import PARENT
from harness.tracking.store import Store, digest

SEARCH, TRIAL = "crossbev.search", "crossbev.trial"
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
MOST = 100
"""Trials on one page, at most: it fetches each of them by itself."""


@dataclass(frozen=True)
class EndedTrial:
    """A trial of which nothing changes any more."""

    number: int
    state: Literal["COMPLETE", "PRUNED", "FAIL"]
    name: str
    """Where its values come from, such as paper; empty where the sampler proposed them."""
    params: Mapping[str, Any]
    values: Mapping[str, float | int]
    """Metric to its value, a fraction; empty where it did not complete."""
    losses: Mapping[int, float | int]
    """Epoch to the detection loss that a pruner sees."""
    reason: str
    """Why it failed, else empty."""
    began: int
    """Milliseconds since 1970."""
    ended: int


class SearchMirror:
    """Calling it again adds what is new and repeats nothing. Processes of one search have to take turns."""

    def __init__(self, uri: str, name: str, identity: Mapping[str, Any], console: Console) -> None:
        """Connect, and find or make the experiment of the study and the parent run of its search.

        Args:
            uri: Where the tracking store is.
            name: What the study is called.
            identity: What makes two searches one.
            console: For what goes wrong.
        """
        tag = digest([f"{key} {value}" for key, value in sorted(identity.items())])
        self.store = Store(uri, name, {SEARCH: tag}, f"search {name}", console)

    def follow(self, ended: Iterable[EndedTrial]) -> None:
        """Mirror those trials that were not mirrored yet."""
        for trial in ended:
            self.store.once(trial.number, partial(self._add, trial))

    def finish(self, folder: Path, markdown: str) -> None:
        """Attach what the search wrote into a folder, its text as the description, and close the parent run."""
        self.store.finish(folder, "search", markdown)

    def _add(self, trial: EndedTrial) -> None:
        name = f"trial {trial.number}" + (f" · {trial.name}" if trial.name else "")
        run, complete = self.store.run({TRIAL: str(trial.number), PARENT: self.store.parent}, name, trial.began)
        if complete:
            return
        tags = {"study": self.store.name, "kind": "trial", "state": trial.state, "reason": trial.reason}
        self.store.describe(run, trial.params, tags)
        self.store.history(run, [(epoch, {"detection_loss": loss}) for epoch, loss in sorted(trial.losses.items())])
        self.store.metrics(run, trial.values)
        self.store.end(run, _STATUS[trial.state], trial.ended)


def complete_trials(store: Store) -> list[str]:
    """The runs of complete trials of an experiment's newest search, the first ones first; empty without a search."""
    searches = store.runs({"mlflow.runName": f"search {store.name}"}, 1)
    if not searches:
        return []
    trials = store.runs({PARENT: searches[0].info.run_id, "state": "COMPLETE"})
    trials.sort(key=lambda run: int(run.data.tags[TRIAL]))
    return [run.info.run_id for run in trials[:MOST]]
