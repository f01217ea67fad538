"""The tests of detectors and losses on a machine where CUDA is there, and those that only run on a card."""

import re
import subprocess
import sys

from tests.gpu.common import Rows


def main() -> None:
    """One row a call of pytest."""
    rows = Rows()
    calls = {
        "tests/detectors, tests/distill": ["tests/detectors", "tests/distill", "-n", "8"],
        "sparse convolution on the card": ["tests/detectors/encoders/test_sparse_conv.py", "-k", "cuda", "-p", "no:xdist"],
    }
    for name, arguments in calls.items():
        command = [sys.executable, "-m", "pytest", "-x", "--no-header", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout[-3000:], done.stderr[-2000:])
        counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
        rows.add(tests=name, ok=done.returncode == 0 and counts.get("passed", 0) > 0, **counts)


if __name__ == "__main__":
    main()
