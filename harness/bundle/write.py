"""Writes a bundle: one zip file with everything that the tables of a study need, and the recipe of its trainings."""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import yaml
from pydantic import Field

from detectors.spec import Spec
from harness.errors import InputError
from harness.evidence.provenance import commit_lines, made_by
from harness.evidence.runs import StudyRuns
from harness.opened import Opened
from harness.report.samples import FILE as PICTURES
from harness.study.plan_file import plan_json
from harness.study.spec import StudySpec
from harness.study.yaml_text import Dumper

MANIFEST = "manifest.json"
"""Written last: a checksum of every other member."""
PREDICTIONS, WEIGHTS = "predictions.json", "model.safetensors"
MEMBER = r"(?:\w[\w+-]*(?:\.[\w+-]+)*/)*\w[\w+-]*(?:\.[\w+-]+)*"
"""What a member may be called: no absolute path, and none that leads up."""
_LEFT_OUT = {"state.pt", "lock", "log.txt", "labels", "plots", "examples"}
"""What only a resume needs, what says where a run ran, and what may be large and is made from the rest."""
_DATE = (1980, 1, 1, 0, 0, 0)


class Member(Spec):
    """What the manifest says of a file of the bundle."""

    sha256: str
    size: Annotated[int, Field(ge=0)]
    """In bytes."""


class Manifest(Spec):
    """What a bundle is, and whether it is whole."""

    format: Literal[1] = 1
    """The version of the format."""
    crossbev: str
    """Version of the package that wrote it."""
    study: Annotated[str, Field(pattern=r"^\.*[^/\\.\x00-\x1f][^/\\\x00-\x1f]*$")]
    files: dict[str, Member]


class Environment(Spec):
    """Where the runs were made, and the bundle."""

    python: str
    platform: str
    packages: dict[str, str]
    """Version of each one that is installed where the bundle was written; what made a run is said with the run."""
    seeds: tuple[int, ...]
    commits: tuple[str, ...]
    """Commits of the code that made the runs; with a + where files differed from it."""
    machines: dict[str, dict[str, str]]
    """What each finished run says of its machine."""
    finished_at: dict[str, datetime]


