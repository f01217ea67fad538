"""The report: names are text, links lead somewhere, tables sort, and nothing outside of the file is asked for."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from harness.evidence.runs import Run
from harness.opened import question
from harness.report.figures import forest, interaction
from harness.report.html import Page, Section, html, write_page
from harness.report.pictures import Picture, inline, svg_and_pdf
from harness.report.render import Cell, Table
from harness.report.samples import Ground, Outline, Samples, Shown, Tile, View
from harness.runs.folder import Result, RunFolder
from harness.study.load import load_study
from harness.study.plan import plan_study
from tests.harness.report.lines import line

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
in_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its chromedriver on this machine")
NASTY = '<script>alert("x")</script> & {{ 7 * 7 }} "quoted"'
PLANNED = plan_study(load_study(Path(__file__).parents[3] / "studies" / "smoke.yaml"), "fingerprint", int)
JOBS = tuple(PLANNED.jobs)
VALUES = (2.5, 10.0, None, -3.0)


@pytest.fixture(scope="module")
def page():
    """One with everything that a page can have, and markup for every name that users choose."""

    def picture(name, figure):
        return Picture(name, f"{name} {NASTY}", f"alt {NASTY}", inline(svg_and_pdf(figure)["svg"].decode(), name))

    def run(id_, label, **known):
        return Run(replace(PLANNED.jobs[id_], label=label), RunFolder(Path("nowhere") / id_), **known)

    rows = [
        [
            Cell(f"row {number} {NASTY}" if number == 0 else f"row {number}"),
            Cell("missing" if value is None else f"{value:+.1f}", value, value == 10.0, JOBS[: number + 1]),
            Cell(["b", "c", "a", "d"][number], jobs=("of no plan",)),
            *[Cell(f"{number}.{column}", float(number)) for column in range(8)],
        ]
        for number, value in enumerate(VALUES)
    ]
    header = ["row", f"gain {NASTY}", "name", *[f"column {number}" for number in range(8)]]
    table = Table.of("results", f"Results {NASTY}", header, rows, [f"note {NASTY}", "another", "third"])
    pixel = Ground("data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=", 40, 40)
    box = Outline("hit", "M1 1L9 9", NASTY)
    views = tuple(View(f"{job} {NASTY}", job, "1 hit", (box,), (Tile(0, 0, 20, 20, (box,)),)) for job in JOBS)
    return Page(
        title=NASTY,
        question=NASTY,
        headlines=[NASTY],
        sections=[
            Section(
                f"Results {NASTY}", [table, table], [picture("forest", forest([line(NASTY, (1, 0, 2), (1, 0, 2))]))]
            ),
            Section("Figures", figures=[picture("act", interaction(["a", "b"], _factorial(), NASTY))], words=[NASTY]),
        ],
        runs={
            JOBS[0]: run(JOBS[0], f"teacher {NASTY}", result=Result({"NDS": 0.5}, 5, 180.0, {"commit": "c0ffee"})),
            JOBS[1]: run(JOBS[1], "student", failure=NASTY),
            JOBS[2]: run(JOBS[2], NASTY),
        },
        samples=Samples((f"words {NASTY}",), (Shown("Sample 1 of 1", pixel, pixel, "M0 0", "M0 0", views),)),
        command=f"python -m harness.run {NASTY}",
        notes=[NASTY],
    )


def _factorial():
    return {(): 1.0, ("a",): 2.0, ("b",): 3.0, ("a", "b"): 4.0}


@pytest.fixture(scope="module")
def path(page, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("report"), page)


class _Parsed(HTMLParser):
    """Tags, ids, links and the texts of table cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.cells, self.texts = [], [], [], [], []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given[name] for name in ("href", "src", "xlink:href") if name in given]
        if tag in ("td", "th"):
            self.cells.append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data):
        self.texts.append(data)
        if self.in_cell:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def parsed(path):
    return _Parsed(path.read_text())


def test_equal_pages_are_equal_bytes(page, path):
    assert html(page) == path.read_text()


def test_a_name_is_text_wherever_it_stands(parsed, path):
    assert [tag for tag, _ in parsed.tags].count("script") == 1, "only the page's own"
    assert "49 &" not in path.read_text()
    said = "".join(parsed.texts)
    for place in ("gain ", "note ", "row 0 ", "alert", "python -m harness.run "):
        assert place in said
    assert said.count(NASTY) >= 12
    assert any(given.get("aria-label") == f"alt {NASTY}" for _, given in parsed.tags)


