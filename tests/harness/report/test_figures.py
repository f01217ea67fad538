"""Figures of a report: words stay words, equal figures are equal bytes, and on a page they keep to themselves."""

import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from harness.report.figures import INK, GainLine, Series, binned, curves, forest, interaction, save

SVG = "{http://www.w3.org/2000/svg}"


def _forest():
    rows = [
        GainLine("lidar->camera a", "mAP", 2, 1, 3, 2.5, "gain"),
        GainLine("lidar->camera a", "NDS", -2, -3, -1, math.nan, "loss"),
        GainLine("cost $b & <c>", "mAP", 0.5, -1, 2, None, "no evidence"),
        GainLine("cost $b & <c>", "NDS", 0.5, math.nan, math.nan),
    ]
    return forest(rows)


def _interaction():
    values = {frozenset(): 1.0, frozenset("a"): 2.0, frozenset("b"): 4.0, frozenset("ab"): 9}
    return interaction(["a", "b"], values, "NDS")


def _curves():
    steps = np.arange(5.0)
    return curves([Series("one", steps, 5 - steps, steps / 9), Series("two", steps, 6 - steps)], "loss")


FIGURES = {"forest": _forest, "interaction": _interaction, "curves": _curves}


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
    for text in ("lidar->camera a", "cost $b & <c>", "gain in mAP (points)", "gain in NDS (points)", "no evidence"):
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
    values = {frozenset(key): float(number) for number, key in enumerate(("", "a", "b", "ab", "c", "ac", "bc", "abc"))}
    panels = interaction(["a", "b", "c"], values, "NDS").axes
    # Without b: a set is absent in {} and {c}, numbers 0 and 4, and present in {a} and {a, c}, numbers 1 and 5.
    assert list(panels[0].lines[0].get_ydata()) == [2.0, 3.0]


def test_curves_are_named_in_the_order_in_which_they_end():
    (legend,) = _curves().legends
    assert [text.get_text().strip() for text in legend.get_texts()] == ["two", "one"]


def test_steps_are_binned_by_hand():
    lines = [{"step": step, "a": step, "b": 1.0, "c": 7.0} for step in range(4)]
    steps, values = binned(lines, ("a", "b"), 2)
    assert (steps.tolist(), values.tolist()) == ([0.5, 2.5], [1.5, 3.5])
    assert len(binned([], ("a",), 3)[0]) == 0
