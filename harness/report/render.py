"""Tables in Markdown, LaTeX and the terminal, without dates and paths, so equal results give equal files."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
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
class Sign:
    """A sentence of the legend about what only some tables show; it stands where the table shows that."""

    of: tuple[str, ...]
    """Words of cells or of the header, groups of columns, or BOLD; one of them is enough."""
    text: str


BOLD = "bold"


@dataclass(frozen=True)
class Table:
    """Cells under a header, with what a reader has to know about every number of them."""

    name: str
    """What its files and its place on a page are called: results, verdicts, ..."""
    title: str
    header: tuple[str, ...]
    """Column names, as many as each row has cells; the first column names the row."""
    rows: tuple[tuple[Cell, ...], ...]
    paragraphs: tuple[str, ...] = ()
    """The legend without what `signs` say."""
    details: tuple[str, ...] = ()
    """Further paragraphs, which a terminal does not show."""
    groups: tuple[str, ...] = ()
    """The one of COLUMNS for each column; empty where all are of the first."""
    group: str = ""
    """The one of COLUMNS with which a terminal shows the table; empty where it always does."""
    signs: tuple[Sign, ...] = ()
    """The last paragraph of the legend, as far as its sentences are about something that is shown."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The legend below all columns: one paragraph each."""
        bold = {BOLD} if any(cell.best for row in self.rows for cell in row) else set()
        texts = [*self.header, *(cell.text for row in self.rows for cell in row)]
        return self.legend(_words(texts) | set(self.groups) | bold)

    def legend(self, shown: Collection[str]) -> tuple[str, ...]:
        """The legend below what is shown: words, groups of columns and BOLD."""
        sentences = " ".join(sign.text for sign in self.signs if set(sign.of) & set(shown))
        return (*self.paragraphs, *filter(None, [sentences]))

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
        signs: Sequence[Sign] = (),
    ) -> "Table":
        """From cells, or their texts where there is no more to say."""
        cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
        wrong = [row for row in cells if len(row) != len(header)]
        if wrong:
            raise ValueError(f"table {name}: a row of {len(wrong[0])} cells under a header of {len(header)}")
        texts, more = tuple(notes), tuple(details)
        return cls(name, title, tuple(header), cells, texts, more, tuple(groups), group, tuple(signs))


def _words(texts: Iterable[str]) -> set[str]:
    """Texts and the words in them."""
    return {word for text in texts for word in (text, *text.split())}


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
        columns = _columns(table, shown, short)
        grid = _grid(table, columns, short)
        if Measurement.get(console, console.options.update(width=1000), grid).maximum <= console.width:
            break
    print_whole(console, grid, wrap=console.is_terminal)
    texts = [text for number, column in columns.items() for text in (table.header[number], *column)]
    bold = (
        {BOLD} if console.color_system and any(row[number].best for row in table.rows for number in columns) else set()
    )
    lines = [*table.legend(_words(texts) | set(shown) | bold)]
    hidden = dict.fromkeys(table.groups[number] for number in range(len(table.groups)) if number not in columns)
    if groups is None and (names := [name for name in hidden if name not in shown]):
        lines.append(f"Left out: the columns of {', '.join(names)}; --columns {','.join(names)} shows them.")
    for line in lines:
        console.print(line, highlight=False, markup=False, style="dim", soft_wrap=not console.is_terminal)


def _columns(table: Table, groups: Collection[str], short: bool) -> dict[int, list[str]]:
    """The texts of the columns of some groups, by number; of short texts only columns that are not empty."""
    columns = {}
    for number in range(len(table.header)):
        cells = [row[number] for row in table.rows]
        texts = [cell.text if cell.short is None or not short else cell.short for cell in cells]
        if not number or ((not table.groups or table.groups[number] in groups) and (not short or any(texts))):
            columns[number] = texts
    return columns


def _grid(table: Table, columns: Mapping[int, Sequence[str]], short: bool) -> Grid:
    """Columns as rich prints them; the short ones may wrap."""
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0 if short else 1))
    printed: list[list[RenderableType]] = []
    for number, texts in columns.items():
        name, cells = table.header[number], [row[number] for row in table.rows]
        numbers = [text for text, cell in zip(texts, cells, strict=True) if cell.value is not None]
        # Words wrap where the terminal is narrow, numbers do not.
        unbroken = [*numbers, *(word for text in (name, *texts) for word in text.split())]
        width = max(map(len, unbroken)) if numbers and short else None
        grid.add_column(name, justify="right" if numbers else "left", width=width, no_wrap=not short)
        styled = [Text(text, _style(cell)) for text, cell in zip(texts, cells, strict=True)]
        printed.append([text if number else _Name(text) for text in styled])
    for row in zip(*printed, strict=True):
        grid.add_row(*row)
    return grid


@dataclass(frozen=True)
class _Name:
    """The name of a row, which may wrap after an arrow, too; rich wraps at blanks alone."""

    text: Text

    def _pieces(self) -> list[str]:
        """What does not wrap, with the blanks that follow."""
        return re.findall(r"\S+?->|\S+\s*|\s+", self.text.plain)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widest = max((cell_len(piece.rstrip()) for piece in self._pieces()), default=0)
        return Measurement(widest, self.text.cell_len).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        lines = [""]
        for piece in self._pieces():
            if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > options.max_width:
                lines.append("")
            lines[-1] += piece
        yield Text("\n".join(line.rstrip() for line in lines), self.text.style)


def _style(cell: Cell) -> str:
    return {BETTER: "green", WORSE: "red", "passed": "green", "failed": "red"}.get(
        cell.text, "bold" if cell.best else ""
    )
