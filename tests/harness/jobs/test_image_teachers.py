"""Image teachers are trained and scored on images of their own, write down what they see, and students learn from that.

Small segmenters and small camera detectors: what is claimed here does not depend on their size.
"""

import json
import shutil
from dataclasses import replace

import cv2
import pytest
import torch
from safetensors.torch import load_file

from detectors.encoders.image import ImageSpec
from detectors.encoders.resnet import ResNetSpec
from detectors.heads.instance_mask import FoundInstances, InstanceDecodeSpec, InstanceMaskSpec
from detectors.presets import PRESETS
from detectors.segmenter import SegmenterSpec
from harness.data.nuimages import ImageSet, NuImagesRoot
from harness.data.pseudo_labels import PseudoLabels
from harness.data.sensor_files import read_image
from harness.diagnose.machine import Machine
from harness.errors import InputError
from harness.jobs.detector import initial_detector
from harness.jobs.kinds import check_inputs
from harness.jobs.labels import _image as read
from harness.jobs.labels import check_labels, segmenter_labeller
from harness.jobs.segmenter import score_segmenter
from harness.jobs.worker import run
from harness.runs.folder import RunFolder
from harness.study.jobs import ImageDataIdentity, Job, LabelsJobSpec, SegmenterJobSpec, labels_hash
from harness.study.schedule import ScheduleSpec
from harness.train.checkpoint import load_model
from harness.train.segmentation import SegmentationObjective
from harness.train.streams import seeded
from harness.train.trainer import Interrupted

TRAIN, VAL = "v1.0-synthetic-images/train", "v1.0-synthetic-images/val"
SIZE = (40, 72)
"""Of the images that the segmenter sees."""


@pytest.fixture(scope="module")
def image_spec():
    return ImageSpec(backbone=ResNetSpec(stem_width=8, widths=(8, 12, 16, 20), depths=(1, 1, 1, 1)), channels=12)


@pytest.fixture(scope="module")
def segmenter_spec(image_spec):
    """One that finds something in every image, trained or not."""
    return SegmenterSpec(
        image_size=SIZE,
        image=image_spec,
        head=InstanceMaskSpec(width=8),
        decode=InstanceDecodeSpec(score_threshold=0.0, max_instances=4),
    )


@pytest.fixture(scope="module")
def images_root(smoke_images):
    return NuImagesRoot(smoke_images)


@pytest.fixture(scope="module")
def segmenter_job(images_root, segmenter_spec):
    return SegmenterJobSpec(
        segmenter=segmenter_spec,
        seed=3,
        data=ImageDataIdentity(fingerprint="of the images", train_split=TRAIN, eval_split=VAL),
        schedule=ScheduleSpec(steps=4, batch_size=5),
    )


@pytest.fixture(scope="module")
def labels_job(smoke_root):
    """``labels_job(**fields)``: whose labels of the training split they are."""
    return lambda **fields: LabelsJobSpec(
        fingerprint=smoke_root.fingerprint(), split="synthetic_train", **{"segmenter": None, **fields}
    )


@pytest.fixture(scope="module")
def run_job(smoke_root, order_on, tmp_path_factory):
    """``run_job(spec, folder=None, stop=never, **fields of the order)``: its folder and its result."""

    def run_job(spec, path=None, stop=lambda folder: False, **more):
        order = order_on(smoke_root, spec=spec, **more)
        folder = RunFolder(path or tmp_path_factory.mktemp("job"))
        folder.write("job.json", order.model_dump(mode="json"))
        return folder, run(order, folder, lambda: stop(folder))

    return run_job


@pytest.fixture(scope="module")
def teacher(run_job, segmenter_job, smoke_images):
    """Folder and result of a trained image teacher."""
    return run_job(segmenter_job, source=smoke_images)


