"""Reads bundles, which may come from strangers: name, size and checksum of each file are checked before its use."""

import hashlib
import os
import re
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

import yaml
from pydantic import ValidationError

from detectors.names import no_imports
from detectors.spec import Spec
from harness.bundle.write import MANIFEST, MEMBER, PREDICTIONS, WEIGHTS, Environment, Manifest
from harness.errors import InputError, first_mistake
from harness.opened import Opened, question
from harness.runs.folder import RunFolder
from harness.study.papers import read_paper
from harness.study.plan import Plan
from harness.study.plan_file import read_plan
from harness.study.spec import StudySpec
from harness.study.yaml_text import read_yaml

LARGEST = 64 * 2**30
"""Bytes of all files of a bundle: some thousand runs with their predictions."""
SUSPICIOUS, MOST_TIMES = 2**30, 200
"""From so many bytes on, a file that packs better than this is none of ours: predictions pack seven times."""
LARGEST_TEXT = 64 * 2**20
"""Bytes of a file that is read as a whole."""
LARGEST_ARRAYS = 2**30
"""Bytes of the arrays in a file of NumPy's, which is packed once more."""
_CHUNK = 2**20
_UNTRUSTED = "importing it would run code of another package; add --trust if you trust the author of the bundle"
# What no table is made from is checked, but stays in the bundle.
_STAYS = (PREDICTIONS, WEIGHTS)
_TORN = (BadZipFile, OSError, EOFError, RuntimeError, ValueError, OverflowError, struct.error, zlib.error)

Content = TypeVar("Content", bound=Spec)


def is_bundle(path: Path) -> bool:
    """Whether a file is meant as a bundle rather than a study file."""
    return path.suffix == ".zip" or is_zipfile(path)


@contextmanager
def unbundled(path: Path, trusted: bool = False) -> Iterator[Opened]:
    """Unpack a bundle to a folder that exists as long as the block lasts.

    Args:
        path: The bundle.
        trusted: Whether modules that its study names as ``package.module:Name`` may be imported, which runs them.

    Raises:
        InputError: It is not a bundle, is damaged, or names modules without being trusted.
    """
    try:
        archive = ZipFile(path)
    except FileNotFoundError as error:
        raise InputError(f"bundle {path} does not exist") from error
    except _TORN as error:
        raise InputError(f"{path} is not a bundle, or is incomplete: {error}") from error
    with archive, tempfile.TemporaryDirectory(prefix="crossbev-bundle-") as folder:
        manifest = _check_members(archive, path)
        for info in archive.infolist():
            if info.filename != MANIFEST:
                _unpack(archive, info, manifest, path, Path(folder))
        yield _opened(path, Path(folder), manifest, trusted)


def differing_tables(opened: Opened, made: Path) -> list[str]:
    """Return the tables of an opened bundle that differ from the rebuilt ones in any byte.

    Args:
        opened: From `unbundled`.
        made: Folder of the tables.
    """
    stored = sorted((opened.runs_dir.parent / "tables").glob("*"))
    return [
        each.name
        for each in stored
        if not (made / each.name).is_file() or (made / each.name).read_bytes() != each.read_bytes()
    ]


def _check_members(archive: ZipFile, path: Path) -> Manifest:
    """The manifest, once it is clear that the bundle's files are the ones it lists, and could be unpacked."""
    infos = archive.infolist()
    for info in infos:
        if not re.fullmatch(MEMBER, info.filename, re.ASCII):
            raise InputError(f"bundle {path}: {info.filename!r} is not an allowed name for a file of a bundle")
        if info.flag_bits & 1 or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise InputError(f"bundle {path}: {info.filename} is encrypted or neither stored nor deflated")
    count = Counter(info.filename for info in infos)
    if twice := [name for name in count if count[name] > 1]:
        raise InputError(f"bundle {path} contains {twice[0]} twice")
    size, packed = sum(info.file_size for info in infos), path.stat().st_size
    if size > LARGEST or (size > SUSPICIOUS and size > MOST_TIMES * packed):
        raise InputError(
            f"bundle {path} of {packed:,} bytes would unpack to {size:,}; allowed: {LARGEST:,} in all, and, from "
            f"{SUSPICIOUS:,} on, {MOST_TIMES} times the file's own size"
        )
    if MANIFEST not in count:
        raise InputError(
            f"{path} is not a bundle: it has no {MANIFEST}. To write one: harness.report STUDY.yaml --bundle FILE.zip"
        )
    manifest = _parsed(Manifest, _text(archive, MANIFEST, path), path, MANIFEST)
    if missing := sorted(manifest.files.keys() - count.keys()):
        raise InputError(f"bundle {path}: {missing[0]} is missing")
    if added := sorted(count.keys() - manifest.files.keys() - {MANIFEST}):
        raise InputError(f"bundle {path}: {added[0]} is not listed in {MANIFEST}, so it was added later")
    for name in ("study.yaml", "plan.json", "environment.json"):
        if name not in manifest.files:
            raise InputError(f"bundle {path}: {name} is missing, and {MANIFEST} does not list it")
    return manifest


