"""Converts a plan to JSON and back, for bundles, which have neither the study's files nor its dataset."""

from pydantic import ValidationError

from detectors.spec import Spec
from harness.errors import first_mistake
from harness.study.jobs import AnyJobSpec, Job
from harness.study.plan import Plan, Row


class _Job(Spec):
    label: str
    spec: AnyJobSpec


class _Plan(Spec):
    later = frozenset({"plain_epochs"})

    jobs: dict[str, _Job]
    rows: tuple[Row, ...]
    plain_epochs: float | None = None


def plan_json(plan: Plan) -> str:
    """All of a plan but where what is given to its jobs lies, which is another place elsewhere."""
    jobs = {id_: _Job(label=job.label, spec=job.spec) for id_, job in plan.jobs.items()}
    return _Plan(jobs=jobs, rows=tuple(plan.rows), plain_epochs=plan.plain_epochs).model_dump_json(indent=1)


def read_plan(text: bytes) -> Plan:
    """The plan of `plan_json`; raises ValueError for anything else, and where a job is not what it is called."""
    try:
        stored = _Plan.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(first_mistake(error)) from error
    plan = Plan(plain_epochs=stored.plain_epochs)
    for id_, stored_job in stored.jobs.items():
        job = Job(stored_job.spec, stored_job.label)
        if job.id != id_:
            raise ValueError(f"jobs.{id_}: its spec is that of job {job.id}")
        if missing := [needed for needed in job.spec.needs if needed not in plan.jobs]:
            raise ValueError(f"jobs.{id_}: job {missing[0]}, which it builds on, does not come before it")
        plan.add(job)
    for number, row in enumerate(stored.rows):
        if missing := [named for named in (row.job, row.baseline) if named and named not in plan.jobs]:
            raise ValueError(f"rows.{number}: there is no job {missing[0]}")
        plan.rows.append(row)
    return plan
