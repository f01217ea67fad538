"""What is going on is a picture in a terminal, and lines anywhere else: neither repeats what the other shows."""

import math
import re
from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.console import count_progress, open_display, print_whole
from harness.execute.progress import Progress
from harness.execute.state import JobState
from harness.study.jobs import Job, LabelsJobSpec


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def console(request):
    return Console(file=StringIO(), force_terminal=request.param, width=100)


def test_lines_are_for_where_there_is_no_picture(console):
    with open_display(console, line_every=math.inf) as display:
        display.show(lambda: "a picture", lambda: "too early")
        display.say("news")
        display.show(lambda: "a picture", lambda: "the end", last=True)
    text = console.file.getvalue()
    assert "too early" not in text
    assert ("a picture" in text) == console.is_terminal
    assert console.is_terminal or text == "news\nthe end\n"


def test_the_last_count_is_always_seen(console):
    with count_progress(console, "images") as count:
        for done in (1, 2, 3):
            count(done, 3)
    text = console.file.getvalue()
    assert "3/3" in text
    assert console.is_terminal or text == "3/3 images, 0:00:00 left\n"


def test_a_job_is_news_when_its_status_changes():
    def state(label, status, reason=""):
        return JobState(
            Job(LabelsJobSpec(fingerprint="data", split="train", model="some/model"), label), status, reason
        )

    console = Console(file=StringIO(), width=100)
    with open_display(console, line_every=math.inf) as display:
        show = Progress(display, workers=1)
        show({"a": state("teacher", "done"), "b": state("student", "waiting")})
        for _ in range(2):
            show({"a": state("teacher", "done"), "b": state("student", "running")})
        show({"a": state("teacher", "done"), "b": state("student", "failed", "out of memory")})
    assert console.file.getvalue() == "student [b] running\nstudent [b] failed: out of memory\n"


def test_a_dumb_terminal_gets_lines_and_no_control_codes():
    console = Console(file=StringIO(), force_terminal=True, _environ={"TERM": "dumb"}, width=100)
    with count_progress(console, "images") as count:
        count(3, 3)
    assert console.file.getvalue() == "3/3 images, 0:00:00 left\n"


def test_no_colour_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    console = Console(file=StringIO(), force_terminal=True, width=100)
    table = Table("name", "value")
    table.add_row("a", Text("1", "green"))
    print_whole(console, table)
    assert not re.search(r"\x1b\[(?:\d+;)*3\d", console.file.getvalue())
    monkeypatch.delenv("NO_COLOR")
    print_whole(console, table)
    assert re.search(r"\x1b\[(?:\d+;)*3\d", console.file.getvalue())