def write_bundle(path: Path, opened: Opened, runs: StudyRuns, tables: Path, predictions: bool, weights: bool) -> int:
    """Write a bundle, which appears only when it is complete; return its number of files.

    Equal studies, runs and tables give equal bytes, in one environment.

    Args:
        path: A new file, or a bundle to replace.
        opened: What it is of; its dataset has to be at hand.
        runs: Of its plan.
        tables: The folder of the tables that were made from it, for readers and to be compared with.
        predictions: Whether the predicted boxes are to be in it, which are most of it.
        weights: Whether the trained detectors are.

    Raises:
        InputError: The file cannot be written, or a run has a flaw, which would be handed on.
    """
    if path.suffix != ".zip":
        raise InputError(f"--bundle {path}: a bundle is a .zip file")
    for damage in runs.damaged.values():
        raise InputError(f"no bundle was written: {damage.message}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w+b") as file:
            with ZipFile(file, "w", ZIP_DEFLATED) as archive:
                members = {}
                for name, content in _contents(opened, runs, tables, predictions, weights):
                    if not re.fullmatch(MEMBER, name, re.ASCII):
                        raise InputError(
                            f"no bundle was written: {name!r} is not an allowed name for a file of a bundle"
                        )
                    members[name] = Member(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
                    _add(archive, name, content)
                manifest = Manifest(crossbev=version("crossbev"), study=opened.name, files=members)
                _add(archive, MANIFEST, _json(manifest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"--bundle {path} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return len(members) + 1


def _add(archive: ZipFile, name: str, content: bytes) -> None:
    info = ZipInfo(name, _DATE)
    info.compress_type, info.create_system, info.external_attr = ZIP_DEFLATED, 3, 0o100644 << 16
    archive.writestr(info, content)


def _contents(
    opened: Opened, runs: StudyRuns, tables: Path, predictions: bool, weights: bool
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files but the manifest, in the order of the bundle."""
    assert opened.root is not None, "a bundle is written where the dataset is"
    environment = _environment(opened, runs)
    papers = _papers(opened.study)
    yield "README.md", _readme(opened, runs, environment).encode()
    asked = f"# {opened.question}\n" if opened.question else ""
    yield "study.yaml", (asked + study_yaml(opened.study, list(papers))).encode()
    for name, path in papers.items():
        yield name, path.read_bytes()
    yield "plan.json", plan_json(opened.plan).encode()
    yield "environment.json", _json(environment)
    for path in sorted(
        path for name in ("table.*", "cost.*", "attribution.csv", PICTURES) for path in tables.glob(name)
    ):
        yield f"tables/{path.name}", path.read_bytes()
    left_out = _LEFT_OUT | (set() if predictions else {PREDICTIONS}) | (set() if weights else {WEIGHTS})
    for id_ in sorted(opened.plan.jobs):
        folder = runs[id_].folder
        for path in sorted(folder.path.rglob("*")):
            parts = path.relative_to(folder.path).parts
            # A file that begins with a dot is being written.
            if parts[0] in left_out or any(part.startswith(".") for part in parts) or not path.is_file():
                continue
            content = path.read_bytes()
            yield "/".join(("runs", id_, *parts)), _portable(content) if path == folder.order else content


def study_yaml(study: StudySpec, papers: list[str]) -> str:
    """The study as it was asked, to be asked again elsewhere.

    Args:
        study: The study with what was overridden in it.
        papers: Where its papers' files are, seen from it.
    """
    # What was not said is not written: some fields must not be given beside others.
    content = study.model_dump(mode="json", exclude_unset=True)
    content |= {"data": study.data.model_dump(mode="json"), "seeds": list(study.seeds), "report": {"papers": papers}}
    if content["data"]["root"] is not None:
        content["data"]["root"] = _name(content["data"]["root"])
    for teacher in content.get("teachers", {}).values():
        for field in teacher.keys() & {"checkpoint", "maps"}:
            teacher[field] = teacher[field] and _name(teacher[field])
    return yaml.dump(content, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)


class _Plain(Dumper):
    """YAML without anchors and aliases, which a bundle must not have."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _name(path: str) -> str:
    """An absolute path means nothing elsewhere."""
    return Path(path).name if _is_absolute(path) else path


def _is_absolute(value: Any) -> bool:
    return isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())


def _portable(content: bytes) -> bytes:
    """A job.json without the fields that say where on a machine something lies."""
    order = json.loads(content)
    return json.dumps({key: value for key, value in order.items() if not _is_absolute(value)}, indent=1).encode()


def _papers(study: StudySpec) -> dict[str, Path]:
    """The papers' files by their names in the bundle."""
    members: dict[str, Path] = {}
    for number, path in enumerate(study.report.papers):
        name = re.sub(r"\W+", "_", path.stem, flags=re.ASCII)
        taken = f"papers/{name}.yaml" in members
        members[f"papers/{name}_{number}.yaml" if taken else f"papers/{name}.yaml"] = path
    return members


def _environment(opened: Opened, runs: StudyRuns) -> Environment:
    results = dict(sorted(runs.results.items()))
    packages = {each.name: each.version for each in distributions()}
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=dict(sorted(packages.items(), key=lambda each: each[0].lower())),
        seeds=opened.study.seeds,
        commits=tuple(sorted({result.machine.get("commit", "unknown") for result in results.values()})),
        machines={id_: result.machine for id_, result in results.items()},
        finished_at={id_: datetime.fromtimestamp(int(runs[id_].finished_at), UTC) for id_ in results},
    )


def _json(content: Spec) -> bytes:
    return content.model_dump_json(indent=1).encode()


def _readme(opened: Opened, runs: StudyRuns, environment: Environment) -> str:
    study, finished = opened.study, len(environment.machines)
    usual = next(iter(made_by(runs)), "")
    commits = " ".join(commit_lines(runs)) or (f"Its runs were made by {usual}." if usual else "Not run yet.")
    given = [f"the checkpoint of teacher {name}" for name, each in study.teachers.items() if each.checkpoint]
    given += [f"the maps of teacher {name}" for name, each in study.teachers.items() if each.maps]
    given += [f"the labels of image teacher {name}" for name, each in study.image_teachers.items() if each.labels]
    if study.data.root is None:
        data = "The dataset is the embedded world, which the first call makes."
    else:
        data = "The dataset is not embedded: add `--data-root` with its folder. plan.json contains its fingerprint."
    return f"""# Bundle of the study {opened.name}

Written by crossbev {version("crossbev")}: {finished} of {len(opened.plan.jobs)} jobs are finished. {commits}

To rebuild the tables and compare them with those in tables/, without a dataset, a GPU or another file:

    python -m harness.report BUNDLE.zip --out reports

To repeat the trainings:

    git checkout {usual.removesuffix("+") or "COMMIT"}
    unzip BUNDLE.zip -d bundle
    python -m harness.run bundle/study.yaml

{data}{f" These files are also needed, at the paths in study.yaml: {', '.join(given)}." if given else ""}

study.yaml contains the study with its overrides, plan.json every job with its spec and every row, environment.json
packages, commits, machines and times, runs/JOB/ the files of each job, and manifest.json the SHA-256 of every file,
which detects damage but not forgery.
"""
