"""A training step of every preset and every loss on the card against a CPU, and in bf16 against fp32 on the card."""

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F

from detectors.batch import Batch
from distill.objective import Objective
from tests.gpu.common import Rows, asked_cases, difference, full_batch, objective_of

FP32, BF16 = 2e-3, 0.05
"""Relative difference of the loss that is allowed: sums in another order, and eight bits of mantissa."""
COSINE = 0.999
"""Least cosine of the student's gradients on the card, TF32 off, and on a CPU."""


def step(objective: Objective, batch: Batch, device: str, bf16: bool) -> tuple[float, torch.Tensor]:
    """Loss and the student's gradients as one vector."""
    objective = copy.deepcopy(objective).to(device).train()
    if device != "cpu":
        batch = replace(batch, lifts={})  # a GPU makes the plan itself
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        output = objective(batch.to(device))
    output.total.backward()
    gradients = [p.grad.flatten() for p in objective.student.parameters() if p.grad is not None]
    return float(output.total.detach()), torch.cat(gradients).double().cpu()


def main() -> None:
    """One row a case."""
    rows, batch = Rows(), full_batch(2)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for name, student, teacher, losses in asked_cases():
        try:
            objective = objective_of(student, teacher, losses)
            on_cpu = step(objective, batch, "cpu", bf16=False)
            fp32 = step(objective, batch, "cuda", bf16=False)
            bf16 = step(objective, batch, "cuda", bf16=True)
        except Exception as error:
            rows.add(case=name, ok=False, error=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
            continue
        apart = [abs(a[0] / b[0] - 1) for a, b in ((fp32, on_cpu), (bf16, fp32))]
        cosine, cosine_bf16 = (float(F.cosine_similarity(a[1], b[1], dim=0)) for a, b in ((fp32, on_cpu), (bf16, fp32)))
        rows.add(
            case=name,
            ok=apart[0] < FP32 and cosine > COSINE and apart[1] < BF16,
            **{"loss, CPU": on_cpu[0], "apart, fp32": apart[0], "gradient, cosine": cosine},
            **{"gradient, difference": difference(fp32[1], on_cpu[1])},
            **{"apart, bf16": apart[1], "gradient in bf16, cosine to fp32": cosine_bf16},
        )


if __name__ == "__main__":
    main()
