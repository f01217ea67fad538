"""Flags that all commands share, and `Asked`: a study file with the changes that the flags make."""

import inspect
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from detectors.names import unknown


def uri_at_home(uri: str | None) -> str | None:
    """Expand a ~ at the beginning of the file of a store's address."""
    if uri is None:
        return None
    before, slashes, file = uri.rpartition(":///")
    return before + slashes + os.path.expanduser(file)


StudyPath = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file, such as studies/paths.yaml.")]
DataRoot = Annotated[Path | None, typer.Option(help="A nuScenes root. Default: the embedded world.")]
Version = Annotated[str | None, typer.Option(help="Version folder in the root, such as v1.0-trainval.")]
Split = Annotated[str | None, typer.Option(help="TRAIN:EVAL splits, or one for both. Default: those of the version.")]
RunsDir = Annotated[Path, typer.Option(help="Folder of the run folders, which all studies share.")]
Out = Annotated[Path, typer.Option(help="Folder of the reports. Tables are written to OUT/STUDY.")]
TrackingUri = Annotated[str, typer.Option(help="MLflow tracking store.", callback=uri_at_home)]
Seeds = Annotated[str | None, typer.Option(help="Seeds to use instead of the study's, such as 0,1,2 or 0-2.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change one value: KEY=VALUE, such as schedule.steps=100.")
]
Columns = Annotated[
    str | None,
    typer.Option(help="Columns to print, from metrics, errors, paper and cost. Default: as many as fit."),
]
COLUMNS = ("metrics", "errors", "paper", "cost")
"""Groups of columns. The first is always shown; a terminal shows the others if it is wide enough."""
Lockstep = Annotated[
    str,
    typer.Option(
        help="Students of one teacher and seed that train side by side and share batches: auto, off or a number."
    ),
]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")]

RUNS, OUT, TRACKING = Path("runs"), Path("reports"), "sqlite:///mlflow.db"


def column_groups(text: str | None) -> tuple[str, ...] | None:
    """Parse --columns, such as metrics,errors, to groups of columns; None if it is not given."""
    names = text and [name.strip() for name in text.split(",")]
    for name in names or ():
        if name not in COLUMNS:
            raise typer.BadParameter(f"--columns {text}: {unknown('group of columns', name, COLUMNS)}")
    return (COLUMNS[0], *names) if names else None


def lockstep_of(text: str) -> int | None:
    """Parse --lockstep to the largest number of students side by side; None for auto."""
    known = {"auto": None, "off": 1}
    if text in known:
        return known[text]
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"--lockstep {text}: allowed: auto, off, or a number from 1")
    return int(text)


@dataclass(frozen=True)
class Asked:
    """A study as a command line requests it. Each field is a flag; see `asks`."""

    path: StudyPath
    data_root: DataRoot = None
    version: Version = None
    split: Split = None
    seeds: Seeds = None
    set_: Set = None
    runs_dir: RunsDir = RUNS
    out: Out = OUT
    tracking_uri: TrackingUri = TRACKING

    @property
    def name(self) -> str:
        """The name of the study, which its tables, experiments and searches share."""
        return self.path.stem

    @property
    def tables(self) -> Path:
        """The folder of its tables."""
        return self.out / self.name

    @property
    def overrides(self) -> list[str]:
        """The changes that the flags make to the study, for `load_study`."""
        changes = list(self.set_ or [])
        if self.seeds is not None:
            changes.append(f"seeds=[{self.seeds}]")
        # Quoted, as YAML would cut a path at " #" and take 2024 for a number.
        if self.data_root is not None:
            changes.append(f"data.root={json.dumps(str(self.data_root))}")
        split = self.split
        if self.version is not None:
            changes.append(f"data.version={json.dumps(self.version)}")
            split = split or {"v1.0-trainval": "train:val", "v1.0-mini": "mini_train:mini_val"}.get(self.version)
        if split is not None:
            train, _, evaluated = split.partition(":")
            changes += [f"data.train_split={json.dumps(train)}", f"data.eval_split={json.dumps(evaluated or train)}"]
        return changes

    @property
    def call(self) -> str:
        """A readable name of this call of the study: ``paths --seeds 0,1,2``."""
        # Absolute, for a relative path is another dataset elsewhere.
        root = self.data_root and self.data_root.resolve()
        given = {"--data-root": root, "--version": self.version, "--split": self.split, "--seeds": self.seeds}
        once = [f"{flag} {value}" for flag, value in given.items() if value is not None]
        return " ".join([self.name, *once, *(f"--set {change}" for change in self.set_ or [])])

    @property
    def of_study(self) -> dict[str, object]:
        """The flags that say what is asked and where its runs are; true of those that are given."""
        given: dict[str, object] = {"--data-root": self.data_root, "--version": self.version, "--split": self.split}
        return given | {"--seeds": self.seeds, "--set": self.set_, "--runs-dir": self.runs_dir != RUNS}

    def again(self, command: str, *options: str) -> str:
        """Describe another command for this call of the study, without repeating the values of its flags."""
        places = {"--out": self.out != OUT, "--tracking-uri": self.tracking_uri != TRACKING}
        same = ", ".join(flag for flag, value in (self.of_study | places).items() if value)
        return shlex.join(["crossbev", command, str(self.path), *options]) + (f" and the same {same}" if same else "")

    def command(self, program: str, *, places: bool = True) -> str:
        """A shell command for this study.

        Args:
            program: Its module, such as harness.report.
            places: Whether to include the flags of runs, tables and MLflow's store that differ from their defaults.
        """
        chosen = (
            ("--runs-dir", self.runs_dir, RUNS),
            ("--out", self.out, OUT),
            ("--tracking-uri", self.tracking_uri, TRACKING),
        )
        words = [word for flag, value, default in chosen if places and value != default for word in (flag, str(value))]
        words += [word for change in self.overrides for word in ("--set", change)]
        return shlex.join(["python", "-m", program, str(self.path), *words])


def asks(*without: str, path: Any = StudyPath) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the flags of `Asked` to a Typer command, which receives them as its parameter ``asked``.

    Args:
        without: Fields of `Asked` that this command lacks.
        path: The annotation of the argument, if the command accepts more than a study file.
    """

    def decorate(main: Callable[..., None]) -> Callable[..., None]:
        shared = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.name == "path" else field.default,
                annotation=path if field.name == "path" else field.type,
            )
            for field in fields(Asked)
            if field.name not in without
        ]
        command_flags = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(main).parameters.items()
            if name != "asked"
        ]
        names = {parameter.name for parameter in shared}

        @wraps(main)
        def command(**given: Any) -> None:
            asked = Asked(**{name: value for name, value in given.items() if name in names})
            main(asked, **{name: value for name, value in given.items() if name not in names})

        # What Typer reads of a command: both, in one release or another.
        command.__signature__ = inspect.Signature([*shared, *command_flags])  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*shared, *command_flags)}
        return command

    return decorate
