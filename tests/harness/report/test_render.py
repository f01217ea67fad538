"""One table in all its forms: the same numbers, read back from each; LaTeX that compiles; nothing that breaks out."""

import re
import shutil
import subprocess
from io import StringIO

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.flags import column_groups
from harness.report.render import PREAMBLE, Cell, Table, latex, markdown, markdown_table, show

TABLE = Table.of(
    "results",
    "Results",
    ["row", "seeds", "mAP", "gain mAP", "p", "UniDistill gain mAP", "parameters", "what"],
    [
        [
            Cell("lidar->camera feature_2 [a]"),
            Cell("3", 3),
            Cell("28.0 ± 5.7", 28.0, best=True),
            Cell("+3.0 ± 1.4 [-0.3, +6.3]", 3.0),
            Cell("< 0.0001", 0.00001),
            Cell("+2.5?", 2.5),
            Cell("1,234,567", 1234567),
            Cell("significant before correction"),
        ],
        ["100 % _of_ $it$ {}", "", "", "", "", Cell("+2.5†", 2.5), "", r"\input{x} ~ ^ # | &"],
    ],
    ["A note: 95 % of 3 seeds ± 1 & more_than that."],
)
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def numbers(cell):
    return NUMBER.findall(cell.replace(",", "") if re.fullmatch(r"[\d,]+", cell) else cell)


def markdown_cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in (lines[0], *lines[2:])]
    return [[cell.strip().strip("*").replace("\\|", "|") for cell in row] for row in rows]


def test_markdown_has_every_cell_as_it_is():
    assert markdown_cells(markdown(TABLE)) == [list(TABLE.header), *([c.text for c in row] for row in TABLE.rows)]
    assert "**28.0 ± 5.7**" in markdown(TABLE)
    assert markdown(TABLE).startswith("## Results\n")
    assert TABLE.notes[0] in markdown(TABLE)
    assert TABLE.notes[0] not in markdown_table(TABLE)


def test_latex_has_the_numbers_of_every_cell():
    rows = [line for line in latex([TABLE]).splitlines() if line.endswith(r"\\")][1:]
    for row, line in zip(TABLE.rows, rows, strict=True):
        cells = re.split(r"(?<!\\)&", line.removesuffix(r"\\"))
        assert len(cells) == len(row)
        for cell, text in zip(row, cells, strict=True):
            if cell.value is not None:
                found = re.findall(r"\\num\{([^}]*)\}", text)
                assert found == numbers(cell.text)
    assert r"{\bfseries \num{28.0} $\pm$ \num{5.7}}" in rows[0]
    assert r"\num{1234567}" in rows[0]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row of 1 cells under a header of 2"):
        Table.of("t", "T", ["a", "b"], [["x"]])


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=30))
def test_no_text_becomes_a_command(text):
    line = next(line for line in latex([Table.of("t", "T", ["a"], [[text]])]).splitlines()[6:] if line.endswith(r"\\"))
    inner = line.removesuffix(r"\\").rstrip()
    known = r"\\textbackslash\{\}|\\[&%$#_{}]|\\~\{\}|\\\^\{\}|\$\\rightarrow\$|\$<\$|\$>\$"
    left = re.sub(known, "", inner)
    assert not set(left) & set("\\&%$#_^~")


def test_a_label_is_of_what_latex_takes_for_one():
    text = latex([Table.of("published-a%b #1_c", "T", ["a"], [["x"]])])
    assert r"\label{tab:published-a-b--1-c}" in text


def preamble():
    lines = [line.removeprefix("% ") for line in PREAMBLE.splitlines() if line.startswith("% \\")]
    return "\n".join([r"\documentclass{article}", *lines])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine (Debian: texlive-science)")
def test_latex_compiles_with_the_preamble_that_it_names(tmp_path):
    (tmp_path / "table.tex").write_text(latex([TABLE, TABLE]))
    document = preamble() + "\n\\begin{document}\n\\input{table}\n\\end{document}\n"
    (tmp_path / "doc.tex").write_text(document)
    ended = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "doc.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout[-2000:]
    assert (tmp_path / "doc.pdf").stat().st_size > 1000


WIDE = Table.of(
    "results",
    "Results",
    ["row", "seeds", "mAP", "gain mAP", "mATE", "paper gain mAP", "parameters"],
    [
        [
            Cell("lidar+images->camera all losses"),
            Cell("3", 3, short=""),
            Cell("28.0 ± 5.7", 28.0, short="28.0"),
            Cell("+3.0 ± 1.4 [-0.3, +6.3]", 3.0, short="+3.0 [-0.3, +6.3]"),
            Cell("0.512 ± 0.003", 0.512),
            Cell("+2.5", 2.5),
            Cell("1,234,567", 1234567),
        ]
    ],
    ["The legend."],
    ["A detail."],
    [*["metrics"] * 4, "errors", "paper", "cost"],
)


def shown(width, groups=None, terminal=True):
    """The lines that are printed, without colours."""
    console = Console(file=StringIO(), width=width, force_terminal=terminal, no_color=True)
    show(WIDE, console, groups)
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()).splitlines()]


@pytest.mark.parametrize(
    ("width", "there", "gone"),
    [
        (50, ["28.0", "+3.0 [-0.3, +6.3]"], ["±", "seeds", "mATE"]),
        (90, ["28.0 ± 5.7", "+3.0 ± 1.4 [-0.3, +6.3]"], ["mATE", "parameters"]),
        (110, ["0.512 ± 0.003"], ["paper", "parameters"]),
        (200, ["0.512 ± 0.003", "+2.5", "1,234,567"], []),
    ],
)
def test_a_terminal_has_the_columns_that_fit_and_wraps_no_number(width, there, gone):
    lines = shown(width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(line for line in lines if not line.startswith("Left out"))
    assert all(each in text for each in there)
    assert not any(each in text for each in gone)
    assert "The legend." in text
    assert "A detail." not in text


@pytest.mark.parametrize(
    ("width", "pieces"),
    [
        (40, ["lidar+images->", "camera all", "losses"]),
        (50, ["lidar+images->camera", "all losses"]),
        (60, ["lidar+images->camera all losses"]),
    ],
)
def test_a_name_wraps_after_an_arrow_and_between_words(width, pieces):
    rows = shown(width)[3 : 3 + len(pieces)]
    assert [row[: max(map(len, pieces)) + 2].strip() for row in rows] == pieces


def test_columns_that_are_asked_for_are_there_however_narrow_it_is():
    text = "\n".join(shown(50, ("metrics", "cost")))
    assert "1,234,567" in text
    assert "mATE" not in text


def test_a_pipe_gets_one_line_a_row():
    lines = shown(40, terminal=False)
    assert sum("28.0 ± 5.7" in line and "lidar+images->camera all losses" in line for line in lines) == 1


def test_unknown_columns_are_named_with_those_that_there_are():
    with pytest.raises(
        typer.BadParameter,
        match="--columns errors,speed: unknown group of columns 'speed'; allowed: cost, errors, metrics, paper",
    ):
        column_groups("errors,speed")
    assert column_groups("errors") == ("metrics", "errors")
    assert column_groups(None) is None
