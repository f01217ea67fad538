"""A study with image teachers trains each once, for the arms that ask it, and leaves every other training as it was."""

import json
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.evidence.results import outcomes, summary
from harness.evidence.runs import StudyRuns
from harness.execute.executor import order_for
from harness.execute.site import Site
from harness.jobs.kind import JobOrder
from harness.report.tables import results_table, run_details
from harness.runs.folder import Result, RunFolder
from harness.study.plan import plan_study

STUDY = """\
# Does it plan?
schedule: {steps: 1000, batch_size: 4}
teachers:
  lidar: {preset: tiny_lidar}
image_teachers:
  images: {preset: tiny_segmenter}
students:
  camera: {preset: tiny_camera}
paths: [lidar + images -> camera]
losses:
  feature: {weight: 2.0}
  relation: {weight: 3.0}
  instance: {weight: 0.5}
arms:
  modal: [feature, relation]
  instance: [instance]
  all: [feature, relation, instance]
"""
PLAIN = STUDY.replace("image_teachers:\n  images: {preset: tiny_segmenter}\n", "").replace("lidar + images", "lidar")
PLAIN = PLAIN.replace("  instance: [instance]\n  all: [feature, relation, instance]\n", "")
PLAIN_WITH_IMAGES = PLAIN.replace("students:", "image_teachers:\n  images: {preset: tiny_segmenter}\nstudents:")
IMAGES = "image_teachers.images"


@pytest.fixture
def study_text():
    return STUDY


@pytest.fixture
def plan(load):
    """``plan(*overrides)``: of the study above, or of another text; its images have a fingerprint that may differ."""

    def plan(*overrides, text=STUDY, fingerprint="of the images"):
        def images(data):
            return Path("/images") / str(data.seed), f"{fingerprint}, seed {data.seed}"

        return plan_study(load(text, *overrides), "data", lambda: 11, images)

    return plan


def _jobs(plan, kind):
    return {id_: job for id_, job in plan.jobs.items() if type(job.spec).__name__ == kind}


def _student(plan, arm, seed=0, path="lidar+images->camera"):
    (row,) = (row for row in plan.rows if (row.role, row.arm, row.seed, row.path) == ("student", arm, seed, path))
    return plan.jobs[row.job]


def test_arms_that_do_not_ask_the_image_teacher_are_the_jobs_of_the_study_without_it(plan):
    without, with_it = plan(text=PLAIN), plan()
    assert "images" not in PLAIN
    assert _student(with_it, "modal").id == _student(without, "modal", path="lidar->camera").id
    assert without.jobs.keys() == _jobs(without, "DetectorJobSpec").keys()
    assert with_it.jobs.keys() > without.jobs.keys()
    # The segmenter, its labels and the two students that learn from them.
    assert len(with_it.jobs) == len(without.jobs) + 4


def test_the_image_teacher_alone_makes_a_student_without_a_detector_that_teaches(plan):
    both, alone = plan(), plan("paths=[images->camera]", "arms={instance: [instance]}")
    student = _student(alone, "instance", path="images->camera")
    assert student.id == _student(both, "instance").id
    assert student.spec.teacher is None
    assert student.spec.losses.keys() == {"instance"}
    assert {row.role for row in alone.rows} == {"image teacher", "baseline", "student"}
    assert len(alone.jobs) == 4


def test_a_detector_on_the_path_that_no_arm_asks_is_not_trained(plan):
    alone, both = plan("paths=[images->camera]", "arms={i: [instance]}"), plan("arms={i: [instance]}")
    assert set(both.jobs) == set(alone.jobs)
    assert [row.role for row in both.rows] == ["image teacher", "baseline", "student"]


def test_an_arm_that_asks_both_has_a_teacher_and_labels(plan):
    planned = plan()
    (labels,), (segmenter,) = _jobs(planned, "LabelsJobSpec").values(), _jobs(planned, "SegmenterJobSpec").values()
    (teacher,) = (row.job for row in planned.rows if row.role == "teacher")
    student = _student(planned, "all")
    assert (student.spec.teacher, student.spec.labels) == (teacher, labels.id)
    assert student.spec.needs == (teacher, labels.id)
    assert labels.spec.needs == (segmenter.id,)
    assert (labels.spec.fingerprint, labels.spec.split) == ("data", "synthetic_train")
    assert _student(planned, "modal").spec.labels is None


def test_the_order_of_the_two_teachers_does_not_matter(plan):
    assert set(plan().jobs) == set(plan("paths=[images + lidar -> camera]").jobs)


