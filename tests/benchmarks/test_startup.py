"""What a command costs before it does anything: processor seconds of --help, of a dry run, and of a typo in a study.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``; without it each command runs once, as a test.
"""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import mostly_slow

STUDY = Path(__file__).parents[2] / "studies" / "smoke.yaml"
COMMANDS = {
    "help": (["--help"], 0),
    "help of run": (["run", "--help"], 0),
    "typo": (["run", str(STUDY), "--set", "schedul.steps=3"], 2),
    "dry run": (["run", str(STUDY), "--dry-run"], 0),
}


@pytest.mark.parametrize("name", mostly_slow(COMMANDS, "help of run", "typo"))
def test_a_command_that_trains_nothing(benchmark, name, tmp_path):
    words, status = COMMANDS[name]

    def call():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == status, done.stderr
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    if benchmark.enabled:
        call()  # makes what a first call makes: a dataset, step times, compiled modules
    spent = []
    benchmark.pedantic(lambda: spent.append(call()), rounds=5 if benchmark.enabled else 1)
    benchmark.extra_info["processor seconds"] = min(spent)
