"""python -m harness.doctor: check this machine for problems that would stop or slow a study, and name the remedy."""

import json
import os
import platform
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import platformdirs
import typer
from rich.console import Console

from harness import flags
from harness.console import print_table, say, size_text
from harness.driver import CUDA_13_DRIVER, MASK, Gpu, are_hidden, gpus_of_driver, install_torch
from harness.errors import InputError
from harness.program import Program

if TYPE_CHECKING:
    from detectors.encoders.sparse_library import SparsePackages

console = Console()
_say = partial(say, console)
app = Program()

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
DATASET_BYTES = 200e6
"""Size of the embedded dataset of the included studies, with the images for image teachers."""
SHARED = Path("/dev/shm")
OVERRIDES = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


@dataclass(frozen=True)
class Finding:
    """One checked property of this machine."""

    what: str
    state: str
    wrong: str = ""
    """How it would stop a study or slow it silently; empty if it would not."""
    mend: str = ""
    """The command that fixes it."""


@app.command()
def main(
    tracking_uri: flags.TrackingUri = flags.TRACKING,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a list of objects.")] = False,
) -> None:
    """Check the installation, GPU, memory, disks and MLflow database, and name a command that fixes each problem.

    The exit status is 1 if a problem would stop a study or slow it silently. The command changes nothing.
    """
    findings = [*examine(tracking_uri)]
    wrong = [each for each in findings if each.wrong]
    if as_json:
        print(json.dumps([asdict(each) for each in findings], indent=1))
    else:
        print_table(console, ["what", "state"], [[each.what, each.state] for each in findings], names=2)
        for each in wrong:
            _say(f"problem: {each.what}: {each.wrong}", style="red")
            _say(f"  {each.mend}")
        if not wrong:
            _say("no problems found")
    if wrong:
        raise typer.Exit(1)


def examine(tracking_uri: str) -> Iterator[Finding]:
    """Yield all findings in the order of the table."""
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    yield from _packages()
    computing = [*_compute()]
    yield from computing
    if find_spec("torch") is not None:
        yield device_finding(any(each.wrong for each in computing))
    yield from _machine()
    yield _database(tracking_uri)


def _packages() -> Iterator[Finding]:
    """Check this package, its requirements, and how many versions agree with constraints.txt."""
    missing = sorted({name for name in _required() if _version(name) is None})
    state = f"{_version('crossbev') or 'not installed'}, {Path(__file__).parent}"
    install = (
        f"pip install -c {CONSTRAINTS} -e {CONSTRAINTS.parent}" if CONSTRAINTS.is_file() else "pip install crossbev"
    )
    yield Finding(
        "crossbev",
        state,
        f"required packages are not installed: {', '.join(missing)}" if missing else "",
        f"{install}  # after: pip uninstall -y crossbev" if missing else "",
    )
    if CONSTRAINTS.is_file():
        pinned = constraints(CONSTRAINTS.read_text())
        there = {name: _version(name) for name in pinned}
        others = {name: here for name, here in there.items() if here is not None and not _is_pinned(here, pinned[name])}
        installed = sum(here is not None for here in there.values())
        named = ", ".join(f"{name} {here} ({pinned[name]})" for name, here in others.items())
        yield Finding(
            "versions",
            f"{installed - len(others)} of {installed} packages as in constraints.txt; others: {named or 'none'}",
        )


def _required() -> list[str]:
    """Names of the packages required without any extra; none if crossbev is not installed."""
    try:
        lines = requires("crossbev") or []
    except PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line]


def constraints(text: str) -> dict[str, str]:
    """Name to version of the lines NAME==VERSION."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    return {name: pinned for name, equals, pinned in (line.partition("==") for line in lines) if equals}


def _is_pinned(here: str, pinned: str) -> bool:
    # A wheel's build, such as +cpu, says for which device it is.
    return here.partition("+")[0] == pinned.partition("+")[0]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _compute() -> Iterator[Finding]:
    """Check torch, its devices, the library for sparse convolution, and the numerical precision."""
    gpus = gpus_of_driver()
    known = "; ".join(f"{gpu.name}, {gpu.memory}" for gpu in gpus)
    yield Finding("GPU driver", f"{gpus[0].driver}: {known}" if gpus else "none for NVIDIA GPUs")
    if find_spec("torch") is None:
        yield Finding(
            "torch", "not installed", "torch is not installed, and nothing runs without it", "pip install torch"
        )
        return
    import torch

    yield torch_finding(torch, gpus)
    capability = None
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(number)
            capability = (device.major, device.minor)
            yield Finding(
                f"cuda:{number}",
                f"{device.name}, compute capability {device.major}.{device.minor}, {size_text(device.total_memory)}",
                *_unknown_architecture(torch, capability),
            )
    from detectors.encoders.sparse_library import allows_tf32, installed_packages

    yield sparse_finding(capability, installed_packages())
    in_sparse = "on" if allows_tf32(torch.float32) else "off"
    overridden = [name for name in OVERRIDES if os.environ.get(name, "0") != "0"]
    yield Finding(
        "precision",
        f"float32 matmul {torch.get_float32_matmul_precision()}, TF32 in matmul "
        f"{'on' if torch.backends.cuda.matmul.allow_tf32 else 'off'}, in cuDNN "
        f"{'on' if torch.backends.cudnn.allow_tf32 else 'off'}, in sparse convolution {in_sparse}"
        + (f"; overridden by {', '.join(overridden)}" if overridden else ""),
    )


def device_finding(is_told: bool) -> Finding:
    """Check which device a study would use that asks for none.

    Args:
        is_told: Whether another finding says already what is wrong with the GPUs.
    """
    from harness.execute.device import resolve_device

    what = "device of a study"
    try:
        return Finding(what, resolve_device("auto"))
    except InputError as error:
        return Finding(what, "none by default", *(("", "") if is_told else (str(error), f"unset {MASK}")))


def torch_finding(torch: Any, gpus: list[Gpu]) -> Finding:
    """Check torch's build, and whether it can use the GPUs that the driver reports."""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    state = f"{torch.__version__}, built for {built}; sees {seen} CUDA devices"
    if seen or not gpus or are_hidden():
        return Finding("torch", state)
    from harness.execute.device import unseen

    return Finding("torch", state, *unseen(torch.__version__, torch.version.cuda, gpus))