def _unpack(archive: ZipFile, info: ZipInfo, manifest: Manifest, path: Path, folder: Path) -> None:
    """Check a file, and write it into the folder if tables are made from it."""
    name, expected, digest, size = info.filename, manifest.files[info.filename], hashlib.sha256(), 0
    to = Path(os.devnull) if name.endswith(_STAYS) else folder / name
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as packed, to.open("wb") as file:
            while chunk := packed.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
    except _TORN as error:
        raise InputError(f"bundle {path}: {name} cannot be read: {error}") from error
    if (size, digest.hexdigest()) != (expected.size, expected.sha256):
        raise InputError(f"bundle {path}: {name} was changed: its SHA-256 differs from that in {MANIFEST}")
    if name.endswith(".npz"):
        _check_arrays(to, path, name)


def _check_arrays(file: Path, path: Path, name: str) -> None:
    """Raise InputError where a file of NumPy's, a zip of its own, would fill the memory."""
    if is_zipfile(file):
        with ZipFile(file) as arrays:
            size = sum(info.file_size for info in arrays.infolist())
        if size > LARGEST_ARRAYS:
            raise InputError(f"bundle {path}: {name} would unpack to {size:,} bytes; allowed: {LARGEST_ARRAYS:,}")


def _opened(path: Path, folder: Path, manifest: Manifest, trusted: bool) -> Opened:
    """From the unpacked files."""
    for name in manifest.files:
        if not name.startswith("runs/") and (folder / name).stat().st_size > LARGEST_TEXT:
            raise InputError(f"bundle {path}: {name} is larger than {LARGEST_TEXT:,} bytes")
    try:
        plan = read_plan((folder / "plan.json").read_bytes())
    except ValueError as error:
        raise InputError(f"bundle {path}: plan.json: {error}") from error
    runs = folder / "runs"
    environment = _parsed(Environment, (folder / "environment.json").read_bytes(), path, "environment.json")
    _date_results(path, plan, runs, environment)
    runs.mkdir(exist_ok=True)
    study = _study(path, folder, manifest, trusted)
    return Opened(manifest.study, study, plan, runs, None, question(folder / "study.yaml"), folder / "tables")


def _date_results(path: Path, plan: Plan, runs: Path, environment: Environment) -> None:
    """Give the results the times at which the runs were finished."""
    if strange := {run.name for run in runs.glob("*")} - plan.jobs.keys():
        raise InputError(f"bundle {path}: runs/{min(strange)} belongs to no job of its plan.json")
    for id_, finished in environment.finished_at.items():
        result = RunFolder(runs / id_).result_file
        if id_ not in plan.jobs or not result.is_file():
            raise InputError(f"bundle {path}: environment.json lists run {id_}, which has no result in the bundle")
        os.utime(result, (finished.timestamp(), finished.timestamp()))


def _study(path: Path, folder: Path, manifest: Manifest, trusted: bool) -> StudySpec:
    """The study, with its papers where they were unpacked."""
    papers = {name for name in manifest.files if name.startswith("papers/")}
    try:
        for name in ("study.yaml", *papers):
            _refuse_aliases((folder / name).read_text())
        with nullcontext() if trusted else no_imports(_UNTRUSTED):
            study = StudySpec.model_validate(read_yaml((folder / "study.yaml").read_text()))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"bundle {path}: study.yaml: {' '.join(str(error).split())}") from error
    for paper in study.report.papers:
        if paper.as_posix() not in papers:
            raise InputError(f"bundle {path}: study.yaml names {paper}, which the bundle lacks")
        read_paper(folder / paper)
    report = study.report.model_copy(update={"papers": tuple(folder / paper for paper in study.report.papers)})
    return study.model_copy(update={"report": report})


def _refuse_aliases(text: str) -> None:
    """Raise ValueError for YAML with aliases, because a few lines of it could expand to gigabytes."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
        raise ValueError("an alias (*NAME) is not allowed in a bundle")


def _text(archive: ZipFile, name: str, path: Path) -> bytes:
    if archive.getinfo(name).file_size > LARGEST_TEXT:
        raise InputError(f"bundle {path}: {name} is larger than {LARGEST_TEXT:,} bytes")
    try:
        return archive.read(name)
    except _TORN as error:
        raise InputError(f"bundle {path}: {name} cannot be read: {error}") from error


def _parsed(kind: type[Content], text: bytes, path: Path, name: str) -> Content:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"bundle {path}: {name}: {first_mistake(error)}") from error