def test_every_link_leads_to_one_place_of_the_page(parsed):
    assert len(parsed.ids) == len(set(parsed.ids))
    inside = [link[1:] for link in parsed.links if link.startswith("#")]
    assert set(inside) <= set(parsed.ids)
    assert f"run-{JOBS[0]}" in inside, "a cell of one training leads to it"
    assert "trainings-1" in inside, "a cell of several leads to their list"
    assert not [link for link in parsed.links if not link.startswith(("#", "data:"))]


def test_nothing_in_it_names_another_address(path):
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[\w./-]+", path.read_text())) <= namespaces
    assert "default-src 'none'" in path.read_text()


def test_a_table_has_the_texts_of_its_cells_its_values_and_its_best(parsed, page):
    table = page.sections[0].tables[0]
    size = len(table.header)
    assert parsed.cells[:size] == list(table.header)
    for number, row in enumerate(table.rows, start=1):
        assert parsed.cells[number * size : (number + 1) * size] == [cell.text for cell in row]
    values = [given["data-value"] for tag, given in parsed.tags if "data-value" in given]
    assert values[:9] == ["2.5", *["0.0"] * 8]
    assert [tag for tag, _ in parsed.tags].count("strong") == 2 + 3, "the best of two tables, and three views"


def test_an_arrow_is_its_text_and_no_line_ends_in_it(page):
    table = Table.of("one", "One", ["row"], [["a->b <i>"]], ["note a->b"])
    text = html(replace(page, headlines=["line a->b"], sections=[Section("One a->b", [table], words=["words a->b"])]))
    assert "a->b <i>" in _Parsed(text).cells
    said = "".join(_Parsed(text).texts)
    assert all(f"{place} a->b" in said for place in ("line", "One", "words", "note"))
    assert text.count('a<span class="arrow">-&gt;</span>b') == 5


def test_the_page_tells_jobs_from_trainings(page):
    assert "1 done, 1 failed, 1 not run of 3 jobs; trained" in " ".join(html(page).split())
    (first, *_) = page.runs.values()
    scored = replace(first, job=replace(first.job, spec=first.job.spec.model_copy(update={"schedule": None})))
    text = html(replace(page, runs={**page.runs, first.id: scored}))
    assert "1 done, 1 failed, 1 not run of 3 jobs (2 trainings); trained" in " ".join(text.split())


@pytest.mark.parametrize(
    ("machines", "lines"),
    [
        ([{"commit": "0123456789ab", "device": "cpu"}] * 2, ["git checkout 0123456789ab", "."]),
        ([{"commit": "0123456789ab", "device": "cuda (H200)"}], ["git checkout 0123456789ab", '".[cuda]"']),
        # What was changed, or is no commit, cannot be checked out, and two commits cannot at once.
        ([{"commit": "0123456789ab+", "device": "cpu"}], ["."]),
        ([{"commit": "version 0.2.0"}], ["."]),
        ([{"commit": "0123456789ab"}, {"commit": "ba9876543210"}], ["."]),
    ],
)
def test_what_repeats_a_study_begins_with_its_code(page, machines, lines):
    results = [Result({"NDS": 0.5}, 5, 180.0, machine) for machine in machines]
    runs = {id_: replace(page.runs[id_], result=each) for id_, each in zip(JOBS, results, strict=False)}
    *checkout, what = lines
    install = f"pip install -c constraints.txt -e {what}"
    assert replace(page, runs=runs, command="crossbev run").commands == [*checkout, install, "crossbev run"]


def test_a_number_of_several_trainings_leads_to_each_of_them(page):
    labels = ("camera · baseline · seed 0", "camera · baseline · seed 1", "lidar · teacher")
    named = zip(page.runs.items(), labels, strict=True)
    runs = {id_: replace(run, job=replace(run.job, label=label)) for (id_, run), label in named}
    text = html(replace(page, runs=runs))
    (listed,) = re.findall(r'<li id="trainings-2".*?</li>', text, re.DOTALL)
    assert "".join(_Parsed(listed).texts) == "; ".join(labels)
    assert re.findall(r'href="#run-(\w+)"', listed) == list(JOBS)


def test_headings_follow_each_other(parsed):
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_a_page_without_runs_figures_or_samples_is_one():
    text = html(Page("empty", "", [], [], {}))
    assert "0 trainings" not in text
    assert "Trainings" in text