def _unknown_architecture(torch: Any, capability: tuple[int, int]) -> tuple[str, str]:
    """The problem of torch's build with a GPU, and the command that fixes it; both empty if there is none."""
    built = [int(match[1]) for name in torch.cuda.get_arch_list() if (match := re.fullmatch(r"sm_(\d+)a?", name))]
    here = 10 * capability[0] + capability[1]
    # A kernel runs on later GPUs of its generation, too.
    if not built or any(one // 10 == capability[0] and one <= here for one in built):
        return "", ""
    wrong = f"torch was built for {', '.join(torch.cuda.get_arch_list())}, not for sm_{here}"
    return wrong, install_torch(torch.__version__, str(CUDA_13_DRIVER), capability)


def sparse_finding(capability: tuple[int, int] | None, packages: "SparsePackages") -> Finding:
    """Check which library convolves sparse maps, and whether the one for the GPU is missing or overwritten."""
    from detectors.encoders.sparse_library import SPCONV_LAST, TRITON
    from harness.execute.device import overwritten

    what = "sparse convolution"
    if capability is None:
        return Finding(what, "plain torch, as there is no CUDA")
    chosen = packages.choose(capability)
    if packages.lacks_overwritten(capability):
        return Finding(what, chosen or "plain torch", *overwritten(packages.builds))
    if chosen:
        over = (
            ", installed over spconv's build for CPUs"
            if chosen in packages.for_cuda and "spconv" in packages.builds
            else ""
        )
        return Finding(what, chosen + over)
    reason, package, extra = "no library for CUDA is installed", "spconv-cu126 'cumm-cu126<0.8'", "cuda"
    if capability > SPCONV_LAST:
        reason, package, extra = "spconv's kernels end at sm_{}{}".format(*SPCONV_LAST), TRITON, "triton"
    return Finding(
        what,
        "plain torch",
        f"{reason}, so that plain torch convolves",
        f"pip install {package}  # the extra {extra}",
    )


def _machine() -> Iterator[Finding]:
    """Check cores, memory and the disks that a study writes to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("processor", f"{cores} cores for this process, {platform.machine()}, {size_text(memory)} of memory")
    if SHARED.is_dir():
        free = size_text(shutil.disk_usage(SHARED).free)
        yield Finding("shared memory", f"{free} free in {SHARED}, through which loading processes hand over batches")
    cache = platformdirs.user_cache_path("crossbev")
    yield disk_finding("cache folder", cache, "export XDG_CACHE_HOME=FOLDER")
    yield disk_finding("this folder", Path.cwd(), "cd FOLDER")


def disk_finding(what: str, folder: Path, change: str) -> Finding:
    """Check whether a study can write to a folder, and how much space is free.

    Args:
        what: The folder, for people.
        folder: The folder, which need not exist yet.
        change: The command that chooses another folder.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(there).free
    state = f"{folder}, {size_text(free)} free"
    mend = f"{change}  # another folder, one with room"
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return Finding(what, state, "the folder is not writable", mend)
    if free < DATASET_BYTES:
        return Finding(what, state, f"an embedded dataset takes {size_text(int(DATASET_BYTES))}", mend)
    return Finding(what, state)


def _database(uri: str) -> Finding:
    """Check whether this version of MLflow can use the database."""
    from harness.tracking.database import sqlite_file

    what, file = "MLflow", sqlite_file(uri)
    if file is None:
        return Finding(what, f"{_version('mlflow')}; --tracking-uri is not an SQLite file, so it is not checked")
    if not file.exists():
        return Finding(what, f"{_version('mlflow')}; the first study creates {file}")
    aside = f"mv {file} {file}.aside  # a new one is made; crossbev report STUDY.yaml --sync fills it"
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            sound = database.execute("pragma quick_check(1)").fetchone()[0]
            (revision,) = database.execute("select version_num from alembic_version").fetchone()
    except (sqlite3.Error, TypeError) as error:
        if "locked" in str(error):
            return Finding(what, f"{_version('mlflow')}; {file}, in use by another process, so it is not checked")
        return Finding(what, str(file), f"it is not an MLflow database: {error}", aside)
    if sound != "ok":
        return Finding(what, str(file), f"it is damaged: {sound}", aside)
    state = f"{_version('mlflow')}; {file}, {size_text(file.stat().st_size)}"
    known = migrations()
    if revision not in known:
        return Finding(what, state, "a newer MLflow wrote it", "pip install --upgrade mlflow")
    if revision in known.values():
        return Finding(what, state, "an older MLflow wrote it, and this version refuses it", f"mlflow db upgrade {uri}")
    return Finding(what, state)


def migrations() -> Mapping[str, str | None]:
    """Read the revisions of MLflow's tables, each with its predecessor, without importing MLflow."""
    package = find_spec("mlflow")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "store" / "db_migrations" / "versions"
    revisions: dict[str, str | None] = {}
    for file in folder.glob("*.py"):
        fields = dict(re.findall(r"""^(revision|down_revision)\b.*= *["'](\w+)["']""", file.read_text(), re.MULTILINE))
        if "revision" in fields:
            revisions[fields["revision"]] = fields.get("down_revision")
    return revisions


if __name__ == "__main__":
    app()
