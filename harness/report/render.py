"""Tables, and how each is written: Markdown, LaTeX, a terminal; without dates or paths, so equal results are equal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from harness.console import print_table as console_table

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
    """As it is read, plain; numbers rounded as they are shown."""
    value: float | int | None = None
    """By which a reader sorts; None where there is no number."""
    best: bool = False
    """The best of its column among the rows that compare with it."""
    jobs: tuple[str, ...] = ()
    """Ids of the trainings whose results it shows."""


@dataclass(frozen=True)
class Table:
    """Cells under a header, with what a reader has to know about every number of them."""

    name: str
    """What its files and its place on a page are called: results, verdicts, ..."""
    title: str
    header: tuple[str, ...]
    """Of equal length as each row; the first column names the row."""
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[Cell | str]],
        notes: Sequence[str] = (),
    ) -> "Table":
        """From cells, or their texts where there is no more to say."""
        cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
        wrong = [row for row in cells if len(row) != len(header)]
        if wrong:
            raise ValueError(f"table {name}: a row of {len(wrong[0])} cells under a header of {len(header)}")
        return cls(name, title, tuple(header), cells, tuple(notes))


def markdown(table: Table, level: int = 2) -> str:
    """Title, cells, and what there is to know."""
    return "\n\n".join([f"{'#' * level} {table.title}", markdown_table(table), *table.notes]) + "\n"


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
    if table.notes:
        lines += [r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize"]
        lines += [" ".join(_escaped(note) for note in table.notes), r"\end{minipage}"]
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


def show(table: Table, console: Console) -> None:
    """In a terminal, with its notes."""
    console_table(console, list(table.header), [[cell.text for cell in row] for row in table.rows])
    for line in table.notes:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