@pytest.fixture(scope="module")
def labels(run_job, labels_job, segmenter_job, teacher):
    """Folder and result of the job that wrote down what it sees."""
    given = {"teacher_spec": segmenter_job, "teacher_weights": teacher[0].model}
    return run_job(labels_job(segmenter=segmenter_job.id), **given)


def _filenames(root, split):
    return {row["filename"] for token in root.tokens(split) for row in root.images(token, 1)}


def test_an_image_teacher_is_trained_and_scored(teacher, segmenter_spec):
    folder, result = teacher
    steps = folder.steps()
    assert [line["step"] for line in steps] == [0, 1, 2, 3]
    for line in steps:
        assert line["weighted/heatmap"] == line["raw/heatmap"] > 0
        assert line["weighted/masks"] == pytest.approx(segmenter_spec.head.mask_weight * line["raw/masks"])
        assert line["loss"] == pytest.approx(line["weighted/heatmap"] + line["weighted/masks"])
    assert {"AP", "AP50", "AP50/car"} <= result.metrics.keys()
    assert 0 <= result.metrics["AP"] <= 1
    assert result.parameters == sum(weight.numel() for weight in segmenter_spec.build().parameters())
    assert not (folder.path / "predictions.json").exists()


def test_an_interrupted_image_teacher_ends_with_the_same_bits(teacher, run_job, segmenter_job, smoke_images, tmp_path):
    with pytest.raises(Interrupted, match="after step 2 of 4"):
        run_job(segmenter_job, tmp_path, lambda folder: len(folder.steps()) >= 2, source=smoke_images)
    folder, result = run_job(segmenter_job, tmp_path, source=smoke_images)
    uninterrupted, expected = teacher
    assert [line["loss"] for line in folder.steps()] == [line["loss"] for line in uninterrupted.steps()]
    assert folder.model.read_bytes() == uninterrupted.model.read_bytes()
    assert result.metrics == pytest.approx(expected.metrics, nan_ok=True)


def test_seed_decides_the_weights_that_it_begins_with(run_job, segmenter_job, smoke_images, monkeypatch):
    from harness.jobs import segmenter

    # Without a training, a model is what it began with.
    monkeypatch.setattr(segmenter, "fit", lambda *given: None)
    begun = []
    for seed in (3, 4):
        folder, _ = run_job(segmenter_job.model_copy(update={"seed": seed}), source=smoke_images)
        with seeded(seed, "weights"):
            expected = segmenter_job.segmenter.build().state_dict()
        begun.append(load_file(folder.model))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in begun[-1].items())
    assert not torch.equal(*(weights["head.heatmap.weight"] for weights in begun))


def test_a_loss_that_is_not_finite_stops_the_training_by_name(segmenter_spec, images_root):
    objective = SegmentationObjective(segmenter_spec.build())
    batch = next(ImageSet(images_root.images(VAL), SIZE).plain_batches(2))
    assert objective(batch).total.isfinite()
    with torch.no_grad():
        objective.student.head.heatmap.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="loss 'heatmap' is nan"):
        objective(batch)


@pytest.mark.parametrize("wrong", ["nothing", "classes", "places", "images"])
def test_an_image_teacher_that_sees_everything_right_scores_all_and_otherwise_next_to_nothing(
    segmenter_spec, images_root, wrong
):
    seen = []
    for batch in ImageSet(images_root.images(VAL), SIZE).plain_batches(1):
        numbers = (batch.instances.label[0] >= 0).nonzero()[:, 0]
        masks = torch.stack([batch.instances.owner[0] == number + 1 for number in numbers])
        seen.append(FoundInstances(masks, batch.instances.label[0, numbers], torch.ones(len(numbers))))
    if wrong == "classes":
        seen = [replace(each, label=(each.label + 1) % 10) for each in seen]
    if wrong == "places":
        seen = [replace(each, mask=each.mask.roll((10, 30), (1, 2))) for each in seen]
    if wrong == "images":
        seen = [*seen[1:], seen[0]]
    segmenter = segmenter_spec.build()
    given = iter(seen)
    segmenter.decode = lambda maps: [next(given) for _ in range(len(maps.heatmap))]
    metrics = score_segmenter(segmenter, images_root, VAL, Machine(torch.device("cpu")), lambda: False)
    assert list(given) == []
    if wrong == "nothing":
        assert metrics["AP"] == metrics["AP50"] == 1
    else:
        assert metrics["AP50"] < 0.2


