"""CKA is 1 for what is alike but for a rotation, and its sums, taken piece by piece, are those of the whole."""

from dataclasses import replace

import pytest
import torch

from detectors.geometry.boxes import Boxes
from detectors.presets import PRESETS
from harness.diagnose.alignment import Scatter, align, cells_in_boxes
from harness.diagnose.examine import some_samples
from harness.diagnose.machine import Machine
from harness.errors import InputError


@pytest.fixture
def scatter():
    """``scatter(x, y, pieces)``: of the columns of both, taken in so many pieces."""

    def make(x, y, pieces=1):
        found = Scatter(x.shape[1] + y.shape[1])
        for piece in torch.cat([x, y], dim=1).tensor_split(pieces):
            found.add(piece)
        return found

    return make


@pytest.fixture
def cka(scatter):
    return lambda x, y, pieces=1: scatter(x, y, pieces).cka(x.shape[1])


def test_value_by_hand(cka):
    # Less their means, (-1, 0, 1) and (-1, -1, 2) / 3: products 1, 2 and 2/3, so 1 / (2 * 2/3).
    x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[5.0], [5.0], [6.0]])
    assert cka(x, y) == pytest.approx(0.75)


def test_rotation_scale_and_shift_change_nothing(cka, rng):
    x, y = torch.randn(50, 6, generator=rng), torch.randn(50, 4, generator=rng)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=rng))
    assert cka(x, x) == pytest.approx(1)
    assert cka(x, 3 * x @ turn + 7) == pytest.approx(1)
    assert 0 < cka(x, y) < 0.9
    assert cka(-0.5 * x @ turn - 1, y) == pytest.approx(cka(x, y))
    assert cka(y, x) == pytest.approx(cka(x, y))
    # A map that is linear but no rotation does change it.
    assert cka(x * torch.tensor([9.0, 1, 1, 1, 1, 1]), x) < 0.99


@pytest.mark.parametrize("pieces", [1, 3, 41])
def test_pieces_come_to_the_formula_over_all_cells(cka, rng, pieces):
    # Far from 0, where sums of squares that are not centred would cancel.
    x = torch.randn(41, 5, generator=rng) + 1000
    y = torch.randn(41, 3, generator=rng) - 500 + x[:, :1]
    centred = [values.double() - values.double().mean(dim=0) for values in (x, y)]
    # Kornblith's other form: the similarities of all cells with all.
    k, m = (values @ values.T for values in centred)
    assert cka(x, y, pieces) == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())), rel=1e-9)


def test_what_does_not_vary_has_no_cka(cka):
    x = torch.arange(6.0).reshape(3, 2)
    assert cka(x, torch.full((3, 2), 0.1)) is None
    assert cka(torch.zeros(3, 2), x) is None
    assert cka(x[:1], x[:1]) is None
    assert cka(x[:0], x[:0]) is None


def test_foreground_is_inside_the_turned_box_and_where_a_small_one_stands(grid):
    # Cells of 1 m from x = -4 and y = -8. A box around (0, 0), 4 m long along +y, 2 m wide: columns 3, 4, rows 6 to 9.
    # One of 0.2 m at (5.1, -2.9), in the cell from (5, -3); and padding.
    boxes = Boxes(
        center=torch.tensor([[[0.0, 0.0, 1.0], [5.1, -2.9, 0.0], [9.5, 1.5, 0.0]]]),
        size=torch.tensor([[[4.0, 2.0, 1.0], [0.2, 0.2, 1.0], [3.0, 3.0, 1.0]]]),
        yaw=torch.tensor([[torch.pi / 2, 0.3, 0.0]]),
        velocity=torch.zeros(1, 3, 2),
        label=torch.zeros(1, 3, dtype=torch.long),
        score=torch.ones(1, 3),
    )
    expected = torch.zeros(1, 12, 16, dtype=torch.bool)
    expected[0, 6:10, 3:5] = True
    expected[0, 5, 9] = True
    assert torch.equal(cells_in_boxes(boxes, torch.tensor([[True, True, False]]), grid), expected)


def test_box_turned_by_an_eighth_covers_its_diagonal(grid):
    boxes = Boxes(
        center=torch.tensor([[[0.5, 0.5, 0.0]]]),
        size=torch.tensor([[[3.0, 0.5, 1.0]]]),
        yaw=torch.tensor([[torch.pi / 4]]),
        velocity=torch.zeros(1, 1, 2),
        label=torch.zeros(1, 1, dtype=torch.long),
        score=torch.ones(1, 1),
    )
    found = cells_in_boxes(boxes, torch.tensor([[True]]), grid)
    # To the front and left: row and column grow together.
    assert found[0].nonzero().tolist() == [[7, 3], [8, 4], [9, 5]]


@pytest.fixture
def machine():
    return Machine(torch.device("cpu"))


@pytest.fixture
def samples(smoke_root):
    return some_samples(smoke_root, "synthetic_train", PRESETS["tiny_lidar"].inputs, 3)


def test_detector_is_like_itself_everywhere(machine, samples):
    torch.manual_seed(0)
    detector = PRESETS["tiny_lidar"].build().eval()
    cka, cells = align(detector, detector, samples, machine, batch_size=2)
    assert all(value == pytest.approx(1) for regions in cka.values() for value in regions.values())
    grid = detector.spec.grid
    assert sum(cells.values()) == len(samples) * grid.rows * grid.columns
    assert 0 < cells["foreground"] < cells["background"]


def test_foreground_and_background_are_told_apart(machine, samples, rng):
    torch.manual_seed(0)
    teacher, student = (PRESETS["tiny_lidar"].build().eval() for _ in range(2))

    class AlikeAtObjects(Machine):
        """The student's maps are the teacher's where objects are, and noise where none is."""

        def look(self, detector, batch):
            output = super().look(teacher, batch)
            if detector is teacher:
                return output
            at = cells_in_boxes(batch.boxes, batch.is_box, teacher.spec.grid)[:, None]
            noise = torch.randn(output.bev_low.shape, generator=rng)
            return replace(output, bev_low=torch.where(at, output.bev_low, noise))

    cka, _ = align(teacher, student, samples, AlikeAtObjects(machine.device))
    assert cka["low"]["foreground"] == pytest.approx(1)
    assert cka["low"]["background"] < 0.2
    assert cka["high"]["background"] == pytest.approx(1)


def test_maps_of_different_ground_are_not_compared(machine, samples):
    spec = PRESETS["tiny_lidar"]
    other = spec.model_copy(update={"grid": spec.grid.model_copy(update={"cell": 1.6})})
    with pytest.raises(InputError, match="different grids"):
        align(spec.build().eval(), other.build().eval(), samples, machine)