def test_one_image_teacher_and_its_labels_once_serve_all_seeds_arms_and_students(plan):
    planned = plan(
        "seeds=[3, 4, 5]",
        "students.lit={preset: tiny_camera_lidar}",
        "paths=[images->lit, images->camera]",
        "arms={instance: [instance]}",
    )
    assert len(_jobs(planned, "SegmenterJobSpec")) == len(_jobs(planned, "LabelsJobSpec")) == 1
    assert [row.job for row in planned.rows if row.role == "image teacher"] == list(_jobs(planned, "SegmenterJobSpec"))
    assert len(planned.jobs) == 2 + 2 * 3 + 2 * 3
    assert {
        job.spec.labels for job in planned.jobs.values() if job.spec.needs and "losses" in type(job.spec).model_fields
    } == set(_jobs(planned, "LabelsJobSpec"))


def test_what_others_need_precedes_them(plan):
    planned = plan("seeds=[0, 1]")
    order = list(planned.jobs)
    needed = [(needed, id_) for id_, job in planned.jobs.items() for needed in job.spec.needs]
    assert len(needed) == 1 + 2 * (1 + 1 + 2)
    assert all(order.index(first) < order.index(then) for first, then in needed)


@pytest.mark.parametrize(
    "override",
    [
        f"{IMAGES}.seed=1",
        f"{IMAGES}.preset=tiny_segmenter_swin",
        f"{IMAGES}.schedule={{steps: 7}}",
        f"{IMAGES}.data.seed=1",
        f"{IMAGES}.data.train_split=v1.0-other",
    ],
)
def test_another_image_teacher_makes_other_labels_and_other_students_of_them_alone(plan, override):
    old, new = plan(), plan(override)
    unchanged = set(old.jobs) & set(new.jobs)
    assert {
        _student(old, "modal").id,
        *(row.job for row in old.rows if row.role in ("teacher", "baseline")),
    } == unchanged
    assert len(new.jobs) == len(old.jobs)


def test_other_images_make_another_image_teacher_and_where_they_lie_does_not(plan):
    old = plan()
    assert not set(_jobs(old, "SegmenterJobSpec")) & set(_jobs(plan(fingerprint="of others"), "SegmenterJobSpec"))
    assert set(old.jobs) == set(plan(f"{IMAGES}.data.root=/elsewhere").jobs)
    (segmenter,) = _jobs(old, "SegmenterJobSpec").values()
    assert segmenter.source == Path("/images/0")


def test_labels_are_of_the_training_split_and_the_image_teacher_is_of_neither(plan):
    old = plan()
    for override, same in (("data.eval_split=synthetic_tune", True), ("data.train_split=synthetic_tune", False)):
        new = plan(override)
        assert _jobs(new, "SegmenterJobSpec").keys() == _jobs(old, "SegmenterJobSpec").keys()
        assert (_jobs(new, "LabelsJobSpec").keys() == _jobs(old, "LabelsJobSpec").keys()) == same


def test_a_model_by_name_writes_its_labels_without_a_training_of_ours(plan):
    planned = plan(f"{IMAGES}={{model: some/model}}")
    (labels,) = _jobs(planned, "LabelsJobSpec").values()
    assert not _jobs(planned, "SegmenterJobSpec")
    assert (labels.spec.model, labels.spec.segmenter, labels.spec.given) == ("some/model", None, None)
    assert [row.job for row in planned.rows if row.role == "image teacher"] == [labels.id]
    other = plan(f"{IMAGES}={{model: other/model}}")
    assert not set(_jobs(planned, "LabelsJobSpec")) & set(_jobs(other, "LabelsJobSpec"))


def test_a_model_in_a_folder_is_known_by_its_weights_too(plan, tmp_path):
    def labels(weights):
        (tmp_path / "model.safetensors").write_bytes(weights)
        return set(_jobs(plan(f"{IMAGES}={{model: {tmp_path}}}"), "LabelsJobSpec"))

    first = labels(b"weights")
    assert labels(b"others") != first
    assert labels(b"weights") == first


def test_given_labels_are_known_by_their_content(plan, tmp_path):
    def labels(name, **files):
        (tmp_path / name).mkdir(exist_ok=True)
        for file, text in files.items():
            (tmp_path / name / f"{file}.json").write_text(text)
        (job,) = _jobs(plan(f"{IMAGES}={{labels: {tmp_path / name}}}"), "LabelsJobSpec").values()
        assert job.source == tmp_path / name
        return job.id

    first = labels("one", a="1", b="2")
    assert labels("moved", a="1", b="2") == first
    assert labels("one", b="3") != first
    assert labels("one", b="2") == first


