"""Estimates the time of a plan from similar finished jobs, or from a few timed training steps."""

import json
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import platformdirs
import torch

from detectors.detector import DetectorSpec
from detectors.encoders.sparse_library import sparse_text
from detectors.segmenter import SegmenterSpec
from harness.errors import InputError
from harness.execute.forecast import makespan
from harness.execute.lockstep import Lockstep
from harness.execute.site import Site
from harness.jobs.kind import StepSeconds
from harness.jobs.kinds import kind_of
from harness.runs.folder import atomic_write, make_folder, run_folders
from harness.study.jobs import DetectorJobSpec, Job, spec_hash
from harness.study.plan import Plan

TIMED_STEPS = 3


@dataclass(frozen=True)
class Estimate:
    """The time of the jobs that are still to run."""

    by_job: dict[str, float]
    """Seconds of each, by id."""
    seconds: float
    """Of all of them, with the workers of the site."""
    by_runs: int
    """Jobs whose time is that of finished ones alike; the others' is from steps timed on random input."""


def estimate(plan: Plan, todo: list[Job], site: Site, tell: Callable[[str], None] = lambda _: None) -> Estimate:
    """The time of what is to run; steps are timed on this machine's processor or GPU, once for all calls.

    Args:
        plan: The study.
        todo: The jobs without a result.
        site: Where they will run.
        tell: Called with a line for people where steps have to be timed, which takes seconds.
    """
    known = _finished(site) if todo else {}
    step, samples = _timed(site, tell), cache(site.root.count)
    by_job, by_runs = {}, 0
    together = Lockstep(site).sizes(todo)
    for job in todo:
        taught_by = job.spec.teacher if isinstance(job.spec, DetectorJobSpec) else None
        teacher = plan.detector_spec(taught_by).detector.model_dump(mode="json") if taught_by else None
        kind = _kind(job.spec.model_dump(mode="json"), teacher)
        if kind in known:
            by_job[job.id] = mean(known[kind])
            by_runs += 1
        else:
            alone = kind_of(job.spec).estimate(job.spec, plan, samples, step, together[job.id])
            # Nearly all of a training is shared.
            by_job[job.id] = alone / site.gpus_per_job if job.spec.steps else alone
    waiting = {job.id: job for job in todo}
    return Estimate(by_job, makespan(waiting, by_job, site.workers), by_runs)


def _kind(spec: dict[str, Any], teacher: dict[str, Any] | None) -> str:
    """What decides how long a job takes: neither seed nor weights.

    Specs as JSON, for a runs folder may hold those of other versions, too.
    """
    schedule = spec.get("schedule") or {}
    length = [schedule.get(key) for key in ("steps", "batch_size", "precision")]
    model = [spec.get(key) for key in ("detector", "segmenter", "model", "given", "data", "fingerprint", "split")]
    parts = [*model, length, sorted(spec.get("losses", {})), teacher]
    return json.dumps(parts, sort_keys=True)


def _finished(site: Site) -> dict[str, list[float]]:
    """Seconds of the finished jobs in the runs folder that ran on such a device with as many threads, by kind."""
    by_kind: dict[str, list[float]] = {}
    for folder in run_folders(site.runs):
        run = folder.peek()
        if run.order is None or run.result is None:
            continue
        machine = run.result.machine
        alike = machine.get("threads") == str(site.threads) and machine.get("gpus", "1") == str(site.gpus_per_job)
        if machine.get("device", "").split(" ")[0] == site.device and alike:
            kind = _kind(run.order.spec, (run.order.teacher_spec or {}).get("detector"))
            by_kind.setdefault(kind, []).append(run.result.seconds)
    return by_kind


def _timed(site: Site, tell: Callable[[str], None]) -> StepSeconds:
    """Seconds of a training step on random input; each model is timed once on a machine, and read from then on."""
    device = site.device
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    here = [platform.node(), device, name, site.threads, torch.__version__, version("crossbev"), sparse_text(device)]

    tell_once = cache(lambda: tell("timing a training step of each detector, once on this machine"))

    @cache
    def step(model: DetectorSpec | SegmenterSpec, batch_size: int) -> float:
        key = spec_hash({"here": here, "model": model.model_dump(mode="json"), "batch_size": batch_size})
        times = _step_times()
        if key not in times:
            tell_once()
            times[key] = _time(model, batch_size, device, site.threads)
            with suppress(OSError, InputError):  # a cache that cannot be written costs time, and no plan
                make_folder(steps_file().parent)
                atomic_write(steps_file(), json.dumps(times, indent=0).encode())
        return times[key]

    return step


def _time(model: DetectorSpec | SegmenterSpec, batch_size: int, device: str, threads: int) -> float:
    # With what counts operations, a third of a second to import.
    from detectors.cost import measure, segmenter_step_seconds

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    on = (batch_size, device, TIMED_STEPS)
    if isinstance(model, DetectorSpec):
        seconds = measure(model, *on).step_seconds
    else:
        seconds = segmenter_step_seconds(model, *on)
    torch.set_num_threads(before)
    return seconds


def steps_file() -> Path:
    """Where step times are kept, by a hash of model, batch size and machine."""
    return platformdirs.user_cache_path("crossbev") / "step_seconds.json"


def _step_times() -> dict[str, float]:
    """What the file has; one that is damaged has none, for its times are soon taken again."""
    try:
        times = json.loads(steps_file().read_bytes())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in times.items() if isinstance(value, float)} if isinstance(times, dict) else {}
