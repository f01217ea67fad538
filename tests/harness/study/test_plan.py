"""A plan trains each thing once: equal specs are one job, and whatever decides a result makes another."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.objective import loss_spec
from harness.errors import InputError
from harness.study.jobs import DetectorJobSpec
from harness.study.load import load_study
from harness.study.plan import plan_study
from harness.study.plan_file import plan_json, read_plan

STUDY = """\
schedule: {steps: 1000, batch_size: 4}
teachers:
  lidar: {preset: tiny_lidar, seed: 0}
  camera: {preset: tiny_camera, seed: 0}
students:
  camera: {preset: tiny_camera}
  lidar: {preset: tiny_lidar}
paths: [lidar->camera, camera->lidar]
losses:
  feature: {weight: 2.0}
  relation: {weight: 2.0}
  response: {weight: 0.2}
arms:
  unidistill: [feature, relation, response]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    path.write_text(STUDY)
    return lambda *overrides: load_study(path, overrides)


def _plan(study, fingerprint="data", samples=None):
    return plan_study(study, fingerprint, lambda: samples)


def test_teacher_of_one_path_is_the_baseline_of_the_other(study):
    plan = _plan(study())
    # By hand: LiDAR, camera (each teacher and baseline at once), and one distilled student a path.
    assert len(plan.jobs) == 4
    assert plan.looped_trainings == 6
    by_role = {(row.role, row.model): row.job for row in plan.rows if row.role != "student"}
    assert by_role["teacher", "camera"] == by_role["baseline", "camera"]
    assert by_role["teacher", "lidar"] == by_role["baseline", "lidar"]


def test_every_teacher_precedes_its_students(study):
    plan = _plan(study("seeds=[0, 1, 2]"))
    order = list(plan.jobs)
    for job in plan.jobs.values():
        if job.spec.teacher:
            assert order.index(job.spec.teacher) < order.index(job.id)


def test_student_row_is_compared_with_its_own_student_and_seed(study):
    plan = _plan(study("seeds=[3, 4]"))
    for row in plan.rows:
        if row.role == "student":
            baseline = plan.jobs[row.baseline].spec
            assert (baseline.detector, baseline.seed) == (plan.jobs[row.job].spec.detector, row.seed)
            assert baseline.teacher is None
            assert not baseline.losses


def test_seeds_share_the_teacher(study):
    plan = _plan(study("seeds=[0, 1, 2]"))
    # 2 trained detectors at seed 0 that also teach, 2 baselines for each other seed, 2 students a seed.
    assert len(plan.jobs) == 2 + 2 * 2 + 2 * 3


def test_paired_students_learn_from_the_teacher_of_their_seed(study):
    plan = _plan(study("seeds=[0, 1, 2]", "teachers.lidar.seed=paired", "teachers.camera.seed=paired"))
    # The teachers are the baselines of the same seeds: 2 detectors and 2 students a seed.
    assert len(plan.jobs) == 3 * (2 + 2)
    for row in plan.rows:
        if row.role == "student":
            teacher = plan.jobs[plan.jobs[row.job].spec.teacher]
            assert teacher.spec.seed == row.seed


@pytest.mark.parametrize(
    "override",
    [
        "schedule.steps=501",
        "schedule.batch_size=5",
        "schedule.lr=0.001",
        "schedule.precision=bf16-mixed",
        "data.train_split=synthetic_tune",
        "data.eval_split=synthetic_tune",
        "data.detection_config=within_12m",
    ],
)
def test_whatever_decides_a_result_changes_every_identity(study, override):
    assert not set(_plan(study()).jobs) & set(_plan(study(override)).jobs)


def test_other_data_changes_every_identity(study):
    assert not set(_plan(study()).jobs) & set(_plan(study(), "other data").jobs)


def test_where_the_data_lies_changes_no_identity(study):
    assert set(_plan(study()).jobs) == set(_plan(study("data.root=/anywhere")).jobs)


def test_loss_weight_changes_the_students_alone(study):
    old, new = _plan(study()), _plan(study("losses.feature.weight=0.25"))
    teachers = {row.job for row in old.rows if row.role != "student"}
    assert set(old.jobs) & set(new.jobs) == teachers


