"""A model of transformers writes labels as an image teacher of ours does; one that cannot is refused by name."""

import json
import shutil

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

from harness.data.pseudo_labels import PseudoLabels
from harness.errors import InputError
from harness.jobs.kinds import check_inputs
from harness.jobs.worker import run
from harness.runs.folder import RunFolder
from harness.study.jobs import Job, LabelsJobSpec
from harness.train.pretrained import PretrainedLabeller

CAR, PEDESTRIAN = 0, 5
SIZES = ((60, 110), (47, 33))
"""Of two images, one wide, one tall."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """``saved(size)``: folder of a tiny Mask2Former that sees much in any image; ``size`` as its processor has it."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(
            embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=stages
        ),
        **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32),
        **dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 16),
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=6,
        id2label={0: "tv", 1: "person", 2: "car"},
        label2id={"tv": 0, "person": 1, "car": 2},
    )
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(config)
    # As it is initialised, all masks are empty or all are whole, and no query is sure of anything.
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and any(part in name for part in ("mask_embedder", "mask_projection", "queries")):
            torch.nn.init.normal_(weight, std=0.5)
    torch.nn.init.normal_(model.class_predictor.weight, std=0.5)
    model.class_predictor.bias.data = torch.tensor([0.0, 0.0, 0.0, -10.0])

    def save(size):
        folder = tmp_path_factory.mktemp("model")
        model.save_pretrained(folder)
        Mask2FormerImageProcessorPil(size=size).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def fixed(saved):
    """Folder of one that squeezes every image into the same size."""
    return saved({"height": 64, "width": 96})


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(256, size=(*size, 3), dtype=np.uint8) for size in SIZES]


def _labeller(folder):
    return PretrainedLabeller(str(folder), torch.device("cpu"))


def test_images_of_two_sizes_are_labelled_in_their_own_pixels(fixed, images):
    found = _labeller(fixed)(images)
    assert [each.mask.shape[1:] for each in found] == list(SIZES)
    for each in found:
        assert len(each.mask) == len(each.label) == len(each.score) > 0
        assert set(each.label.tolist()) <= {PEDESTRIAN, CAR}
        assert each.score.tolist() == sorted(each.score.tolist(), reverse=True)
        assert each.mask.any()
    assert {PEDESTRIAN, CAR} == {label for each in found for label in each.label.tolist()}


@pytest.mark.parametrize("size", [{"height": 64, "width": 96}, {"shortest_edge": 64, "longest_edge": 128}])
def test_what_is_seen_in_an_image_does_not_depend_on_the_others(saved, images, size):
    look = _labeller(saved(size))
    together, alone = look(images), [look([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert len(one.mask) > 0
        assert torch.equal(one.label, other.label)
        assert (one.mask == other.mask).float().mean() > 0.99


def test_other_classes_are_left_out_and_the_surest_stands_first(fixed, images, monkeypatch):
    look = _labeller(fixed)
    masks = torch.zeros(3, *SIZES[0])
    for number in range(3):
        masks[number, :, 10 * number : 10 * number + 5] = 1
    names = {"tv": 0, "person": 1, "car": 2}
    found = [("person", 0.25), ("tv", 0.9), ("car", 0.75)]
    info = [{"id": i, "label_id": names[name], "score": score} for i, (name, score) in enumerate(found)]
    # Where nothing is found, the processor returns a map of -1 in place of masks.
    seen = [
        {"segmentation": masks, "segments_info": info},
        {"segmentation": torch.full(SIZES[1], -1.0), "segments_info": []},
    ]
    monkeypatch.setattr(
        look._processor,
        "post_process_instance_segmentation",
        lambda *args, target_sizes, **kwargs: [seen[SIZES.index(tuple(size))] for size in target_sizes],
    )
    first, nothing = look(images)
    assert first.label.tolist() == [CAR, PEDESTRIAN]
    assert first.score.tolist() == [0.75, 0.25]
    assert torch.equal(first.mask, masks[[2, 0]] > 0)
    assert nothing.mask.shape == (0, *SIZES[1])
    assert len(nothing.label) == len(nothing.score) == 0


def test_a_model_labels_every_training_image(fixed, smoke_root, order_on, tmp_path):
    spec = LabelsJobSpec(fingerprint=smoke_root.fingerprint(), split="synthetic_train", model=str(fixed))
    check_inputs([Job(spec, "labels")], smoke_root)
    folder = RunFolder(tmp_path)
    result = run(order_on(smoke_root, spec=spec), folder, lambda: False)
    labelled = PseudoLabels(folder.labels).images
    wanted = [row["filename"] for token in smoke_root.tokens("synthetic_train") for row in smoke_root.images(token, 1)]
    assert labelled.keys() == set(wanted)
    assert result.metrics["images"] == len(wanted)
    assert {label for image in labelled.values() for label, _, _ in image.instances} <= {PEDESTRIAN, CAR}
    assert result.metrics["instances"] > 0


def _refusal(name, smoke_root):
    """The message of the InputError, before anything runs, that a study with this model ends in."""
    spec = LabelsJobSpec(fingerprint="", split="synthetic_train", model=str(name))
    with pytest.raises(InputError) as caught:
        check_inputs([Job(spec, "labels")], smoke_root)
    assert str(name) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_model_that_knows_none_of_our_classes_is_refused(fixed, smoke_root, tmp_path):
    config = json.loads((fixed / "config.json").read_text())
    config["id2label"] = {"0": "tv", "1": "sofa", "2": "potted plant"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "none of its classes (tv, sofa, potted plant) is one of car, truck" in _refusal(tmp_path, smoke_root)


def test_a_model_for_something_else_is_refused(smoke_root, tmp_path):
    BertConfig().save_pretrained(tmp_path)
    assert "is a bert; allowed: mask2former and maskformer" in _refusal(tmp_path, smoke_root)


def test_a_name_that_does_not_exist_is_refused(smoke_root, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # no test asks the network
    assert "cannot be read" in _refusal(tmp_path / "nowhere", smoke_root)
    assert "cannot be read" in _refusal("nobody/no-such-model", smoke_root)


def test_weights_that_are_not_all_there_are_refused(fixed, tmp_path):
    shutil.copytree(fixed, tmp_path / "model")
    weights = load_file(fixed / "model.safetensors")
    del weights["class_predictor.bias"]
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"has no weights for class_predictor\.bias \(1 such\)"):
        _labeller(tmp_path / "model")


def test_weights_that_are_no_numbers_are_refused(fixed, tmp_path):
    shutil.copytree(fixed, tmp_path / "model")
    weights = load_file(fixed / "model.safetensors")
    weights["class_predictor.bias"].fill_(float("nan"))
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"tensor class_predictor\.bias contains NaN"):
        _labeller(tmp_path / "model")


@pytest.mark.parametrize("missing", ["model.safetensors", "preprocessor_config.json"])
def test_a_folder_that_is_not_whole_is_named(fixed, tmp_path, missing):
    shutil.copytree(fixed, tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(InputError, match=f"model '{tmp_path / 'model'}' of transformers cannot be loaded"):
        _labeller(tmp_path / "model")