def test_labels_are_those_of_every_training_image_and_of_no_other(labels, smoke_root):
    folder, result = labels
    written = PseudoLabels(folder.labels)
    wanted = _filenames(smoke_root, "synthetic_train")
    assert written.images.keys() == wanted
    assert not wanted & _filenames(smoke_root, "synthetic_val")
    assert result.metrics["images"] == len(wanted)
    assert result.metrics["instances"] == sum(len(image.instances) for image in written.images.values()) > 0
    assert (result.parameters, folder.steps()) == (0, [])
    # A student's loader finds what it needs in them.
    assert check_labels(smoke_root, "synthetic_train", folder.labels).images == written.images


def test_labels_are_what_the_image_teacher_sees_in_pixels_of_the_image(labels, teacher, segmenter_spec, smoke_root):
    written = PseudoLabels(labels[0].labels)
    segmenter = load_model(teacher[0].model, segmenter_spec).eval()
    compared = 0
    for name in sorted(written.images)[:3]:
        image = read_image(smoke_root.path / name)
        scaled = torch.from_numpy(cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA)).permute(2, 0, 1)
        with torch.no_grad():
            (instances,) = segmenter.decode(segmenter(scaled[None]))
        seen = written.instances(name)
        assert seen.owner.shape == image.shape[:2]
        assert seen.label.tolist() == instances.label.tolist()
        assert seen.score.tolist() == pytest.approx(instances.score.tolist(), abs=1e-4)
        # The best one is in front of the others, so that all of it is seen.
        best = instances.mask[:1, None].float()
        mask = torch.nn.functional.interpolate(best, seen.owner.shape, mode="bilinear")[0, 0] > 0.5
        assert torch.equal(seen.owner == 1, mask)
        compared += int(mask.sum())
    assert compared > 0


def test_images_of_any_size_are_looked_at_together(teacher, segmenter_spec, smoke_root):
    look = segmenter_labeller(teacher[0].model, segmenter_spec, Machine(torch.device("cpu")))
    files = sorted(smoke_root.path.glob("samples/CAM_FRONT/*.jpg"))[:2]
    images = [read_image(files[0])[:60, :110], read_image(files[1])[::2, ::3]]
    together, alone = look(images), [look([image])[0] for image in images]
    sizes = [image.shape[:2] for image in images]
    assert sizes[0] != sizes[1]
    assert [instances.mask.shape[1:] for instances in together] == sizes
    for one, other in zip(together, alone, strict=True):
        assert len(one.mask) > 0
        assert torch.equal(one.label, other.label)
        assert torch.equal(one.mask, other.mask)


