"""What the documents tell users to install can be installed, and no command of theirs overwrites another's files."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.doctor import constraints

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = {
    extra: {Requirement(each).name for each in required}
    for extra, required in PROJECT["project"]["optional-dependencies"].items()
}
COMMANDS = re.findall(r'^pip install .*"\.\[cuda\].*$', (ROOT / "docs" / "gpu.md").read_text(), re.M)
PINNED = {canonicalize_name(name): pin for name, pin in constraints((ROOT / "constraints.txt").read_text()).items()}


def test_spconvs_builds_come_with_one_extra_each_and_with_no_command_for_tests():
    assert EXTRAS["cpu"] == {"spconv"}
    assert EXTRAS["cuda"] == {"spconv-cu126", "cumm-cu126"}
    base = {Requirement(each).name for each in PROJECT["project"]["dependencies"]}
    for required in (base, EXTRAS["test"], EXTRAS["docs"], EXTRAS["triton"]):
        assert not required & (EXTRAS["cpu"] | EXTRAS["cuda"])
    assert [{"extra": "cpu"}, {"extra": "cuda"}] in PROJECT["tool"]["uv"]["conflicts"]
    for file in ("README.md", "CONTRIBUTING.md", "docs/getting-started.md", "docs/gpu.md"):
        commands = re.findall(r'^pip install .*"\.\[(.+?)\]"', (ROOT / file).read_text(), re.M)
        assert not any("cpu" in extras.split(",") for extras in commands), file


def test_every_package_of_a_gpu_is_pinned():
    for name in EXTRAS["cuda"] | EXTRAS["triton"]:
        assert name in PINNED


@pytest.fixture(scope="module")
def pip(tmp_path_factory):
    """The pip of an empty environment."""
    folder = tmp_path_factory.mktemp("install")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = str(folder / "venv" / "bin" / "python")
    # No wheels that this machine happens to have, such as a build of torch for CPUs.
    env = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_RETRIES": "1"}

    def pip(*words):
        command = [python, "-m", "pip", *words]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=600)

    # Older ones download what they have resolved, gigabytes, also in a dry run.
    newer = pip("install", "--quiet", "pip>=26")
    if newer.returncode:
        pytest.skip(f"no package index can be reached: {newer.stderr.strip().splitlines()[-1]}")

    return pip


def _resolved(pip, tmp_path, words):
    """Name to version of what a command would install; only metadata is downloaded."""
    report = tmp_path / "report.json"
    done = pip("install", "--dry-run", "--use-feature=fast-deps", "--report", str(report), *words)
    assert done.returncode == 0, done.stderr
    assert "Downloading torch" not in done.stdout
    installed = json.loads(report.read_text())["install"]
    return {canonicalize_name(each["metadata"]["name"]): each["metadata"]["version"] for each in installed}


@pytest.mark.slow
def test_command_for_new_drivers_resolves_to_the_pinned_packages_and_cuda_13(pip, tmp_path):
    (command,) = (each for each in COMMANDS if "index-url" not in each)
    chosen = _resolved(pip, tmp_path, shlex.split(command)[2:])
    assert all(PINNED.get(name, version) == version for name, version in chosen.items())
    assert {"torch", "spconv-cu126", "cumm-cu126"} <= chosen.keys()
    assert "spconv" not in chosen
    if sys.platform == "linux":
        assert chosen["cuda-toolkit"].startswith("13.")


@pytest.mark.slow
def test_command_for_old_drivers_takes_torch_of_its_index(pip, tmp_path):
    (command,) = (each for each in COMMANDS if "index-url" in each)
    words = shlex.split(command)[2:]
    if pip("index", "versions", "torch", "--index-url", words[-1]).returncode:
        # In place of an index that cannot be reached, a folder with a torch that needs nothing. Which one pip chooses
        # from both is what is tested.
        _stub(tmp_path, "torch", f"{PINNED['torch']}+cu126")
        words[-2:] = ["--find-links", str(tmp_path)]
    chosen = _resolved(pip, tmp_path, words)
    assert chosen.pop("torch") == f"{PINNED['torch']}+cu126"
    assert all(PINNED.get(name, version) == version for name, version in chosen.items())
    assert {"spconv-cu126", "cumm-cu126"} <= chosen.keys()
    assert "spconv" not in chosen


def _stub(folder, name, version):
    """Write a wheel that has a name and a version."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
def test_package_for_new_cards_resolves_beside_the_pinned_torch(pip, tmp_path):
    chosen = _resolved(pip, tmp_path, ["-c", "constraints.txt", "spconv-triton", "torch"])
    assert chosen["spconv-triton"] == PINNED["spconv-triton"]
    assert chosen["torch"] == PINNED["torch"]
