"""A table as every form of the report shows it: Markdown, LaTeX, HTML and the terminal write the same cells."""

from collections.abc import Sequence
from dataclasses import dataclass, field


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
        whole = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
        wrong = [row for row in whole if len(row) != len(header)]
        if wrong:
            raise ValueError(f"table {name}: a row of {len(wrong[0])} cells under a header of {len(header)}")
        return cls(name, title, tuple(header), whole, tuple(notes))
