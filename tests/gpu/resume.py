"""A job on the card that is stopped and goes on, against one that is not, and against itself on a CPU."""

import contextlib
import sys
import tempfile
from dataclasses import replace
from itertools import count, product
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file

from harness.execute.executor import order_for
from harness.execute.site import Site, open_site
from harness.flags import Asked
from harness.jobs.worker import run
from harness.opened import open_study
from harness.runs.folder import RunFolder
from harness.train.trainer import Interrupted
from tests.gpu.common import Rows, difference

STEPS, STOP = 12, 5
LOADER_WORKERS = 0


def train(site: Site, plan, job, path: Path, stop_after: int | None = None) -> None:
    """Train one job to its end in this process, in one go or in two."""
    folder, order = RunFolder(path), order_for(job, plan, site)
    folder.write("job.json", order.model_dump(mode="json"))
    if stop_after is not None:
        with contextlib.suppress(Interrupted):
            calls = count(1)  # it is asked after every step
            run(order, folder, lambda: next(calls) >= stop_after)
        assert len(folder.steps()) == stop_after, "it did not stop"
    run(order, folder, lambda: False)


def main() -> None:
    """One row a precision, with deterministic operations or without, and pair of trainings."""
    rows = Rows()
    # Deterministic ones last: what they set stays set.
    for deterministic, precision in product((False, True), sys.argv[2:] or ("32-true",)):
        out = Path(tempfile.mkdtemp())
        changes = [
            f"schedule.steps={STEPS}",
            f"schedule.precision={precision}",
            f"schedule.deterministic={str(deterministic).lower()}",
        ]
        asked = Asked(Path("studies/smoke.yaml"), set_=changes, runs_dir=out / "runs")
        opened = open_study(asked, Console())
        assert opened.root is not None
        site = open_site(asked.runs_dir, opened.root, "cuda", 1, loader_workers=LOADER_WORKERS)
        jobs = sorted(opened.plan.jobs.values(), key=lambda job: len(job.spec.needs))
        weights = {}
        for job in jobs:
            train(site, opened.plan, job, site.folder(job.id).path)
            if job.spec.needs or job is jobs[-1]:
                last = job
        for name, where, stop in (
            ("again", "cuda", None),
            ("stopped and resumed", "cuda", STOP),
            ("on a CPU", "cpu", None),
        ):
            train(replace(site, device=where), opened.plan, last, out / name, stop)
            weights[name] = load_file(out / name / "model.safetensors")
        first = load_file(site.folder(last.id).model)
        for name, other in weights.items():
            apart = difference(*(torch.cat([w.flatten().double() for w in ws.values()]) for ws in (other, first)))
            equal = all(torch.equal(first[key], other[key]) for key in first)
            known = {"precision": precision, "deterministic": deterministic, "job": last.label, "against": name}
            rows.add(**known, **{"bit-equal": equal, "weights apart": apart})


if __name__ == "__main__":
    main()
