"""X-IS: the student's image features learn an image teacher's masks; nothing behind the view transformation does."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.batch import Instances
from detectors.heads.center_loss import focal_loss
from detectors.heads.instance_mask import instance_targets
from detectors.outputs import HeadOutput
from detectors.presets import PRESETS
from distill.feature import FeatureSpec
from distill.instance import InstanceSpec
from distill.objective import Objective

VIEWS = 3
SIZE = (32, 56)
"""Of the images; features have 4 x 7 cells, the head's maps 8 x 14."""
CAR, BUS, PEDESTRIAN = 0, 3, 5
"""Any three classes."""


@pytest.fixture
def build(detector_spec):
    """``build(**fields)``: a term of a camera student, always with the same weights, in double precision."""

    def build(mask_weight=2.0, **fields):
        head = InstanceSpec(weight=1.0).head.model_copy(update={"width": 6, "mask_weight": mask_weight})
        torch.manual_seed(0)
        return InstanceSpec(weight=1.0, head=head, **fields).build(detector_spec).double()

    return build


@pytest.fixture
def student(scene, rng, detector_spec):
    """What a student says of two samples; its image features would take a gradient."""
    features = torch.randn(2, VIEWS, detector_spec.camera.image.channels, 4, 7, generator=rng, dtype=torch.float64)
    output = scene.output(rng, detector_spec.low_channels, detector_spec.high_channels)
    return replace(output, image_features=features.requires_grad_())


def _instances(*rows):
    """``rows``: (sample, view, rows, columns, label, score) of rectangles in pixels."""
    owner = torch.zeros(2, VIEWS, *SIZE, dtype=torch.uint8)
    label = torch.full((2, VIEWS, 4), -1)
    score = torch.zeros(2, VIEWS, 4)
    for sample, view, rows_, columns, name, sure in rows:
        number = int((label[sample, view] >= 0).sum())
        owner[sample, view, slice(*rows_), slice(*columns)] = number + 1
        label[sample, view, number], score[sample, view, number] = name, sure
    return Instances(owner, label, score)


THINGS = (
    (0, 0, (4, 16), (8, 40), BUS, 0.9),
    (0, 0, (18, 30), (2, 12), PEDESTRIAN, 0.5),
    (0, 2, (10, 26), (30, 54), CAR, 0.4),
    (1, 1, (0, 20), (0, 22), CAR, 0.75),
)


@pytest.fixture
def batch(scene):
    return replace(scene.batch, instances=_instances(*THINGS))


def test_is_a_positive_scalar_that_teaches_the_image_features_and_the_head_alone(build, student, batch):
    leaves = [student.bev_low, student.bev_high, student.head.heatmap, student.head.boxes]
    for leaf in leaves:
        leaf.requires_grad_()
    term = build()
    loss = term(student, None, batch)
    loss.backward()
    assert loss.shape == ()
    assert loss > 0
    assert loss.isfinite()
    assert student.image_features.grad.isfinite().all()
    # Every view learns, if only that there is nothing in it.
    assert student.image_features.grad.abs().sum((2, 3, 4)).gt(0).all()
    assert all(weight.grad is not None and weight.grad.any() for weight in term.parameters())
    assert all(leaf.grad is None for leaf in leaves)


def test_views_of_a_sample_are_paired_with_their_own_labels(build, student, batch):
    """The loss is that of the head on the views one by one, those of the first sample first."""
    # What a batch norm computes of all views together would hide which view is which.
    term = build().eval()
    seen = student.image_features.detach().reshape(2 * VIEWS, -1, 4, 7)
    labels = batch.instances
    flat = Instances(labels.owner.reshape(2 * VIEWS, *SIZE), labels.label.reshape(6, 4), torch.ones(6, 4).double())
    loss = term.head.loss(term.head(seen), instance_targets(flat, (8, 14), term.head.spec))
    assert_close(term(student, None, batch), loss.heatmap + 2 * loss.masks)


