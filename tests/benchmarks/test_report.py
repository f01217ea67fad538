"""What a report costs that has been made before: a call of the command on the runs of a study, none of them new.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``: 72 runs of 1000 steps, of the main study with five
seeds. Without it the body runs once, on the smallest study, as a test.
"""

import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from harness.diagnose.alignment import Alignment
from harness.diagnose.latency import Latency
from harness.evaluate.bootstrap import DRAWS
from harness.evaluate.intervals import Analysis, Count, keep_analysis, write_draws
from harness.evidence.diagnostics import GROUPS
from harness.flags import Asked
from harness.opened import open_study
from harness.runs.folder import Result, RunFolder
from harness.runs.small_files import keep_model
from harness.study.jobs import DetectorJobSpec

ROOT = Path(__file__).parents[2]
SCENES = 40
NAMES = {
    GROUPS[0]: ("class", "place", "both", "double", "ground", "missed"),
    GROUPS[1]: ("car", "truck", "bus", "trailer", "pedestrian", "bicycle"),
    GROUPS[2]: ("0-4 m", "4-8 m", "8-12 m", "12-16 m"),
}


def make_up(run, job, tokens, steps, rng):
    """What a training leaves, with numbers of chance."""
    spec, terms = job.spec, ["heatmap", "boxes", *job.spec.losses]
    run.write("job.json", {"spec": spec.model_dump(mode="json"), "label": job.label, "device": "cpu"})
    taught = [
        f"{place}_{what}/{term}" for place in ("map", "weight") for what in ("gradient", "cosine") for term in terms
    ]
    names = ["loss", *(f"{kind}/{term}" for kind in ("raw", "weighted", "share") for term in terms), "lr", "seconds"]
    values = rng.random((steps, len(names + taught))).tolist()
    with (run.path / "metrics.jsonl").open("w") as file:
        for step in range(steps):
            shown = names + taught if step % 20 == 0 else names
            line = {"step": step, "batch": step, **dict(zip(shown, values[step], strict=False))}
            file.write(json.dumps(line) + "\n")
    drawn = {name: rng.normal(0.3, 0.02, DRAWS + 1) for name in ("mAP", "NDS")}
    write_draws(run.draws, drawn, SCENES)
    groups = {group: {name: rng.normal(0.3, 0.02, DRAWS + 1) for name in names} for group, names in NAMES.items()}
    counts = {group: {name: Count(99, SCENES) for name in NAMES[group]} for group in GROUPS[1:]}
    keep_analysis(run.analysis, Analysis(SCENES, groups, counts))
    keep_model(run.latency, Latency(milliseconds=10.0, samples=20, device="cpu", threads=1))
    if spec.teacher:
        cka = {level: {"foreground": 0.5, "background": 0.4} for level in ("low", "high")}
        found = Alignment(weights=("a", "b"), samples=5, cells={"foreground": 7, "background": 93}, cka=cka)
        keep_model(run.alignment(spec.teacher), found)
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    run.predictions.write_text(json.dumps({"meta": meta, "results": {token: [] for token in tokens}}))
    errors = dict.fromkeys(("mATE", "mASE", "mAOE", "mAVE", "mAAE"), 0.5)
    metrics = {name: float(values[0]) for name, values in drawn.items()} | errors
    machine = {"device": "cpu", "torch": "2", "threads": "1", "peak_memory_mb": "700", "commit": "aaaaaaaaaaaa"}
    run.complete(Result(metrics, 1_000_000, 60.0, machine, 50.0, {}, {"weights": str(spec.seed), "batches": ""}))


def test_a_report_that_was_made_before(benchmark, tmp_path):
    study = ROOT / "studies" / ("paths.yaml" if benchmark.enabled else "smoke.yaml")
    given = ["--seeds", "0,1,2,3,4" if benchmark.enabled else "0"]
    opened = open_study(Asked(study, seeds=given[1], runs_dir=tmp_path / "runs"), Console(file=io.StringIO()))
    rng = np.random.default_rng(0)
    for id_, job in opened.plan.jobs.items():
        assert isinstance(job.spec, DetectorJobSpec)
        tokens = opened.root.tokens(job.spec.data.eval_split)
        make_up(RunFolder(opened.runs_dir / id_), job, tokens, 1000 if benchmark.enabled else 20, rng)

    def report():
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "harness.report", str(study), *given]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime

    first = report()
    page = tmp_path / "reports" / study.stem / "report.html"
    before = page.read_bytes()
    seconds = [benchmark.pedantic(report)] if not benchmark.enabled else [report() for _ in range(5)]
    assert page.read_bytes() == before
    benchmark.extra_info |= {
        "runs": len(opened.plan.jobs),
        "CPU-seconds, first": round(first, 1),
        "CPU-seconds, made before": [round(each, 1) for each in sorted(seconds)],
    }
