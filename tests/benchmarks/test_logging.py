"""What logging costs a training step: a line of ten metrics in the run folder, which is all that the loop writes.

Measured only with ``pytest tests/benchmarks --benchmark-enable -s``; MLflow gets its copy from another process.
"""

from harness.runs.folder import RunFolder


def test_a_step_of_ten_metrics(benchmark, tmp_path):
    folder = RunFolder(tmp_path)
    values = {f"weighted/term_{number}": 0.123456789 * number for number in range(10)}
    benchmark(folder.log_step, 7, values)
    assert folder.last_step() == {"step": 7, **values}
