"""The card, the driver and the libraries."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from tests.gpu.common import Rows, libraries

PACKAGES = "torch", "triton", "numpy", "lightning", "transformers", "spconv-cu126", "cumm-cu126", "spconv-triton"


def main() -> None:
    """One row a fact."""
    rows = Rows()
    asked = "--query-gpu=name,driver_version,memory.total"
    rows.add(
        what="nvidia-smi",
        value=subprocess.check_output(["nvidia-smi", asked, "--format=csv,noheader"]).decode().strip(),
    )
    rows.add(what="compute capability", value=str(torch.cuda.get_device_capability()))
    rows.add(what="CUDA of torch", value=str(torch.version.cuda))
    rows.add(what="python", value=platform.python_version())
    for name in (
        "torch",
        "triton",
        "numpy",
        "lightning",
        "transformers",
        "spconv-cu126",
        "cumm-cu126",
        "spconv-triton",
    ):
        try:
            rows.add(what=name, value=version(name))
        except PackageNotFoundError:
            rows.add(what=name, value="not installed")
    rows.add(what="sparse convolutions", value=", ".join(libraries(compiling=True)))
    for where, flags in (("convolutions", torch.backends.cudnn), ("matrix products", torch.backends.cuda.matmul)):
        rows.add(what=f"TF32 in {where}", value=str(flags.allow_tf32))


if __name__ == "__main__":
    main()