def test_an_interrupted_labelling_goes_on_where_it_was(
    run_job, labels, labels_job, segmenter_job, teacher, tmp_path, monkeypatch
):
    given = {"teacher_spec": segmenter_job, "teacher_weights": teacher[0].model}
    spec = labels_job(segmenter=segmenter_job.id)
    with pytest.raises(Interrupted, match="after 8 of"):
        run_job(spec, tmp_path / "none", lambda folder: True, **given)
    # Of a file that is not whole nothing is kept.
    assert not list((tmp_path / "none").glob("labels/*"))

    monkeypatch.setattr("harness.jobs.labels.IMAGES_A_FILE", 5)
    with pytest.raises(Interrupted, match="after 5 of"):
        run_job(spec, tmp_path / "parts", lambda folder: any(folder.labels.glob("*")), **given)
    looked = []
    monkeypatch.setattr("harness.jobs.labels._image", lambda *args: looked.append(args[1]["filename"]) or read(*args))
    folder, result = run_job(spec, tmp_path / "parts", **given)
    expected = PseudoLabels(labels[0].labels).images
    assert PseudoLabels(folder.labels).images == expected
    assert result.metrics == labels[1].metrics
    assert len(looked) == len(expected) - 5
    assert len(list(folder.labels.iterdir())) == -(-len(expected) // 5)


@pytest.fixture(scope="module")
def student_spec(smoke_root, order_on, image_spec):
    """``student_spec(**fields)``: the job of a small camera detector, two steps long."""
    plain = order_on(smoke_root, "tiny_camera", {"steps": 2, "batch_size": 2}).spec
    camera = plain.detector.camera.model_copy(update={"image_size": (40, 112), "image": image_spec})
    detector = plain.detector.model_copy(update={"camera": camera})
    return lambda **fields: plain.model_copy(update={"detector": detector, **fields})


@pytest.fixture(scope="module")
def student(run_job, student_spec, labels):
    """Folder and result of a student that learns from the labels alone."""
    spec = student_spec(labels="their id", losses={"instance": {"weight": 0.5}})
    return run_job(spec, labels=labels[0].labels)


def test_a_student_learns_from_the_labels_and_leaves_the_head_behind(student, student_spec, run_job):
    folder, result = student
    plain, baseline = run_job(student_spec())
    for line in folder.steps():
        assert line["raw/instance"] > 0
        assert line["weighted/instance"] == pytest.approx(0.5 * line["raw/instance"])
        assert line["share/instance"] == pytest.approx(line["weighted/instance"] / line["loss"])
    # Where the pulls of all terms are compared is behind the view transformation, which this one does not pass.
    first = folder.steps()[0]
    assert first["map_gradient/detection"] > 0
    assert first["map_gradient/instance"] == first["weight_gradient/instance"] == 0
    shapes = [{name: tensor.shape for name, tensor in load_file(each.model).items()} for each in (folder, plain)]
    assert shapes[0] == shapes[1]
    assert result.parameters == baseline.parameters
    # Paired: initial weights and batches are the baseline's, and so are the first step's other terms.
    assert result.began == baseline.began
    assert first["raw/heatmap"] == plain.steps()[0]["raw/heatmap"]
    assert not torch.equal(*(load_file(each.model)["camera.image.smooth.0.weight"] for each in (folder, plain)))


def test_an_interrupted_student_of_labels_ends_with_the_same_bits(student, student_spec, run_job, labels, tmp_path):
    spec = student_spec(labels="their id", losses={"instance": {"weight": 0.5}})
    with pytest.raises(Interrupted, match="after step 1 of 2"):
        run_job(spec, tmp_path, lambda folder: True, labels=labels[0].labels)
    # What is resumed holds the head, too.
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert any(name.startswith("terms.instance.head.") for name in state["objective"])
    folder, _ = run_job(spec, tmp_path, labels=labels[0].labels)
    assert [line["loss"] for line in folder.steps()] == [line["loss"] for line in student[0].steps()]
    assert folder.model.read_bytes() == student[0].model.read_bytes()


def _edited(labels, out, change):
    """A copy of a folder of labels with other content."""
    (file,) = labels.iterdir()
    content = json.loads(file.read_text())
    change(content)
    out.mkdir()
    (out / "labels.json").write_text(json.dumps(content))
    return out


def _check(smoke_root, spec, source):
    check_inputs([Job(spec, "labels", source)], smoke_root)


def _given(labels_job, folder):
    return labels_job(given=labels_hash(folder))


def test_given_labels_are_taken_over_as_they_are(labels, labels_job, run_job, smoke_root):
    given = labels[0].labels
    spec = _given(labels_job, given)
    _check(smoke_root, spec, given)
    folder, result = run_job(spec, source=given)
    copied, original = ({file.name: file.read_bytes() for file in each.iterdir()} for each in (folder.labels, given))
    assert copied == original
    assert result.metrics == labels[1].metrics


@pytest.mark.parametrize("mistake", ["unknown image", "missing image", "another size"])
def test_given_labels_that_do_not_fit_are_refused_before_anything_runs(
    labels, labels_job, run_job, smoke_root, tmp_path, mistake
):
    first = {}

    def change(content):
        image = content["images"][0]
        first.update(image)
        if mistake == "unknown image":
            image["file_name"] = "samples/CAM_FRONT/elsewhere.jpg"
        elif mistake == "missing image":
            content["images"] = content["images"][1:]
            content["annotations"] = [row for row in content["annotations"] if row["image_id"] != image["id"]]
        else:
            image["height"] += 1

    given = _edited(labels[0].labels, tmp_path / "given", change)
    messages = {
        "unknown image": "'samples/CAM_FRONT/elsewhere.jpg' is not in the dataset",
        "missing image": f"has no labels of {first['file_name']}",
        "another size": f"labels of {first['file_name']} have {first['width']} x {first['height'] + 1} pixels",
    }
    with pytest.raises(InputError, match=messages[mistake]):
        _check(smoke_root, _given(labels_job, given), given)
    # Nor by a worker, should they have come to be so since.
    with pytest.raises(InputError, match=messages[mistake]):
        run_job(_given(labels_job, given), tmp_path / "job", source=given)


def test_given_labels_that_changed_since_the_plan_are_refused_until_they_are_as_they_were(
    labels, labels_job, run_job, tmp_path
):
    given = _edited(labels[0].labels, tmp_path / "given", lambda content: None)
    spec = _given(labels_job, given)
    more = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "car"}]}
    (given / "more.json").write_text(json.dumps(more))
    with pytest.raises(InputError, match="changed after the study was planned"):
        run_job(spec, tmp_path / "job", source=given)
    (given / "more.json").unlink()
    folder, result = run_job(spec, tmp_path / "job", source=given)
    assert result.metrics == labels[1].metrics
    assert [file.name for file in folder.labels.iterdir()] == ["labels.json"]


