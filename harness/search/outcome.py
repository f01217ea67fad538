"""What a search found: confirmed on scenes and seeds that it never saw, drawn, written down, and ready to run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from distill.weights import published_weight
from harness.errors import InputError
from harness.search.question import Question
from harness.store import atomic_write
from harness.study.plan import Plan
from harness.study.space import Value, arm_switch, overrides
from harness.study.spec import StudySpec

FOUND, CURRENT, PAPER = "found", "current", "paper"


def own_values(question: Question) -> dict[str, Value]:
    """The study's own values of the fields of the space, those that lie in it."""
    found: dict[str, Value] = {}
    for key, kind in question.search.space.items():
        value = _own(question, key)
        if kind.holds(value):
            found[key] = value
    return found


def first_values(question: Question) -> dict[str, dict[str, Value]]:
    """What a search tries before anything else: the study's own values and the published weights, if they lie in it."""
    own = own_values(question)
    named = {CURRENT: own, PAPER: own | paper_values(question)}
    space = question.search.space
    inside = {
        name: values
        for name, values in named.items()
        if all(kind.holds(values.get(key)) for key, kind in space.items())
    }
    if inside.get(CURRENT) == inside.get(PAPER):
        inside.pop(PAPER, None)
    return inside


def paper_values(question: Question) -> dict[str, Value]:
    """The published weights on the searched path, of those weights that the space has; empty where there is none."""
    study = question.study
    found: dict[str, Value] = {}
    for key in question.search.space:
        parts = key.split(".")
        if len(parts) == 3 and parts[0] == "losses" and parts[2] == "weight" and parts[1] in study.losses:
            try:
                ends = study.teachers_asked([parts[1]], question.route)
                found[key] = published_weight(study.kind(parts[1]), study.sensors(ends))
            except ValueError:
                return {}
    return found


def _own(question: Question, key: str) -> Any:
    study = question.study
    if (switch := arm_switch(key, study.arms)) is not None:
        return switch[1] in study.arms[switch[0]]
    parts = key.split(".")
    at: Any = study
    if parts[0] == "losses" and len(parts) > 2:
        at, parts = study.loss(parts[1], question.route), parts[2:]
    for part in parts:
        at = at.get(part) if isinstance(at, dict) else getattr(at, part, None)
    return at


def variant(question: Question, name: str, values: Mapping[str, Value]) -> StudySpec:
    """Values at the whole schedule, on fresh seeds, scored on what the study reports; as an arm of that name."""
    study = question.study_of(values)
    arms = {name: study.arms[question.arm]} if study.paths else {}
    return study.model_copy(update={"arms": arms, "seeds": question.search.confirm.seeds})


def joined(plans: Sequence[Plan]) -> Plan:
    """Several plans as one, each job and each row once."""
    whole = Plan()
    for plan in plans:
        for job in plan.jobs.values():
            whole.add(job)
        whole.rows += [row for row in plan.rows if row not in whole.rows]
    return whole


def write_found(question: Question, values: Mapping[str, Value], out: Path, headline: Sequence[str]) -> None:
    """The study with the values put in and without its search, as a file that `harness.run` takes."""
    content = yaml.safe_load(question.path.read_text())
    content.pop("search", None)
    for override in overrides(values, question.study.arms):
        key, _, value = override.partition("=")
        *parents, last = key.split(".")
        at = content
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = yaml.safe_load(value)
    papers = content.get("report", {}).get("papers", [])
    if papers:
        beside = [os.path.relpath(question.path.parent / paper, out.parent) for paper in papers]
        content["report"]["papers"] = beside
    text = "".join(f"# {line}\n" for line in headline)
    text += "\n" + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, text.encode())
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error