def test_a_studys_question_is_its_first_comment(tmp_path):
    (tmp_path / "asked.yaml").write_text("# Does it\n# help?\n# Plan: 3 trainings.\n\n# data\nseeds: [0]\n")
    (tmp_path / "silent.yaml").write_text("seeds: [0]  # Does it?\n")
    assert question(tmp_path / "asked.yaml") == "Does it help?"
    assert question(tmp_path / "silent.yaml") == ""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    user = f"--user-data-dir={tmp_path_factory.mktemp('user')}"
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", user):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, path):
    """The page in a browser: ``opened(theme, width)``."""

    def opened(theme="light", width=1280):
        scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        browser.execute_script("localStorage.clear()")
        browser.get(path.as_uri())
        return browser

    return opened


def _column(browser, number):
    script = "return [...document.querySelector('table').tBodies[0].rows].map(r => r.cells[arguments[0]].textContent)"
    return browser.execute_script(script, number)


def _ground(browser):
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")


@in_browser
def test_a_click_sorts_numbers_from_the_largest_and_texts_last(opened):
    browser = opened()
    buttons = browser.find_elements(By.CSS_SELECTOR, "thead button")
    headings = browser.find_elements(By.CSS_SELECTOR, "thead th")
    written = ["+2.5", "+10.0", "missing", "-3.0"]
    assert _column(browser, 1) == written
    buttons[1].click()
    assert _column(browser, 1) == ["+10.0", "+2.5", "-3.0", "missing"]
    assert headings[1].get_attribute("aria-sort") == "descending"
    buttons[1].send_keys(Keys.ENTER)
    assert _column(browser, 1) == ["-3.0", "+2.5", "+10.0", "missing"]
    assert headings[1].get_attribute("aria-sort") == "ascending"
    buttons[2].send_keys(Keys.SPACE)
    assert _column(browser, 2) == ["a", "b", "c", "d"]
    assert headings[1].get_attribute("aria-sort") is None
    buttons[2].click()
    buttons[2].click()
    assert _column(browser, 1) == written, "the third time it is as it was written"


@in_browser
def test_no_request_leaves_the_page_and_the_console_is_silent(opened, path):
    browser = opened()
    browser.get_log("browser")
    browser.get_log("performance")
    browser = opened()
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"}
    assert {url for url in urls if not url.startswith("data:")} == {path.as_uri()}
    entries = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith("data:") for name in entries)
    assert browser.get_log("browser") == []


@in_browser
def test_a_link_to_a_training_opens_it(opened):
    browser = opened()
    link = browser.find_element(By.CSS_SELECTOR, f'tbody a[href="#run-{JOBS[0]}"]')
    browser.execute_script("arguments[0].click()", link)
    run = browser.find_element(By.ID, f"run-{JOBS[0]}")
    assert run.get_attribute("open")
    assert browser.switch_to.active_element.tag_name == "summary"
    link = browser.find_element(By.CSS_SELECTOR, 'tbody a[href="#trainings-1"]')
    browser.execute_script("arguments[0].click()", link)
    assert browser.find_element(By.ID, "trainings-1").is_displayed()


@in_browser
def test_colours_are_the_systems_until_a_reader_chooses(opened):
    light, dark = _ground(opened("light")), _ground(opened("dark"))
    assert light != dark
    browser = opened("dark")
    browser.find_element(By.ID, "theme").click()
    assert _ground(browser) == light
    ink = "return getComputedStyle(document.querySelector('.drawing svg text')).fill"
    chosen = browser.execute_script(ink)
    browser.refresh()
    assert _ground(browser) == light, "the choice is kept"
    browser.find_element(By.ID, "theme").click()
    assert _ground(browser) == dark
    assert browser.execute_script(ink) != chosen, "a figure's ink is the page's"


@in_browser
@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_page_scrolls_its_tables_and_not_itself(opened, width):
    browser = opened(width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    scroll, table = browser.execute_script(
        "const s = document.querySelector('.scroll'); s.scrollLeft = 200;"
        "return [s.getBoundingClientRect().left, s.querySelector('tbody th').getBoundingClientRect().left]"
    )
    assert abs(scroll - table) < 1, "the first column stays"


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_no_violation(opened, theme, width):
    browser = opened(theme, width)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    # Not by a script element, which the page's policy may come to forbid.
    browser.execute_script(files("axe_core_python").joinpath("axe.min.js").read_text("utf-8"))
    found = browser.execute_async_script("const done = arguments[0]; axe.run().then(done)")
    assert found["passes"]
    told = [(each["id"], [node["html"][:200] for node in each["nodes"]][:3]) for each in found["violations"]]
    assert told == []