def test_a_batch_of_one_sample_and_one_view_is_enough(build, student, batch):
    labels = batch.instances
    one = Instances(labels.owner[:1, :1], labels.label[:1, :1], labels.score[:1, :1])
    maps = {name: getattr(student, name)[:1] for name in ("bev_low", "bev_high")}
    head = HeadOutput(student.head.heatmap[:1], student.head.boxes[:1])
    seen = replace(student, image_features=student.image_features[:1, :1], head=head, **maps)
    loss = build()(seen, None, replace(batch, instances=one))
    assert loss > 0
    assert loss.isfinite()


@pytest.mark.parametrize("room", [4, 0])
def test_without_instances_only_the_heatmap_costs(build, student, batch, room):
    nothing = _instances()
    nothing = replace(nothing, label=nothing.label[..., :room], score=nothing.score[..., :room])
    term = build()
    loss = term(student, None, replace(batch, instances=nothing))
    loss.backward()
    heatmap = term.head(student.image_features.flatten(0, 1)).heatmap
    assert_close(loss, focal_loss(heatmap, torch.zeros_like(heatmap)))
    assert student.image_features.grad.isfinite().all()
    assert student.image_features.grad.any()
    gradients = [weight.grad for weight in term.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_order_of_instances_and_amount_of_padding_do_not_matter(build, student, batch):
    term = build()
    loss = term(student, None, batch)
    shuffled = _instances(*THINGS[::-1])
    assert_close(term(student, None, replace(batch, instances=shuffled)), loss)
    assert_close(term(student, None, replace(batch, instances=batch.instances.padded(7))), loss)


def test_samples_and_views_may_come_in_any_order(build, student, batch):
    term = build()
    loss = term(student, None, batch)
    for axis in (0, 1):
        labels = batch.instances
        turned = Instances(labels.owner.flip(axis), labels.label.flip(axis), labels.score.flip(axis))
        seen = replace(student, image_features=student.image_features.flip(axis))
        assert_close(term(seen, None, replace(batch, instances=turned)), loss)
        # Which only says something if it matters whose labels they are.
        assert abs(term(student, None, replace(batch, instances=turned)) - loss) > 1e-3


def test_half_precision_is_close(build, student, batch):
    term = build().float()
    student = replace(student, image_features=student.image_features.detach().float().requires_grad_())
    whole = term(student, None, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = term(student, None, batch)
    half.backward()
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(whole.item(), rel=0.05)
    assert student.image_features.grad.isfinite().all()


def test_only_scores_above_the_threshold_count(build, student, batch):
    term = build(score_threshold=0.5)
    loss = term(student, None, batch)
    # The pedestrian's is exactly the threshold, the car's below it.
    assert_close(term(student, None, replace(batch, instances=_instances(THINGS[0], THINGS[3]))), loss)
    surer = [(*thing[:5], 0.51) for thing in THINGS]
    other = term(student, None, replace(batch, instances=_instances(*surer)))
    assert_close(other, build()(student, None, batch))
    assert abs(other - loss) > 1e-3


def test_the_threshold_is_the_papers_unless_a_study_says_more(build, student, batch):
    at, above = ([(*thing[:5], score) for thing in THINGS] for score in (0.2, 0.21))
    unseen, seen, nothing = (
        build()(student, None, replace(batch, instances=_instances(*given))) for given in (at, above, [])
    )
    assert_close(unseen, nothing)
    assert_close(seen, build()(student, None, batch))


def test_confidence_weighs_the_masks_and_their_weight_does(build, student, batch):
    half = [(*thing[:5], 0.5) for thing in THINGS]
    labels = replace(batch, instances=_instances(*half))

    def loss(**fields):
        return build(**fields)(student, None, labels).item()

    heatmap = loss(mask_weight=0.0)
    masks = loss(mask_weight=1.0) - heatmap
    assert masks > 0.1
    assert loss(mask_weight=3.0) == pytest.approx(heatmap + 3 * masks)
    assert loss(mask_weight=3.0, confidence="masks") == pytest.approx(heatmap + 3 * 0.5 * masks)
    assert loss(mask_weight=0.0, confidence="masks") == pytest.approx(heatmap)


def test_a_student_without_a_camera_is_refused(spec):
    with pytest.raises(ValueError, match="the student has no camera"):
        InstanceSpec(weight=1.0).build(spec)


def test_a_batch_without_labels_is_refused(build, student, scene):
    with pytest.raises(ValueError, match="no labels of an image teacher"):
        build()(student, None, scene.batch)


@pytest.fixture
def camera_spec():
    """``camera_spec(keyframes)``: the tiny camera detector on the images of the tests' batches."""

    def make(keyframes=1):
        preset = PRESETS["tiny_camera"]
        camera = preset.camera.model_copy(update={"image_size": (32, 48), "keyframes": keyframes})
        return preset.model_copy(update={"camera": camera})

    return make


def _labelled(batch):
    """The batch with a rectangle or two in each of its images."""
    b, n = batch.views.images.shape[:2]
    owner = torch.zeros(b, n, 32, 48, dtype=torch.uint8)
    owner[:, :, 4:20, 8:24] = 1
    owner[0, :, 16:32, 28:48] = 2
    label = torch.tensor([[CAR, PEDESTRIAN], [BUS, -1]])[:b, None].expand(b, n, 2)
    return replace(batch, instances=Instances(owner, label.clone(), torch.ones(b, n, 2)))


@pytest.fixture
def losses():
    return {"instance": InstanceSpec(weight=0.5), "feature": FeatureSpec(weight=3.0)}


@pytest.mark.parametrize("keyframes", [1, 2])
def test_no_gradient_passes_the_view_transformation(camera_spec, make_batch, losses, keyframes):
    torch.manual_seed(0)
    objective = Objective(camera_spec(keyframes).build(), None, {"instance": losses["instance"]})
    objective.train()
    batch = _labelled(make_batch(cameras=2 * keyframes))
    optimizer = torch.optim.SGD(objective.parameters(), lr=1e-3)
    # Warm: a step of everything together, after which no map is what its initialisation makes of it.
    objective(batch).total.backward()
    assert all(weight.grad is not None for weight in objective.student.parameters())
    optimizer.step()
    optimizer.zero_grad()
    objective(batch).weighted["instance"].backward()
    taught = {name for name, weight in objective.student.named_parameters() if weight.grad is not None}
    moved = {name for name in taught if objective.student.get_parameter(name).grad.any()}
    behind = {name for name, _ in objective.student.named_parameters() if not name.startswith("camera.image.")}
    assert {name.split(".")[0] for name in behind} == {"camera", "neck", "head"}
    assert any(name.startswith("camera.join." if keyframes == 2 else "camera.lift.") for name in behind)
    assert not moved & behind
    assert moved == {name for name, _ in objective.student.named_parameters()} - behind


def test_alone_it_asks_no_detector(camera_spec, tiny_batch, losses):
    student, teacher = camera_spec().build(), camera_spec().build()
    output = Objective(student, None, {"instance": losses["instance"]})(_labelled(tiny_batch))
    assert tuple(output.raw) == ("heatmap", "boxes", "instance")
    assert_close(output.weighted["instance"].detach(), 0.5 * output.raw["instance"])
    assert_close(output.total, sum(output.weighted.values()))
    with pytest.raises(ValueError, match="without losses has no effect"):
        Objective(student, teacher, {"instance": losses["instance"]})


def test_beside_a_loss_of_a_detector_both_teach(camera_spec, tiny_batch, losses):
    with pytest.raises(ValueError, match="losses feature need a teacher"):
        Objective(camera_spec().build(), None, losses)
    objective = Objective(camera_spec().build(), PRESETS["tiny_lidar"].build(), losses)
    output = objective(_labelled(tiny_batch))
    assert tuple(output.raw) == ("heatmap", "boxes", "instance", "feature")
    assert all(output.raw[name] > 0 for name in output.raw)
    assert_close(output.total, sum(output.weighted.values()))


def test_its_head_is_trained_beside_the_student_and_is_no_part_of_it(camera_spec, losses):
    student = camera_spec().build()
    before = set(student.state_dict())
    objective = Objective(student, None, {"instance": losses["instance"]})
    assert set(student.state_dict()) == before
    beside = set(objective.state_dict()) - {f"student.{name}" for name in before}
    assert beside
    assert all(name.startswith("terms.instance.head.") for name in beside)