def test_teacher_change_reaches_its_students(study):
    old, new = _plan(study()), _plan(study("teachers.lidar.seed=7"))
    changed = {row.path or row.role for row in new.rows if row.job not in old.jobs}
    assert changed == {"teacher", "lidar->camera"}


def test_given_checkpoint_is_scored_not_trained(study, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    plan = _plan(study(f"teachers.lidar.checkpoint={path}"))
    teacher = next(plan.jobs[row.job] for row in plan.rows if row.role == "teacher" and row.model == "lidar")
    assert teacher.spec.schedule is None
    assert teacher.source == path
    path.write_bytes(b"other weights")
    assert teacher.id not in _plan(study(f"teachers.lidar.checkpoint={path}")).jobs


def test_missing_checkpoint_is_named(study):
    with pytest.raises(InputError, match=r"nowhere\.safetensors"):
        _plan(study("teachers.lidar.checkpoint=nowhere.safetensors"))


def test_identity_survives_the_way_through_json(study):
    for job in _plan(study()).jobs.values():
        assert DetectorJobSpec.model_validate_json(job.spec.model_dump_json()).id == job.id


@settings(max_examples=25)
@given(
    seeds=st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True),
    arms=st.dictionaries(
        st.sampled_from(["a", "b", "c", "d"]),
        st.lists(st.sampled_from(["feature", "relation", "response"]), min_size=1, unique=True),
        max_size=4,
    ),
)
def test_plan_has_a_row_for_everything_asked_and_a_job_for_every_row(study, seeds, arms):
    plan = _plan(study(f"seeds={seeds}").model_copy(update={"arms": {k: tuple(v) for k, v in arms.items()}}))
    # Without an arm nobody asks the two teachers.
    teachers = 2 if arms else 0
    assert len(plan.rows) == teachers + 2 * len(seeds) + 2 * len(seeds) * len(arms)
    assert {row.job for row in plan.rows} == set(plan.jobs)
    # Arms that name the same losses are the same training.
    distinct = {tuple(losses) for losses in arms.values()}
    assert sum(1 for job in plan.jobs.values() if job.spec.teacher) <= 2 * len(seeds) * len(distinct)


def test_scoring_on_another_split_trains_nothing_more(study):
    plan, more = _plan(study()), _plan(study("data.also_score=[synthetic_train]"))
    trained = [job for job in more.jobs.values() if job.spec.schedule is not None]
    assert {job.id for job in trained} == set(plan.jobs)
    assert more.looped_trainings == plan.looped_trainings
    order = list(more.jobs)
    extra = [row for row in more.rows if row.split]
    assert len(extra) == len(plan.rows)
    for row, scored in zip(plan.rows, extra, strict=True):
        spec = more.jobs[scored.job].spec
        assert spec.model_of == row.job
        assert spec.data.eval_split == scored.split == "synthetic_train"
        assert spec.needs == (row.job,)
        assert order.index(row.job) < order.index(scored.job)
        if row.role == "student":
            assert more.jobs[scored.baseline].spec.model_of == row.baseline


def test_a_split_is_scored_once(study):
    with pytest.raises(InputError, match="contain a value twice"):
        study("data.also_score=[synthetic_train, synthetic_train]")


def test_epochs_are_steps_of_the_training_split(study):
    in_epochs = study("schedule={epochs: 2.5, batch_size: 4}", "paths=[lidar->camera]")
    assert {job.spec.schedule.steps for job in _plan(in_epochs, samples=11).jobs.values()} == {7}  # 27.5 samples / 4
    in_steps = study("schedule={steps: 7, batch_size: 4}", "paths=[lidar->camera]")
    assert _plan(in_epochs, samples=11).jobs.keys() == _plan(in_steps, samples=11).jobs.keys()


