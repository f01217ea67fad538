"""Chooses the device of a study: one that is there, is as fast as it can be, and is told before anything starts."""

import torch

from detectors.encoders.sparse_library import installed_packages, sparse_text
from harness.driver import MASK, Gpu, are_hidden, gpus_of_driver, install_torch, is_too_old, visible
from harness.errors import InputError, unknown

ON_THE_CPU = "--device cpu computes on the processor"


def gpu_count() -> int:
    """The GPUs that this process can use."""
    # The count alone may be the driver's, also where torch's build of CUDA cannot use them.
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def resolve_device(asked: str) -> str:
    """The device that a flag asks for: cpu, cuda or mps; auto is the fastest of this machine.

    Raises:
        InputError: For a device that is unknown or not there; and, unless the processor is asked for, for GPUs that
            are there but could not be used, all or in part, or not by their library.
    """
    here = {"auto": True, "cpu": True, "cuda": gpu_count() > 0, "mps": torch.backends.mps.is_available()}
    if asked not in here:
        raise InputError(f"--device: {unknown('device', asked, here)}")
    if asked in ("cpu", "mps") and here[asked]:
        return asked
    if reason := _lost(gpu_count()):
        raise InputError(f"--device {asked}: {reason}; {ON_THE_CPU}")
    if not here[asked]:
        raise InputError(
            f"--device {asked}: this machine has no such device; allowed: {', '.join(d for d in here if here[d])}"
        )
    if not here["cuda"]:
        return "mps" if here["mps"] else "cpu"
    packages = installed_packages()
    if packages.lacks_overwritten(torch.cuda.get_device_capability()):
        raise InputError(f"--device {asked}: {'; '.join(overwritten(packages.builds))}; {ON_THE_CPU}")
    return "cuda"


def _lost(seen: int) -> str:
    """Why torch does not see GPUs that it should see; empty if it sees them all, or if the user hides all."""
    if are_hidden():
        return ""
    entries = visible() or []
    if "-1" in entries:
        allowed = ",".join(entry for entry in entries if entry != "-1")
        return f"{MASK}={','.join(entries)}: CUDA ignores what follows -1; allowed: {allowed}, or -1 alone"
    if seen and entries and all(entry.isdecimal() for entry in entries) and seen < len(entries):
        return f"{MASK}={','.join(entries)} names {len(entries)} GPUs, but only {seen} can be used"
    if seen or not (gpus := gpus_of_driver()):
        return ""
    return "; ".join(unseen(torch.__version__, torch.version.cuda, gpus))


def unseen(version: str, cuda: str | None, gpus: list[Gpu]) -> tuple[str, str]:
    """Why torch sees none of the GPUs that the driver reports, and the command that mends it.

    Args:
        version: Torch's.
        cuda: The version of CUDA that it was built for; None: for CPUs.
        gpus: At least one.
    """
    named = f"the driver {gpus[0].driver} reports {_count(len(gpus), 'GPU')} ({gpus[0].name})"
    command = install_torch(version, gpus[0].driver)
    if not cuda:
        return f"{named}, but this build of torch is for CPUs", command
    if entries := visible():
        return f"{named}, but torch sees none of {MASK}={','.join(entries)}", f"unset {MASK}"
    if is_too_old(gpus[0].driver, cuda):
        return f"{named}, but torch sees none: CUDA {cuda} needs a newer driver", f"{command}  # or a newer driver"
    return (
        f"{named}, but torch sees none: perhaps this container was started without them",
        'python -c "import torch; torch.cuda.init()"  # tells why; docker run --gpus all',
    )


def overwritten(builds: tuple[str, ...]) -> tuple[str, str]:
    """What is wrong where spconv's build for CPUs lies over one for CUDA, and the command that mends it."""
    build = next(name for name in builds if name != "spconv")
    return (
        f"spconv's build for CPUs, of the extra cpu, was installed over {build}, of the extra cuda, in the same folder",
        f"pip uninstall -y {' '.join(builds)} && pip install --force-reinstall --no-deps {build}",
    )


def device_text(device: str, workers: int, loader_workers: int) -> str:
    """Tell where trainings will run, how many at once, and what convolves their sparse maps."""
    at_once = _count(workers, "training") + " at once"
    if device != "cuda":
        hidden = f"; {MASK} hides the GPUs" if device == "cpu" and are_hidden() else ""
        return f"device: {device}, {at_once}{hidden}"
    names = sorted({torch.cuda.get_device_name(number) for number in range(gpu_count())})
    loading = f"{_count(loader_workers, 'process')} loading for each"
    return (
        f"device: {_count(gpu_count(), 'GPU')} ({', '.join(names)}), {at_once}, {loading}; "
        f"sparse convolution: {sparse_text(device)}"
    )


def _count(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"
