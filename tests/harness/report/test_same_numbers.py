"""One report, four forms: what stands in Markdown, LaTeX, HTML and CSV are the same numbers."""

import csv
import math
import re
import webbrowser
from html.parser import HTMLParser

import pytest

from tests.harness.conftest import STUDY


class Tables(HTMLParser):
    """The cells of every table of a page, by row."""

    def __init__(self):
        super().__init__()
        self.tables, self.cell, self.hidden = [], None, False

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.cell = ""
        self.hidden = tag == "span" and "hidden" in (dict(attributes).get("class") or "")

    def handle_data(self, data):
        if self.cell is not None and not self.hidden:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None:
            self.tables[-1][-1].append(" ".join(self.cell.split()))
            self.cell = None
        self.hidden = False


def markdown_tables(text):
    found = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("| ") and all(line.startswith("|") for line in lines):
            rows = [lines[0], *lines[2:]]
            found.append([[cell.strip().strip("*") for cell in row.split("|")[1:-1]] for row in rows])
    return found


def latex_tables(text):
    found = []
    for block in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
        rows = [line.removesuffix(r" \\") for line in block.splitlines() if line.endswith(r"\\")]
        found.append([[plain(cell) for cell in re.split(r"(?<!\\)&", row)] for row in rows])
    return found


def plain(cell):
    """What a reader of the typeset cell sees, but for thousands, which siunitx groups."""
    cell = re.sub(r"^\s*\{(?:\\bfseries )?(.*)\}\s*$", r"\1", cell.strip())
    cell = re.sub(r"\\num\{([^}]*)\}", r"\1", cell)
    for command, sign in ((r"$\rightarrow$", "->"), (r"$\pm$", "±"), (r"$<$", "<"), (r"\%", "%"), (r"\_", "_")):
        cell = cell.replace(command, sign)
    return cell.strip()


def without_groups(table):
    return [[re.sub(r"(?<=\d),(?=\d{3}\b)", "", cell) for cell in row] for row in table]


@pytest.fixture
def made(report, folder):
    status, told = report(STUDY, "--seeds", "0,1")
    assert status == 0, told
    return folder / "reports" / "smoke"


def test_all_forms_have_the_same_cells(made):
    told = markdown_tables((made / "table.md").read_text())
    typeset = latex_tables((made / "table.tex").read_text())
    page = Tables()
    page.feed((made / "report.html").read_text())
    shown = [[[*(cell.strip(" ↕") for cell in row)] for row in table] for table in page.tables]
    assert len(told) == len(typeset) >= 2
    assert any("+5.1" in cell for row in told[0] for cell in row)  # the gains that the fixture has
    for one, other in zip(told, typeset, strict=True):
        assert without_groups(one) == without_groups(other)
        assert one[1:] in [table[1:] for table in shown]


def test_the_csv_has_the_numbers_of_the_table_before_they_were_rounded(made):
    results, verdicts, *_ = markdown_tables((made / "table.md").read_text())
    with (made / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    header = results[0]
    assert len(lines) == len(results) - 1
    for line, row in zip(lines, results[1:], strict=True):
        cells = dict(zip(header, row, strict=True))
        assert cells["seeds"] == line["seeds"]
        for metric in ("mAP", "NDS"):
            spread = line[f"{metric}_std"]
            assert cells[metric] == f"{float(line[metric]):.1f}" + (f" ± {float(spread):.1f}" if spread else "")
            if line[f"gain_{metric}"]:
                gain, std, low, high = (
                    float(line[f"gain_{metric}{end}"] or "nan") for end in ("", "_std", "_low", "_high")
                )
                interval = "" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
                assert cells[f"gain {metric}"] == f"{gain:+.1f} ± {std:.1f}{interval}"
    student = next(line for line in lines if line["role"] == "student")
    judged = {row[1]: row for row in verdicts[1:]}
    assert judged["NDS"][verdicts[0].index("verdict")] == student["gain_NDS_verdict"]


def test_the_page_is_opened_where_that_is_asked(report, folder, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not opened.append(address))
    status, told = report(STUDY, "--seeds", "0,1", "--open")
    assert (status, opened) == (0, [(folder / "reports" / "smoke" / "report.html").as_uri()])
    assert "no browser" not in told