def test_class_balanced_epochs_are_as_long_as_the_classes_make_them(study):
    balanced = study("schedule={epochs: 2, batch_size: 4, class_balanced: true}", "paths=[lidar->camera]")
    plan = plan_study(balanced, "data", lambda: 10, None, lambda: 44)
    assert {job.spec.schedule.steps for job in plan.jobs.values()} == {22}
    assert plan.plain_epochs == 4.4
    assert read_plan(plan_json(plan).encode()) == plan
    # The same number of steps over plain epochs are other trainings.
    in_steps = study("schedule={steps: 22, batch_size: 4}", "paths=[lidar->camera]")
    assert not plan.jobs.keys() & _plan(in_steps).jobs.keys()
    assert _plan(in_steps).plain_epochs is None


PASTE = "schedule.augment.paste={until: 0.75}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["paths=[lidar->camera]"], "camera · baseline · seed 0: .* and it has a camera, which would see nothing"),
        (["teachers={}", "paths=[]", "arms={}", "students={radar: {preset: tiny_radar}}"], "it has a radar, which"),
        (["paths=[camera->lidar]"], "camera · teacher: .* it has a camera, which"),
        (["teachers.camera.trained=false", "paths=[camera->lidar]"], "camera->lidar .* and its teacher has a camera,"),
    ],
)
def test_pasting_is_refused_for_models_that_would_not_see_it(study, overrides, message):
    with pytest.raises(InputError, match=message):
        _plan(study(PASTE, *overrides))


def test_pasting_is_for_lidar_and_no_part_of_other_trainings(study):
    only_lidar = ["teachers={lidar: {preset: tiny_lidar, seed: 7}}", "paths=[lidar->lidar]"]
    pasting, plain = _plan(study(PASTE, *only_lidar)), _plan(study(*only_lidar))
    assert len(pasting.jobs) == len(plain.jobs) == 3
    assert not pasting.jobs.keys() & plain.jobs.keys()


@pytest.mark.parametrize("ramp", ["warmup", "cooldown"])
def test_a_ramp_of_the_losses_changes_the_distilled_students_alone(study, ramp):
    plain, ramped = _plan(study()), _plan(study(f"schedule.distillation_{ramp}=0.2"))
    changed = {row.role for row in ramped.rows if row.job not in plain.jobs}
    assert changed == {"student"}


def test_untrained_teacher_is_a_job_without_a_training(study):
    plan = _plan(study("teachers.lidar.trained=false", "paths=[lidar->camera]"))
    teacher = next(plan.jobs[row.job] for row in plan.rows if row.role == "teacher")
    assert teacher.spec.schedule is None
    assert teacher.spec.weights is None
    # A baseline is trained all the same, on what the teacher has never seen.
    assert teacher.spec.data.train_split == ""
    student = next(plan.jobs[row.job] for row in plan.rows if row.role == "student")
    assert student.spec.teacher == teacher.id


def test_longer_baseline_is_a_control_compared_with_the_baseline_of_its_seed(study):
    plan = _plan(study("students.camera.longer_baseline=1.5", "seeds=[0, 1]", "schedule.steps=101"))
    controls = [row for row in plan.rows if row.role == "control"]
    assert [row.seed for row in controls] == [0, 1]
    for row in controls:
        assert plan.jobs[row.job].spec.schedule.steps == 152  # 151.5
        assert plan.jobs[row.baseline].spec.schedule.steps == 101
        assert plan.jobs[row.baseline].spec.seed == row.seed
        assert not plan.jobs[row.job].spec.losses


def test_warm_start_is_no_loss_and_makes_another_student(study):
    arms = "arms={warm: [warm_start], both: [warm_start, feature], plain: [feature]}"
    plan = _plan(study(arms, "paths=[lidar->camera]"))
    jobs = {row.arm: plan.jobs[row.job].spec for row in plan.rows if row.role == "student"}
    assert jobs["warm"].warm_start
    assert jobs["warm"].losses == {}
    assert jobs["both"].losses == jobs["plain"].losses
    assert len({job.id for job in jobs.values()}) == 3
    assert len({job.teacher for job in jobs.values()}) == 1


def test_longer_is_never_as_long(study):
    plan = _plan(study("students.camera.longer_baseline=1.1", "schedule.steps=3"))
    control = next(row for row in plan.rows if row.role == "control")
    assert plan.jobs[control.job].spec.schedule.steps == 4
    assert control.job != control.baseline
    assert plan.looped_trainings == 7  # two students with a teacher and a baseline each, and the control


