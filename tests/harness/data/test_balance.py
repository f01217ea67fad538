"""CBGS: every class that occurs is drawn equally often, by hand, by law and on the embedded world."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.batch import Inputs
from detectors.geometry.boxes import CLASSES
from harness.data.balance import ClassBalance, class_balance
from harness.data.loader import SampleSet, batch_indices, training_batches
from harness.data.nuscenes import read
from harness.data.root import NuScenesRoot
from harness.errors import InputError
from harness.study.schedule import AugmentSpec


def _balance(*labels_of_samples):
    contains = np.zeros((len(labels_of_samples), len(CLASSES)), bool)
    for sample, labels in enumerate(labels_of_samples):
        contains[sample, list(labels)] = True
    return ClassBalance(contains)


# Class 0 is in five samples, class 3 in two, class 9 in one; sample 6 has none.
BY_HAND = _balance({0}, {0}, {0, 3}, {0}, {0, 3, 9}, set(), set())


def test_an_epoch_by_hand():
    # (5 + 2 + 1) / 3 classes is 2 draws a class, rounded down as in mmdetection3d.
    assert BY_HAND.draws == 2
    assert len(BY_HAND) == 6
    epoch = BY_HAND.epoch(torch.Generator().manual_seed(0))
    assert len(epoch) == 6
    # Of class 9 there is but one sample, so both draws are that one; class 3's are of the two that have it.
    assert epoch.count(4) >= 2
    assert epoch.count(2) + epoch.count(4) >= 4
    assert not {5, 6} & set(epoch)


def test_frequencies_are_those_worked_out_by_hand():
    epochs = 3000
    counts = Counter(i for n in range(epochs) for i in BY_HAND.epoch(torch.Generator().manual_seed(n)))
    # Two draws a class: sample 0 has a fifth of class 0's; sample 2 half of class 3's, too; sample 4 all of class 9's.
    for sample, mean in ((0, 2 / 5), (1, 2 / 5), (2, 2 / 5 + 1), (4, 2 / 5 + 1 + 2), (5, 0)):
        # The variance of a sum of independent draws is below their number.
        assert counts[sample] / epochs == pytest.approx(mean, abs=5 * (6 / epochs) ** 0.5)


def test_an_epoch_is_shuffled():
    balance = _balance(*([{0}] * 50), *([{1}] * 50))
    epoch = balance.epoch(torch.Generator().manual_seed(0))
    assert 10 < sum(index < 50 for index in epoch[:50]) < 40


@given(
    st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=12).filter(any),
    st.integers(1, 9),
    st.integers(0, 2**60),
)
def test_any_epoch_draws_each_class_at_least_its_share(labels, batch_size, seed):
    balance = _balance(*labels)
    occurring = set().union(*labels)
    assert len(balance) == sum(map(len, labels)) // len(occurring) * len(occurring)
    steps = -(-2 * len(balance) // batch_size)
    drawn = [index for step in range(steps) for index in batch_indices(balance, batch_size, step, seed)]
    for begin in (0, len(balance)):
        epoch = drawn[begin : begin + len(balance)]
        for label in occurring:
            assert sum(label in labels[index] for index in epoch) >= balance.draws
    # A pure function of seed and step, whatever was asked before.
    assert batch_indices(_balance(*labels), batch_size, steps - 1, seed) == drawn[-batch_size:]


def test_epochs_draw_anew():
    balance = _balance(*([{0}] * 50), *([{1}] * 50))
    first, second = (batch_indices(balance, len(balance), step, seed=3) for step in (0, 1))
    assert sorted(first) != sorted(second)
    assert first != batch_indices(balance, len(balance), 0, seed=4)


@pytest.mark.parametrize(("root", "split"), [("smoke_root", "synthetic_train"), ("real_root", "mini_train")])
def test_a_sample_contains_the_classes_of_the_boxes_that_training_reads(root, split, request):
    root = request.getfixturevalue(root)
    tokens = root.tokens(split)
    contains = class_balance(root, tokens).contains
    assert contains.shape == (len(tokens), len(CLASSES))
    for token, row in zip(tokens, contains, strict=True):
        assert set(np.flatnonzero(row)) == set(read(root, token, Inputs()).boxes.label.tolist())


def test_samples_without_a_box_that_training_keeps_are_an_error(smoke_path, tmp_path):
    path = tmp_path / "copy"
    (path / "v1.0-synthetic").mkdir(parents=True)
    for child in smoke_path.iterdir():
        if child.name != "v1.0-synthetic":
            (path / child.name).symlink_to(child)
    for table in (smoke_path / "v1.0-synthetic").iterdir():
        rows = json.loads(table.read_text())
        if table.name == "sample_annotation.json":
            rows = [row | {"num_lidar_pts": 0, "num_radar_pts": 0} for row in rows]
        (path / "v1.0-synthetic" / table.name).write_text(json.dumps(rows))
    root = NuScenesRoot(path, "v1.0-synthetic")
    with pytest.raises(InputError, match="class_balanced: none of the 6 training samples"):
        class_balance(root, root.tokens("synthetic_train"))


@pytest.mark.slow
def test_neither_workers_nor_an_interruption_change_a_balanced_training(smoke_root):
    tokens = smoke_root.tokens("synthetic_train")
    balance = class_balance(smoke_root, tokens)

    def batches(steps, workers=0):
        samples = SampleSet(smoke_root, tokens, Inputs(lidar_sweeps=1), AugmentSpec(), balance=balance)
        return [(b.tokens, b.lidar.values.clone()) for b in training_batches(samples, 4, steps, 1, 2, workers)]

    complete = batches(range(6))
    for other in (batches(range(3)) + batches(range(3, 6)), batches(range(6), workers=2)):
        assert [names for names, _ in other] == [names for names, _ in complete]
        assert all(torch.equal(one, two) for (_, one), (_, two) in zip(other, complete, strict=True))
