"""The example of docs/evaluation.md runs as it is printed."""

import json
import re
from pathlib import Path

import pytest

from detectors.batch import Inputs
from harness.data.nuscenes import read
from harness.evaluate.submission import write_submission


def test_the_example_from_python_runs(smoke_root, smoke_path, tmp_path, capsys):
    split, paths = "synthetic_val", [tmp_path / "a.json", tmp_path / "b.json"]
    boxes = {token: read(smoke_root, token, Inputs()).boxes for token in smoke_root.tokens(split)}
    content = write_submission(paths[0], smoke_root, boxes, frozenset({"lidar"}))
    empty = {"meta": content["meta"], "results": {token: [] for token in content["results"]}}
    paths[1].write_text(json.dumps(empty))
    page = Path(__file__).parents[3] / "docs" / "evaluation.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    exec(example, {"dataroot": smoke_path, "version": "v1.0-synthetic", "split": split, "paths": paths})
    nds, gain, *_ = map(float, capsys.readouterr().out.split())
    # Without a box every error is 1 and NDS is 0.
    assert 0.4 < nds <= 1
    assert gain == pytest.approx(nds)