def test_warm_up_of_losses_is_nothing_to_a_student_without_any(study):
    arms = "arms={warm: [warm_start], both: [warm_start, feature]}"
    plain, ramped = _plan(study(arms)), _plan(study(arms, "schedule.distillation_warmup=0.2"))
    changed = {row.arm for row in ramped.rows if row.job not in plain.jobs}
    assert changed == {"both"}


def _job(plan, arm):
    (row,) = (row for row in plan.rows if row.arm == arm and row.path == "lidar->camera")
    return plan.jobs[row.job]


def test_what_a_study_calls_a_loss_makes_no_other_job(study):
    named = study("losses.mine={loss: feature, weight: 2.0}", "arms={mine: [mine, relation], own: [feature, relation]}")
    plan = _plan(named)
    assert _job(plan, "mine").id == _job(plan, "own").id
    assert set(_job(plan, "mine").spec.losses) == {"feature", "relation"}


def test_two_variants_of_a_loss_in_one_arm_keep_their_names(study):
    named = study("losses.high={loss: feature, weight: 3.0, level: high}", "arms={two: [feature, high], one: [high]}")
    plan = _plan(named)
    losses = _job(plan, "two").spec.losses
    specs = {name: loss_spec(name, fields) for name, fields in losses.items()}
    assert {name: (spec.level, spec.weight) for name, spec in specs.items()} == {
        "feature": ("low", 2.0),
        "high": ("high", 3.0),
    }
    assert set(_job(plan, "one").spec.losses) == {"feature"}


def test_a_loss_of_somebody_else_is_one_job_whatever_a_study_calls_it(study):
    chosen = "losses={%s: {loss: 'distill.relation:RelationSpec', weight: 1.0}}"
    jobs = []
    for name in ("mine", "yours"):
        plan = _plan(study(chosen % name, f"arms={{one: [{name}]}}"))
        jobs.append({job.id: job.spec.losses for job in plan.jobs.values() if job.spec.teacher})
    assert jobs[0] == jobs[1]
    for losses in jobs[0].values():
        assert losses["RelationSpec"]["loss"] == "distill.relation:RelationSpec"


def test_losses_that_a_log_could_not_tell_apart_are_refused(study):
    chosen = (
        "losses={a: {loss: feature, weight: 1}, relation: {loss: feature, weight: 1}, b: {loss: relation, weight: 1}}"
    )
    with pytest.raises(InputError, match="two losses of an arm would be named 'relation' in logs"):
        _plan(study(chosen, "arms={one: [a, relation, b]}"))


def test_shares_of_scenes_are_those_of_each_model(study):
    plan = _plan(study("data.train_share=0.5", "teachers.camera.train_share=1.0"))
    shares = {(row.role, row.model): plan.detector_spec(row.job).data.train_share for row in plan.rows}
    assert shares["baseline", "camera"] == shares["teacher", "lidar"] == shares["student", "camera"] == 0.5
    assert shares["teacher", "camera"] == 1.0
    # The camera that teaches is no longer the baseline.
    assert len(plan.jobs) == 5


def test_share_of_all_is_what_was_before_there_were_shares(study):
    given, plain = _plan(study("data.train_share=1.0")), _plan(study())
    assert list(given.jobs) == list(plain.jobs)
    spec = plain.jobs[next(iter(plain.jobs))].spec.model_dump(mode="json")
    assert "train_share" not in spec["data"]
    assert "image_backbone" not in spec
    assert "ema" not in spec["schedule"]


def test_an_oracle_is_no_training_and_has_no_row(study):
    changes = ("teachers.lidar={oracle: true}", "arms={response: [response]}", "paths=[lidar->camera]")
    plan = _plan(study(*changes))
    assert not [row for row in plan.rows if row.role == "teacher"]
    (row,) = [row for row in plan.rows if row.role == "student"]
    spec = plan.detector_spec(row.job)
    assert (spec.oracle, spec.teacher, spec.needs) == (True, None, ())
    assert row.published_as == ""