@pytest.mark.parametrize("split", ["train_split", "eval_split"])
def test_a_missing_image_of_the_image_teacher_is_named_before_anything_runs(
    smoke_root, smoke_images, images_root, segmenter_job, split, tmp_path
):
    _check(smoke_root, segmenter_job, smoke_images)
    copy = tmp_path / "images"
    shutil.copytree(smoke_images, copy)
    gone = images_root.images(getattr(segmenter_job.data, split))[1].path
    (copy / gone.relative_to(smoke_images)).unlink()
    with pytest.raises(InputError, match=gone.name):
        _check(smoke_root, segmenter_job, copy)


def test_backbone_begins_as_the_image_teachers(order, image_spec, teacher, segmenter_job):
    preset = PRESETS["tiny_camera"]
    camera = preset.camera.model_copy(update={"image": image_spec, "image_size": SIZE})
    spec = order("tiny_camera").spec.model_copy(
        update={"detector": preset.model_copy(update={"camera": camera}), "image_backbone": segmenter_job.id}
    )
    plain = order(spec=spec)
    begun = order(spec=spec, image_backbone_spec=segmenter_job, image_backbone_weights=teacher[0].model)
    weights = {True: initial_detector(begun, spec).state_dict(), False: initial_detector(plain, spec).state_dict()}
    theirs = load_file(teacher[0].model)
    for name, tensor in weights[True].items():
        backbone = name.removeprefix("camera.") if name.startswith("camera.image.backbone.") else None
        torch.testing.assert_close(tensor, theirs[backbone] if backbone else weights[False][name], atol=0, rtol=0)
    assert any((weights[True][name] != weights[False][name]).any() for name in weights[True])
