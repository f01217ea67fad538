"""Confirms the best values of a search on fresh scenes and seeds, and writes them as a study."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from distill.weights import published_weight
from harness.errors import input_error_on_os_error
from harness.runs.folder import atomic_write
from harness.search.opened_search import OpenedSearch
from harness.study.plan import Plan, Row
from harness.study.search_spec import Value, arm_switch, overrides
from harness.study.spec import StudySpec
from harness.study.written import put
from harness.study.yaml_text import Dumper, read_yaml

FOUND, CURRENT, PAPER = "found", "current", "paper"


def current_values(opened: OpenedSearch) -> dict[str, Value]:
    """The study's own values of the fields of the space, those that lie in it."""
    values = {key: _current_value(opened, key) for key in opened.search.space}
    return {key: value for key, value in values.items() if opened.search.space[key].holds(value)}


def first_values(opened: OpenedSearch) -> dict[str, dict[str, Value]]:
    """What a search tries before anything else: the study's own values and the published weights, if they lie in it."""
    current = current_values(opened)
    named = {CURRENT: current, PAPER: current | paper_values(opened)}
    space = opened.search.space
    inside = {
        name: values
        for name, values in named.items()
        if all(kind.holds(values.get(key)) for key, kind in space.items())
    }
    if inside.get(CURRENT) == inside.get(PAPER):
        inside.pop(PAPER, None)
    return inside


def paper_values(opened: OpenedSearch) -> dict[str, Value]:
    """The published weights on the searched path, of those weights that the space has; empty where there is none."""
    study = opened.study
    published: dict[str, Value] = {}
    for key in opened.search.space:
        parts = key.split(".")
        if len(parts) == 3 and parts[0] == "losses" and parts[2] == "weight" and parts[1] in study.losses:
            try:
                ends = study.teachers_asked([parts[1]], opened.path)
                published[key] = published_weight(study.kind(parts[1]), study.sensors(ends))
            except ValueError:
                return {}
    return published


def _current_value(opened: OpenedSearch, key: str) -> Any:
    study = opened.study
    if (switch := arm_switch(key, study.arms)) is not None:
        return switch[1] in study.arms[switch[0]]
    parts = key.split(".")
    at: Any = study
    if parts[0] == "losses" and len(parts) > 2:
        at, parts = study.loss(parts[1], opened.path), parts[2:]
    for part in parts:
        at = at.get(part) if isinstance(at, dict) else getattr(at, part, None)
    return at


def variant(opened: OpenedSearch, name: str, values: Mapping[str, Value]) -> StudySpec:
    """Values at the whole schedule, on fresh seeds, scored on what the study reports; as an arm of that name."""
    study = opened.study_of(values)
    arms = {name: study.arms[opened.arm]} if study.paths else {}
    return study.model_copy(update={"arms": arms, "seeds": opened.search.confirm.seeds})


def joined(plans: Mapping[str, Plan]) -> Plan:
    """The plans of variants as one, each job and each row once.

    A searched field of the schedule or the student changes more than the distilled student. A row whose job is another
    one than that of CURRENT then says so in its arm, for rows of one arm are taken for seeds of one training.
    """
    usual = {_what(row): row.job for row in plans[CURRENT].rows}
    union = Plan()
    for name, plan in plans.items():
        for job in plan.jobs.values():
            union.add(job)
        for row in plan.rows:
            distinct = row if usual.get(_what(row), row.job) == row.job else replace(row, arm=own_arm(row.arm, name))
            union.rows += [] if distinct in union.rows else [distinct]
    return union


def own_arm(arm: str, variant: str) -> str:
    """What the arm of a baseline is called that a variant has for itself."""
    return f"{arm} of {variant}"


def _what(row: Row) -> tuple[str | int, ...]:
    return row.role, row.model, row.arm, row.split, row.seed


def write_found(opened: OpenedSearch, values: Mapping[str, Value], out: Path, headline: Sequence[str]) -> None:
    """The study with the values put in and without its search, as a file that `harness.run` takes."""
    content = read_yaml(opened.file.read_text())
    for override in (*opened.given, *overrides(values, opened.study.arms)):
        put(content, override)
    content.pop("search", None)
    if content["arms"].get(opened.arm) == []:
        # No loss at all is best: that is the baseline, which every study has.
        del content["arms"][opened.arm]
        content["paths"] = content["paths"] if content["arms"] else []
    papers = content.get("report", {}).get("papers", [])
    if papers:
        beside = [os.path.relpath(opened.file.parent / paper, out.parent) for paper in papers]
        content["report"]["papers"] = beside
    text = "".join(f"# {line}\n" for line in headline)
    text += "\n" + yaml.dump(content, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=120)
    with input_error_on_os_error(f"{out} cannot be written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, text.encode())
