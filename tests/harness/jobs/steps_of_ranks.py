"""A few training steps by several processes: ``python -m tests.harness.jobs.steps_of_ranks CASE PROCESSES PARTS FILE``.

Each process computes its share of every batch in so many parts. What the first one has logged and trained goes into the
file. It is a program of its own because processes are forked before anything runs a thread.
"""

import sys
from pathlib import Path

import torch

from detectors.presets import PRESETS
from distill.objective import Objective, loss_spec
from harness.diagnose.machine import Machine
from harness.diagnose.ranks import ALONE, Ranks
from harness.jobs.companions import begin
from harness.jobs.kind import DONE
from harness.runs.folder import RunFolder
from harness.study.schedule import ScheduleSpec
from harness.train.trainer import Training
from tests.distill.test_shares import MEANS, example, freeze_norms, labelled, part_of

COUNTS = (30, 7, 0, 13, 1, 22, 5, 9)
"""Objects of the samples of a batch."""
STEPS = 2
IN_CAMERAS = ("depth", "instance")
CASES = ("radar", "camera", "pulled")


def _objective(case):
    torch.manual_seed(0)
    student = PRESETS["tiny_camera" if case == "camera" else "tiny_radar"].build()
    torch.manual_seed(1)
    teacher = PRESETS["tiny_lidar" if case == "camera" else "tiny_radar"]
    # Sure enough of something to teach boxes.
    teacher = teacher.model_copy(update={"head": teacher.head.model_copy(update={"prior": 0.5})}).build()
    torch.manual_seed(2)
    wanted = {name: given for name, given in MEANS.items() if case == "camera" or name not in IN_CAMERAS}
    weight = 0.1
    if case == "pulled":
        wanted, weight = {"feature": {}, "response": {}}, {"pull": 0.3}
    losses = {name: loss_spec(name, {"weight": weight, **given}) for name, given in wanted.items()}
    return Objective(student, teacher, losses).double()


def steps(case, ranks, parts, file):
    """Take them, and leave the log and the weights in a file."""
    objective = _objective(case)
    schedule = ScheduleSpec(steps=STEPS, batch_size=len(COUNTS), lr=1e-3)
    run = RunFolder(file.parent / f"run of {file.stem}")
    run.path.mkdir(exist_ok=True)
    training = Training(Machine(torch.device("cpu"), ranks=ranks), objective, schedule, 0, run)
    freeze_norms(training.objective)
    batch = example(PRESETS["tiny_camera_lidar" if case == "camera" else "tiny_radar"], COUNTS)
    batch = labelled(batch) if case == "camera" else batch
    share = len(COUNTS) // ranks.count
    size = share // parts
    begins = range(ranks.number * share, (ranks.number + 1) * share, size)
    for _ in range(STEPS):
        training.step([part_of(batch, first, first + size) for first in begins])
        training.log.timed(0.0, 0.0)
    if ranks.is_first:
        torch.save({"lines": run.steps(), "weights": objective.state_dict()}, file)


def main(case, processes, parts, file):
    """Take the steps of a case."""
    torch.set_num_threads(1)
    ranks = ALONE
    if int(processes) > 1:

        def along(ranks: Ranks) -> int:
            steps(case, ranks, int(parts), Path(file))
            return DONE

        ranks, _ = begin(int(processes), "cpu", along, lambda reason, wrong_input: print(reason, file=sys.stderr))
    steps(case, ranks, int(parts), Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