def test_given_labels_that_cannot_be_read_are_named(plan, tmp_path):
    (tmp_path / "labels.txt").write_text("no labels")
    (tmp_path / "folder" / "labels.json").mkdir(parents=True)
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "labels.txt", tmp_path / "folder"):
        with pytest.raises(InputError, match=rf"image_teachers\.images\.labels: .*{path}"):
            plan(f"{IMAGES}={{labels: {path}}}")


def test_who_is_not_asked_is_not_trained(load, plan):
    spare = "image_teachers.spare={preset: tiny_segmenter_swin}"
    assert load(STUDY, spare).unused_teachers == ["spare"]
    assert load().unused_teachers == []
    assert set(plan(spare).jobs) == set(plan().jobs)
    # On the path, but no arm wants its labels.
    assert set(plan("arms={modal: [feature, relation]}").jobs) == set(plan(text=PLAIN).jobs)


def test_scoring_on_another_split_is_for_detectors(plan):
    planned = plan("data.also_score=[synthetic_train]")
    assert [row.split for row in planned.rows if row.role == "image teacher"] == [""]
    assert len([row for row in planned.rows if row.split]) == len(plan().rows) - 1


def test_a_loop_over_rows_would_train_an_image_teacher_for_every_student_that_asks_it(plan):
    # Six students and a baseline each; a detector for four of them, a segmenter for four.
    assert plan("seeds=[0, 1]").looped_trainings == 2 * 6 + 4 + 4
    # What is not trained here is trained in no loop either.
    assert plan("seeds=[0, 1]", f"{IMAGES}={{model: some/model}}").looped_trainings == 2 * 6 + 4


def test_students_are_known_to_papers_by_the_teachers_that_they_ask(plan):
    known_as = {row.arm: row.published_as for row in plan().rows if row.role == "student"}
    assert known_as == {
        "modal": "lidar->camera",
        "instance": "images->camera",
        "all": "images+lidar->camera",
    }


def test_published_weights_are_those_of_the_detectors(load):
    study = load(STUDY, "losses.feature.weight=unidistill")
    assert study.loss("feature", "lidar+images->camera").weight == 100


def test_fields_of_a_loss_may_be_those_of_a_path_of_two_teachers(load):
    study = load(
        STUDY,
        "losses.instance.weight={lidar+images->camera: 0.25, others: 4}",
        "paths=[lidar+images->camera, images->camera]",
        "arms={instance: [instance]}",
    )
    assert [study.loss("instance", path).weight for path in study.paths] == [0.25, 4]


def test_identity_survives_the_way_through_json(plan):
    planned = plan()
    for job in planned.jobs.values():
        assert type(job.spec).model_validate_json(job.spec.model_dump_json()).id == job.id


def test_orders_say_where_what_is_needed_lies(plan, smoke_root, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "labels.json").write_text("{}")
    planned, site = plan(), Site(tmp_path, smoke_root, "cpu", 1)
    (segmenter,), (labels,) = _jobs(planned, "SegmenterJobSpec"), _jobs(planned, "LabelsJobSpec")
    (teacher,) = (row.job for row in planned.rows if row.role == "teacher")
    copied = plan(f"{IMAGES}={{labels: {tmp_path / 'labels'}}}")
    asked = {
        "segmenter": (planned, planned.jobs[segmenter]),
        "labels": (planned, planned.jobs[labels]),
        "given": (copied, next(iter(_jobs(copied, "LabelsJobSpec").values()))),
        "alone": (planned, _student(planned, "instance")),
        "all": (planned, _student(planned, "all")),
    }

    def weights(id_):
        return id_ and tmp_path / id_ / "model.safetensors"

    expected = {
        "segmenter": (None, Path("/images/0"), None),
        "labels": (segmenter, None, None),
        "given": (None, tmp_path / "labels", None),
        "alone": (None, None, tmp_path / labels / "labels"),
        "all": (teacher, None, tmp_path / labels / "labels"),
    }
    for name, (needed, source, seen) in expected.items():
        its_plan, job = asked[name]
        order = order_for(job, its_plan, site)
        assert (order.teacher_weights, order.source, order.labels) == (weights(needed), source, seen)
        assert order.teacher_spec == (its_plan.jobs[needed].spec if needed else None)
        assert order.given_weights is None
        # A worker reads its order from a file, which has to tell the kinds of jobs apart.
        again = JobOrder.model_validate(json.loads(order.model_dump_json()))
        assert (type(again.spec), again.spec.id) == (type(job.spec), job.id)
        assert type(again.teacher_spec) is type(order.teacher_spec)
        assert again.model_dump() == order.model_dump()


