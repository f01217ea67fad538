"""Flags that mean the same in every command, and what those about the study change in it."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The question, such as studies/paths.yaml.")]
DataRoot = Annotated[Path | None, typer.Option(help="A nuScenes root; an embedded world if not given.")]
Version = Annotated[str | None, typer.Option(help="Version folder in the root, such as v1.0-trainval.")]
Split = Annotated[str | None, typer.Option(help="TRAIN:EVAL splits, or one for both; the version's own if not given.")]
RunsDir = Annotated[Path, typer.Option(help="Run folders; equal jobs of all studies share one.")]
Out = Annotated[Path, typer.Option(help="Tables go to OUT/STUDY.")]
TrackingUri = Annotated[str, typer.Option(help="MLflow tracking store.")]
Seeds = Annotated[str | None, typer.Option(help="Instead of the study's, such as 0,1,2.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as schedule.steps=100.")]

RUNS, OUT, TRACKING = Path("runs"), Path("reports"), "sqlite:///mlflow.db"


def overrides(
    data_root: Path | None, version: str | None, split: str | None, seeds: str | None, set_: Sequence[str] | None
) -> list[str]:
    """These flags as overrides of a study, for `load_study`."""
    found = list(set_ or [])
    if seeds is not None:
        found.append(f"seeds=[{seeds}]")
    # Quoted, as YAML would cut a path at " #" and take 2024 for a number.
    if data_root is not None:
        found.append(f"data.root={json.dumps(str(data_root))}")
    if version is not None:
        found.append(f"data.version={json.dumps(version)}")
        split = split or {"v1.0-trainval": "train:val", "v1.0-mini": "mini_train:mini_val"}.get(version)
    if split is not None:
        train, _, evaluated = split.partition(":")
        found += [f"data.train_split={json.dumps(train)}", f"data.eval_split={json.dumps(evaluated or train)}"]
    return found


def command(program: str, study: Path, given: Sequence[str], runs_dir: Path, out: Path, tracking_uri: str) -> str:
    """A command about a study as it was asked for, for a shell.

    Args:
        program: Its module, such as harness.report.
        study: Its file.
        given: What `overrides` made of its flags.
        runs_dir: As passed.
        out: As passed.
        tracking_uri: As passed.
    """
    chosen = (("--runs-dir", runs_dir, RUNS), ("--out", out, OUT), ("--tracking-uri", tracking_uri, TRACKING))
    flags = [word for flag, value, default in chosen if value != default for word in (flag, str(value))]
    flags += [word for override in given for word in ("--set", override)]
    return shlex.join(["python", "-m", program, str(study), *flags])


def called(
    study: Path,
    data_root: Path | None,
    version: str | None,
    split: str | None,
    seeds: str | None,
    set_: Sequence[str] | None,
) -> str:
    """How people tell this call of a study from others: ``paths --seeds 0,1,2``."""
    # Whole, for a relative path is another dataset elsewhere.
    root = data_root and data_root.resolve()
    given = {"--data-root": root, "--version": version, "--split": split, "--seeds": seeds}
    once = [f"{flag} {value}" for flag, value in given.items() if value is not None]
    return " ".join([study.stem, *once, *(f"--set {each}" for each in set_ or [])])
