"""A run folder is finished exactly when it has a result, and never half-written."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.runs.folder import Busy, Contents, Damaged, Order, Result, RunFolder, atomic_write


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write("job.json", {"spec": 1})
    return folder


@pytest.fixture
def result():
    return Result(metrics={"mAP": 0.25, "mAOE": float("nan")}, parameters=3, seconds=1.5, machine={"torch": "2"})


def test_result_completes_and_drops_what_only_a_resume_needs(folder, result):
    folder.state.write_bytes(b"state")
    folder.fail("an earlier attempt", wrong_input=False)
    assert folder.result() is None
    folder.complete(result)
    assert folder.result().metrics["mAP"] == 0.25
    assert not folder.state.exists()
    assert folder.failure() is None


def test_interrupted_write_leaves_the_old_content(folder, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        folder.write("job.json", {"spec": 2})
    assert folder.job() == {"spec": 1}


def test_rewind_forgets_the_steps_that_will_be_run_again(folder):
    for step in range(5):
        folder.log_step(step, {"loss": float(step)})
    folder.rewind(3)
    assert [line["step"] for line in folder.steps()] == [0, 1, 2]


def test_line_being_written_is_not_read(folder):
    assert folder.last_step() is None
    folder.log_step(0, {"loss": 1.0})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')
    assert [line["step"] for line in folder.steps()] == [0]
    assert folder.last_step() == {"step": 0, "loss": 1.0}


def test_last_step_of_a_long_file_is_its_last(folder):
    for step in range(300):
        folder.log_step(step, {"loss": 0.123456789, "heatmap": 0.5})
    assert folder.last_step()["step"] == 299


def test_second_owner_is_refused_until_the_first_is_gone(folder):
    with folder.locked(), pytest.raises(Busy, match="in use"), RunFolder(folder.path).locked():
        pass
    with RunFolder(folder.path).locked():
        assert folder.job() == {"spec": 1}


def test_a_peek_says_what_can_be_read_and_whether_something_cannot(folder, result):
    assert folder.peek() == Contents(None, None, None, damaged=True)  # an order has a label
    folder.begin({"label": "a job", "spec": {"of": "another version"}, "threads": 1})
    folder.fail("out of memory", wrong_input=False)
    order = Order("a job", {"of": "another version"})
    assert folder.peek() == Contents(order, None, "out of memory", damaged=False)
    folder.complete(result)
    assert folder.peek().result.seconds == 1.5
    folder.result_file.write_text("{")
    assert folder.peek() == Contents(order, None, None, damaged=True)
    assert RunFolder(folder.path / "none").peek() == Contents(None, None, None, damaged=False)


@pytest.mark.parametrize("content", ["{", "[]", '{"metrics": {}}', '{"reason": "x", "wrong_input": "perhaps"}'])
@pytest.mark.parametrize("name", ["result", "failure"])
def test_a_damaged_file_is_wrong_input_that_names_it(folder, name, content):
    (folder.path / f"{name}.json").write_text(content)
    with pytest.raises(Damaged, match=f"{name}.json is damaged") as error:
        getattr(folder, name)()
    assert f"delete its folder {folder.path}" in str(error.value)
    assert error.value.path == folder.path / f"{name}.json"


def test_a_damaged_line_of_metrics_is_named(folder):
    folder.log_step(0, {"loss": 1.0})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo\n')
    with pytest.raises(Damaged, match=r"metrics.jsonl is damaged \(line 2 "):
        folder.steps()
    with pytest.raises(Damaged, match=r"metrics.jsonl is damaged \(its last line "):
        folder.last_step()


def test_threads_write_the_same_file_at_once(tmp_path):
    contents = [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            list(pool.map(lambda content: atomic_write(tmp_path / "file", content), contents))
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
