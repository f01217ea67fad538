"""Tables in Markdown, LaTeX and the terminal, without dates and paths, so equal results give equal files."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from harness.console import print_whole
from harness.evidence.effects import BETTER, WORSE
from harness.flags import COLUMNS

PREAMBLE = r"""% Tables of crossbev. A document that \input{}s this file needs in its preamble:
% \usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{booktabs,siunitx,textcomp,graphicx}
% \sisetup{retain-explicit-plus, detect-weight, group-separator={,}, group-minimum-digits=4}
"""
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")
_COMMANDS = {"->": r"$\rightarrow$", "±": r"$\pm$", "†": r"\textdagger{}", "·": r"$\cdot$", "<": r"$<$", ">": r"$>$"}
_COMMANDS |= {"≥": r"$\geq$", "≤": r"$\leq$", "²": r"\textsuperscript{2}", "–": "--", "—": "---", "×": r"$\times$"}
_COMMANDS |= {sign: "\\" + sign for sign in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}
_SPECIAL = re.compile("|".join(map(re.escape, _COMMANDS)))


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    """Plain text; numbers are rounded as they are shown."""
    value: float | int | None = None
    """By which a reader sorts; None where there is no number."""
    best: bool = False
    """The best of its column among the rows that compare with it."""
    jobs: tuple[str, ...] = ()
    """Ids of the trainings whose results it shows."""
    short: str | None = None
    """Its text in a narrow terminal; None where that is the same."""


@dataclass(frozen=True)
class Table:
    """Cells under a header, with what a reader has to know about every number of them."""

    name: str
    """What its files and its place on a page are called: results, verdicts, ..."""
    title: str
    header: tuple[str, ...]
    """Column names, as many as each row has cells; the first column names the row."""
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """The legend: one paragraph each."""
    details: tuple[str, ...] = ()
    """Further paragraphs, which a terminal does not show."""
    groups: tuple[str, ...] = ()
    """The one of COLUMNS for each column; empty where all are of the first."""
    group: str = ""
    """The one of COLUMNS with which a terminal shows the table; empty where it always does."""

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[Cell | str]],
        notes: Sequence[str] = (),
        details: Sequence[str] = (),
        groups: Sequence[str] = (),
        group: str = "",
    ) -> "Table":
        """From cells, or their texts where there is no more to say."""
        cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
        wrong = [row for row in cells if len(row) != len(header)]
        if wrong:
            raise ValueError(f"table {name}: a row of {len(wrong[0])} cells under a header of {len(header)}")
        return cls(name, title, tuple(header), cells, tuple(notes), tuple(details), tuple(groups), group)


def markdown(table: Table, level: int = 2) -> str:
    """Title, cells, and what there is to know."""
    return "\n\n".join([f"{'#' * level} {table.title}", markdown_table(table), *table.notes, *table.details]) + "\n"


def markdown_table(table: Table) -> str:
    """The cells alone, the first column to the left, the others to the right; the best of a column in bold."""
    rows = [[_bold(_markdown_text(cell.text), cell.best) for cell in row] for row in table.rows]
    rule = "|---|" + "---:|" * (len(table.header) - 1)
    return "\n".join(["| " + " | ".join(table.header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


def _markdown_text(text: str) -> str:
    return text.replace("|", "\\|")


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best and text else text


def latex(tables: Sequence[Table]) -> str:
    """Tables for a paper, each with its notes below it; numbers as siunitx sets them."""
    return PREAMBLE + "\n".join(_latex(table) for table in tables)


def _latex(table: Table) -> str:
    header = " & ".join(_escaped(name) for name in table.header)
    rows = [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    label = re.sub(r"[^A-Za-z0-9-]", "-", table.name)
    lines = [
        rf"\begin{{table}}\centering\footnotesize\caption{{{_escaped(table.title)}}}\label{{tab:{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        header + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    if notes := [*table.notes, *table.details]:
        lines += [r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize"]
        lines += [" ".join(_escaped(note) for note in notes), r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_cell(cell: Cell) -> str:
    """A text; or, of a cell that has a value, its numbers as siunitx sets them."""
    if cell.value is None:
        text = _escaped(cell.text)
    else:
        # Escaped piece by piece, for what \num{} takes is no text.
        pieces, end = [], 0
        for match in _NUMBER.finditer(cell.text):
            number = match.group().replace(",", "")
            pieces += [_escaped(cell.text[end : match.start()]), rf"\num{{{number}}}"]
            end = match.end()
        text = "".join([*pieces, _escaped(cell.text[end:])])
    # A [ that begins a row would be taken for an argument of the line's end before it.
    text = f"{{{text}}}" if text.startswith("[") else text
    return rf"{{\bfseries {text}}}" if cell.best else text


def _escaped(text: str) -> str:
    """Text in which LaTeX finds no command."""
    return _SPECIAL.sub(lambda match: _COMMANDS[match.group()], text)


def show(table: Table, console: Console, groups: Collection[str] | None = None) -> None:
    """Print a table and its legend.

    Args:
        table: The table.
        console: Where to.
        groups: Groups of columns; by default as many as the terminal is wide enough for.
    """
    fitting = [COLUMNS[:count] for count in range(len(COLUMNS), 0, -1)] if console.is_terminal else [COLUMNS[:1]]
    layouts = [(shown, False) for shown in ([groups] if groups is not None else fitting)]
    for shown, short in [*layouts, (layouts[-1][0], console.is_terminal)]:
        grid = _grid(table, shown, short)
        if Measurement.get(console, console.options.update(width=1000), grid).maximum <= console.width:
            break
    print_whole(console, grid, wrap=console.is_terminal)
    for line in table.notes:
        console.print(line, highlight=False, markup=False, style="dim", soft_wrap=not console.is_terminal)


def _grid(table: Table, groups: Collection[str], short: bool) -> Grid:
    """The columns of some groups; in short cells only those that are not empty."""
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0 if short else 1))
    columns: list[list[Text]] = []
    for number, name in enumerate(table.header):
        cells = [row[number] for row in table.rows]
        texts = [cell.text if cell.short is None or not short else cell.short for cell in cells]
        if number and ((table.groups and table.groups[number] not in groups) or (short and not any(texts))):
            continue
        numbers = [text for text, cell in zip(texts, cells, strict=True) if cell.value is not None]
        # Words wrap where the terminal is narrow, numbers do not.
        unbroken = [*numbers, *(word for text in (name, *texts) for word in text.split())]
        width = max(map(len, unbroken)) if numbers and short else None
        grid.add_column(name, justify="right" if numbers else "left", width=width, no_wrap=not short)
        columns.append([Text(text, _style(cell)) for text, cell in zip(texts, cells, strict=True)])
    for row in zip(*columns, strict=True):
        grid.add_row(*row)
    return grid


def _style(cell: Cell) -> str:
    return {BETTER: "green", WORSE: "red"}.get(cell.text, "bold" if cell.best else "")