@pytest.fixture
def caption_line(load, plan, tmp_path):
    """``caption_line(metrics, *overrides)``: the caption's line where only the image teacher has run, if that."""

    def caption_line(metrics, *overrides):
        planned, runs = plan(*overrides), tmp_path / "runs"
        (row,) = (row for row in planned.rows if row.role == "image teacher")
        if metrics:
            RunFolder(runs / row.job).complete(Result(metrics, parameters=5, seconds=1.0, machine={}))
        table = results_table(summary(outcomes(StudyRuns.open(planned, runs))), load(STUDY, *overrides))
        assert not any("image teacher" in row[0].text for row in table.rows)
        (line,) = (line for line in table.details if line.startswith("Image teacher"))
        return line

    return caption_line


def test_caption_says_what_the_image_teacher_is_and_how_good(caption_line):
    trained = caption_line({"AP": 0.25, "AP50": 0.5}, f"{IMAGES}.seed=7")
    assert "Image teacher images: tiny_segmenter, seed 7" in trained
    assert "mask AP 25.0, AP50 50.0 (percent, on v1.0-synthetic-images/val" in trained
    assert "mask AP not run" in caption_line({})


def test_caption_speaks_of_the_teachers_that_were_asked_and_of_no_other(load, plan, tmp_path):
    for arms, teachers in (("{i: [instance]}", ["Image teacher"]), ("{m: [feature]}", ["Teacher"])):
        study = load(STUDY, f"arms={arms}")
        lines = run_details(summary(outcomes(StudyRuns.open(plan(f"arms={arms}"), tmp_path))), study)
        said = [line.partition(" lidar: ")[0].partition(" images: ")[0] for line in lines if "eacher " in line[:14]]
        assert said == teachers


def test_caption_says_where_labels_of_others_come_from(caption_line, tmp_path):
    (tmp_path / "labels.json").write_text("{}")
    counts = {"images": 3.0, "instances": 5.0}
    assert "Image teacher images: some/model of transformers" in caption_line(counts, f"{IMAGES}={{model: some/model}}")
    assert f"Image teacher images: labels in {tmp_path}" in caption_line(counts, f"{IMAGES}={{labels: {tmp_path}}}")


