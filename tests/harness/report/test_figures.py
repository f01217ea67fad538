"""Figures of a report: words stay words, equal figures are equal bytes, and on a page they keep to themselves."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from harness.report.figures import forest, interaction
from harness.report.pictures import INK, Pictures, save
from harness.study.papers import PublishedGain
from tests.harness.report.lines import NAN, line

SVG = "{http://www.w3.org/2000/svg}"


def _forest():
    read = PublishedGain(path="lidar->camera", losses=("feature",), mAP=2.5, mark="read")
    return forest(
        [
            line("lidar->camera a", (2, 1, 3), (-2, -3, -1), read, "significant (better)"),
            line("cost $b & <c>", (0.5, -1, 2), (0.5, NAN, NAN), verdict="not significant"),
        ]
    )


def _interaction():
    values = {(): 1.0, ("a",): 2.0, ("b",): 4.0, ("a", "b"): 9}
    return interaction(["a", "b"], values, "NDS")


FIGURES = {"forest": _forest, "interaction": _interaction}


def _texts(svg):
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_twice_with_equal_bytes_for_page_and_paper(name, tmp_path):
    for folder in ("first", "second"):
        inline = save(FIGURES[name](), tmp_path / folder, name)
        assert ET.fromstring(inline).tag == f"{SVG}svg"
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [f"{name}.pdf", f"{name}.svg"]
    for form in ("svg", "pdf"):
        content = (tmp_path / "first" / f"{name}.{form}").read_bytes()
        assert content == (tmp_path / "second" / f"{name}.{form}").read_bytes()
        assert b"Date" not in content


@pytest.mark.parametrize("name", FIGURES)
def test_on_a_page_a_figure_has_ids_of_its_own_the_pages_ink_and_no_ground(name, tmp_path):
    inline = save(FIGURES[name](), tmp_path, name)
    ids = re.findall(r'\bid="([^"]*)"', inline)
    assert ids
    assert all(id_.startswith(f"{name}-") for id_ in ids)
    asked = set(re.findall(r'href="#([^"]*)"', inline)) | set(re.findall(r"url\(#([^)]*)\)", inline))
    assert asked <= set(ids)
    assert "<style" not in inline, "it would hold for the whole page"
    assert "currentColor" in inline
    assert INK not in inline
    assert "#ffffff" not in inline, "no ground of its own"


def test_a_forest_plot_has_a_line_a_label_and_names_what_users_name(tmp_path):
    texts = _texts(save(_forest(), tmp_path, "forest"))
    for text in ("lidar->camera a", "cost $b & <c>", "gain in mAP (pp)", "gain in NDS (pp)", "not significant"):
        assert text in texts
    axes = _forest().axes
    assert len(axes) == 2
    filled = [line.get_markerfacecolor() != "none" for line in axes[0].lines if line.get_marker() == "o"]
    assert filled == [True, False], "the interval that holds zero is hollow"
    assert [line.get_xdata()[0] for line in axes[0].lines if line.get_marker() == "D"] == [2.5]
    assert not [line for line in axes[1].lines if line.get_marker() == "D"], "NaN is nothing published"


def test_an_interaction_plot_has_means_over_what_a_panel_does_not_name():
    (axes,) = _interaction().axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[1.0, 2.0], [4.0, 9.0]]
    values = {tuple(key): float(number) for number, key in enumerate(("", "a", "b", "ab", "c", "ac", "bc", "abc"))}
    panels = interaction(["a", "b", "c"], values, "NDS").axes
    # Without b: a set is absent in {} and {c}, numbers 0 and 4, and present in {a} and {a, c}, numbers 1 and 5.
    assert list(panels[0].lines[0].get_ydata()) == [2.0, 3.0]


@pytest.fixture
def drawing(tmp_path):
    """``drawing(*rows)``: a report draws these rows into one folder; what its page shows, and how often it drew."""
    drawn = []

    def draw(rows):
        drawn.append(rows)
        return forest(rows)

    def report(*rows):
        drawn.clear()
        pictures = Pictures(tmp_path)
        pictures.add("gains", "Gains", "alt", draw, rows, notes=["a note"])
        (picture,) = pictures.taken()
        return picture, len(drawn)

    return report


def test_a_figure_of_the_same_numbers_is_not_drawn_again(drawing, tmp_path):
    row = line("path a", (2, 1, 3), (1, 0, 2))
    first, count = drawing(row)
    assert count == 1
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert drawing(row) == (first, 0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert drawing(line("path a", (2.5, 1, 3), (1, 0, 2)))[1] == 1


@pytest.mark.parametrize("name", ["gains.svg", "gains.pdf", "drawn.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"torn"])
def test_a_figure_whose_files_were_touched_is_drawn_again(drawing, tmp_path, name, content):
    row = line("path a", (2, 1, 3), (1, 0, 2))
    first, _ = drawing(row)
    whole = (tmp_path / name).read_bytes()
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    assert drawing(row) == (first, 1)
    assert (tmp_path / name).read_bytes() == whole


def test_a_figure_is_drawn_again_when_the_code_that_draws_is_another(drawing, monkeypatch):
    from harness.report import pictures

    row = line("path a", (2, 1, 3), (1, 0, 2))
    drawing(row)
    monkeypatch.setattr(pictures, "_code", lambda: "another")
    assert drawing(row)[1] == 1


@pytest.mark.slow
def test_what_a_figure_is_known_by_is_the_same_in_every_process():
    code = (
        "from harness.report.pictures import _bytes\n"
        "from harness.study.papers import PublishedGain\n"
        "gain = PublishedGain(path='lidar->camera', losses=('feature', 'relation'), mAP=1.0, NDS='up', mark='read')\n"
        "print(_bytes([gain]))"
    )
    known = {
        subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": str(seed)})
        for seed in range(4)
    }
    assert len(known) == 1