def test_a_mirrored_teacher_is_the_very_training_of_one_that_is_not(study):
    changes = ("paths=[lidar->camera]", "arms={response: [response], warm: [warm_start]}")
    plain, mirrored = _plan(study(*changes)), _plan(study(*changes, "teachers.lidar.mirrored=true"))

    def job(plan, role, arm):
        return next(row for row in plan.rows if (row.role, row.arm) == (role, arm))

    assert job(plain, "teacher", "teacher").job == job(mirrored, "teacher", "teacher").job
    assert job(plain, "student", "response").job != job(mirrored, "student", "response").job
    assert job(mirrored, "student", "response").published_as == ""
    # Nothing is seen of a teacher whose weights alone are copied.
    assert job(plain, "student", "warm").job == job(mirrored, "student", "warm").job


def test_models_have_schedules_of_their_own(study):
    other = study(
        "teachers.lidar.schedule={epochs: 2, batch_size: 8}",
        "students.camera.schedule={lr: 1.0e-3, augment.scale: [0.9, 1.1]}",
    )
    usual, plan = _plan(study()), _plan(other, samples=40)
    lidar = next(plan.detector_spec(row.job) for row in plan.rows if (row.role, row.model) == ("teacher", "lidar"))
    assert (lidar.schedule.length, lidar.schedule.batch_size, lidar.schedule.epochs) == (10, 8, None)
    schedules = {row.role: plan.detector_spec(row.job).schedule for row in plan.rows if row.model == "camera"}
    # The camera that teaches has the study's.
    assert {role: schedule.lr for role, schedule in schedules.items()} == {
        "teacher": 2e-3,
        "baseline": 1e-3,
        "student": 1e-3,
    }
    assert schedules["baseline"].augment.scale == (0.9, 1.1)
    assert {schedule.length for schedule in schedules.values()} == {1000}
    students = [
        {row.job for row in each.rows if (row.role, row.model) == ("student", "lidar")} for each in (plan, usual)
    ]
    assert students[0] == students[1]


def test_a_model_may_change_a_batch_in_parts(study):
    other = study("schedule.batch_size={global: 64, micro: 4}", "students.camera.schedule={batch_size: {global: 32}}")
    schedules = [other.schedule_of(model) for model in (*other.teachers.values(), *other.students.values())]
    batches = [(schedule.global_batch, schedule.micro_batch) for schedule in schedules]
    assert batches == [(64, 4), (64, 4), (32, 4), (64, 4)]
    plain = study("schedule.batch_size={global: 64, micro: 4}", "students.camera.schedule={batch_size: 16}")
    assert plain.schedule_of(plain.students["camera"]).batch_size == 16


def test_a_schedule_that_says_what_the_study_says_changes_no_identity(study):
    same = study("teachers.lidar.schedule={steps: 1000}", "students.camera.schedule={batch_size: {global: 4}}")
    assert _plan(same).jobs.keys() == _plan(study()).jobs.keys()


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("{stepz: 3}", "students.camera.schedule.*stepz"),
        ("{steps: 3, epochs: 2}", "exactly one of steps and epochs"),
        ("{deterministic: true}", "in its own schedule"),
        ("{batch_size: 0}", "batch_size: Input should be greater than 0"),
    ],
)
def test_mistakes_in_a_schedule_of_a_model_are_told_with_their_place(study, schedule, message):
    with pytest.raises(InputError, match=message):
        study(f"students.camera.schedule={schedule}")


@pytest.mark.parametrize(
    "teacher", ["{checkpoint: x.safetensors, preset: tiny_lidar}", "{trained: false, preset: tiny_lidar}"]
)
def test_a_teacher_that_is_not_trained_has_no_schedule(study, teacher):
    with pytest.raises(InputError, match="schedule has no effect on a teacher"):
        study(f"teachers.lidar={teacher}", "teachers.lidar.schedule={steps: 3}")


def test_deterministic_operations_are_no_part_of_what_a_job_is(study):
    plan = _plan(study("schedule.deterministic=true"))
    assert plan.deterministic
    assert plan.jobs.keys() == _plan(study()).jobs.keys()