MISTAKES = {
    "two detectors": (
        ["teachers.radar={preset: tiny_radar}", "paths=[lidar + radar -> camera]"],
        ["path 'lidar+radar->camera'", "two teachers must be a detector, one of lidar, radar", "one of images"],
    ),
    "two image teachers": (
        ["image_teachers.more={preset: tiny_segmenter}", "paths=[images + more -> camera]"],
        ["path 'images+more->camera'", "two teachers must be"],
    ),
    "one image teacher twice": (["paths=[images + images -> camera]"], ["path 'images+images->camera'"]),
    "three teachers": (["paths=[lidar + images + lidar -> camera]"], ["paths.0"]),
    "unknown image teacher": (
        ["paths=[lidar + imags -> camera]"],
        ["path 'lidar+imags->camera'", "unknown teacher 'imags'; did you mean 'images'?"],
    ),
    "no image teacher on the path": (
        ["paths=[lidar->camera]", "arms={instance: [instance]}"],
        ["path 'lidar->camera', arm 'instance': 'instance' needs an image teacher", "of this study: images"],
    ),
    "no detector on the path": (
        ["paths=[images->camera]", "arms={modal: [feature]}"],
        ["path 'images->camera', arm 'modal': 'feature' needs a detector", "of this study: lidar"],
    ),
    "warm start without a detector": (
        ["paths=[images->camera]", "arms={warm: [warm_start, instance]}"],
        ["'warm_start' needs a detector"],
    ),
    "lidar student": (
        ["students={lidar: {preset: tiny_lidar}}", "paths=[images->lidar]", "arms={instance: [instance]}"],
        ["path images->lidar, instance", "the student has no camera"],
    ),
    "radar student": (
        ["students={radar: {preset: tiny_radar}}", "paths=[lidar+images->radar]"],
        ["path lidar+images->radar, instance", "the student has no camera"],
    ),
    "preset and labels": (
        [f"{IMAGES}.labels=somewhere"],
        [IMAGES, "one of preset, model and labels, not preset and labels"],
    ),
    "preset and model": ([f"{IMAGES}.model=some/model"], [IMAGES, "not preset and model"]),
    "none of the three": ([f"{IMAGES}={{}}"], [IMAGES, "one of preset, model and labels, not none"]),
    "unknown preset": (
        [f"{IMAGES}.preset=tiny_segmentr"],
        [f"{IMAGES}.preset", "unknown preset 'tiny_segmentr'; did you mean 'tiny_segmenter'?"],
    ),
    "detector's preset": ([f"{IMAGES}.preset=tiny_camera"], [f"{IMAGES}.preset", "allowed: tiny_segmenter"]),
    "epochs": (
        [f"{IMAGES}.schedule={{epochs: 2}}"],
        [f"{IMAGES}.schedule", "the schedule of an image teacher is in steps"],
    ),
    "losses that grow": (
        [f"{IMAGES}.schedule={{distillation_warmup: 0.5}}"],
        [f"{IMAGES}.schedule", "distillation_warmup has no effect on an image teacher"],
    ),
    "a world that turns": (
        [f"{IMAGES}.schedule={{augment: {{rotation_degrees: 10}}}}"],
        [f"{IMAGES}.schedule", "only mirror_probability and image affect an image teacher"],
    ),
    "objects in points": (
        [f"{IMAGES}.schedule={{augment: {{paste: {{}}}}}}"],
        [f"{IMAGES}.schedule", "only mirror_probability and image affect an image teacher"],
    ),
    "sizes of files": (
        [f"{IMAGES}.schedule={{augment: {{image: {{resize: [0.4, 0.5]}}}}}}"],
        [f"{IMAGES}.schedule", "resizes images to its own size, whatever theirs is; give augment.image.zoom"],
    ),
    "classes of boxes": (
        [f"{IMAGES}.schedule={{class_balanced: true}}"],
        [f"{IMAGES}.schedule", "class_balanced has no effect on an image teacher, which has no boxes"],
    ),
    "schedule of what is not trained": (
        [f"{IMAGES}={{model: some/model, schedule: {{steps: 2}}}}"],
        [IMAGES, "schedule applies only to an image teacher with a preset"],
    ),
    "unknown key": ([f"{IMAGES}.sede=1"], ["unknown key 'sede'; did you mean 'seed'?", "image_teachers.images"]),
    "one name for both": (
        ["image_teachers={lidar: {preset: tiny_segmenter}}", "paths=[lidar->camera]", "arms={modal: [feature]}"],
        ["'lidar' is the name of a teacher and of an image teacher"],
    ),
    "unknown path of a field": (
        ["losses.instance.score_threshold={imags->camera: 0.3}"],
        ["losses.instance.score_threshold", "did you mean 'images->camera'?"],
    ),
    "field of the loss": (["losses.instance.confidence=all"], ["losses.instance.confidence", "'masks' or 'none'"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_message_that_names_it(load, mistake):
    overrides, words = MISTAKES[mistake]
    with pytest.raises(InputError) as caught:
        load(STUDY, *overrides)
    for part in words:
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_mistake_in_the_file_names_its_line(load):
    with pytest.raises(InputError, match=r"study\.yaml:6: image_teachers\.images\.preset: unknown preset"):
        load(STUDY.replace("tiny_segmenter", "tiny_segmentr"))


def test_backbones_begin_as_an_image_teachers_in_baseline_and_students_alike(plan):
    begun = plan("students.camera.init.image_backbone=images", text=PLAIN_WITH_IMAGES)
    (segmenter,) = _jobs(begun, "SegmenterJobSpec")
    cameras = [job for job in _jobs(begun, "DetectorJobSpec").values() if job.spec.detector.camera]
    assert len(cameras) == 2
    assert all(job.spec.image_backbone == segmenter and segmenter in job.spec.needs for job in cameras)
    # Nobody asks for labels.
    assert not _jobs(begun, "LabelsJobSpec")
    assert [row.role for row in begun.rows].count("image teacher") == 1
    order = list(begun.jobs)
    assert all(order.index(segmenter) < order.index(job.id) for job in cameras)


def test_one_image_teacher_labels_and_begins(plan):
    both = plan("students.camera.init.image_backbone=images")
    assert len(_jobs(both, "SegmenterJobSpec")) == 1
    assert [row.role for row in both.rows].count("image teacher") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["students.camera.init.image_backbone=imagenet"], "students.camera.init.image_backbone: .*imagenet.*images"),
        (["teachers.lidar.init.image_backbone=images"], "teachers.lidar.init.image_backbone: .*none"),
        (
            ["students.camera.init.image_backbone=images", "students.camera.set={camera.image.backbone.stem_width: 8}"],
            "image backbone cannot begin as the image teacher's",
        ),
        (
            ["image_teachers.images={model: some/model}", "students.camera.init.image_backbone=images"],
            "not trained here: it needs a preset",
        ),
    ],
)
def test_backbones_that_do_not_fit_are_refused(load, overrides, message):
    with pytest.raises(InputError, match=message):
        load(STUDY, *overrides)
