import json
import os
import shutil
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
import pytest

from histoquant.pictures import encode_jpeg, encode_webp
from histoquant.protocol import Protocol, hash_protocol
from histoquant.report import RunTables, build_report
from histoquant.report.article import Part, build_article
from histoquant.report.build import MAX_PICTURE_BYTES
from histoquant.report.formats import format_p
from histoquant.report.sentences import tell_correlation
from histoquant.report.table import Column, make_table
from histoquant.report.views import tabulate_validations

NAN = float("nan")
SPACE = " "
FIELDS = (
    "patient group marker section batch control field shape center_x_um center_y_um width_um height_um "
    "tissue_fraction tissue_mm2 fibers positive_cells cells_per_fiber positive_fibers straddling_fibers "
    "straddling_cells status reason"
).split(SPACE)
SECTIONS = (
    "patient group marker section batch control fields_asked fields fibers positive_cells cells_per_fiber "
    "cells_per_fiber_sd ci_low ci_high cells_per_fiber_pooled positive_cells_per_mm2 positive_fibers "
    "status reason"
).split(SPACE)
STATISTICS = (
    "analysis marker marker_2 group group_2 n n_2 mean sd mean_2 sd_2 estimate_name estimate ci_low ci_high "
    "statistic p p_exact method note"
).split(SPACE)
MARKERS = ("BAFF-R", "CD19")
NASTY = ("<script>alert(1)</script>", "张三", 'µ "q" & O\'Neil $x_1$')


def list_fields(section: dict, count: int) -> list[dict]:
    names = ("patient", "group", "marker", "section")
    return [
        {name: section[name] for name in names}
        | {"field": number, "shape": "circle", "center_x_um": 1000.0 * number, "center_y_um": 2500.0}
        | {"width_um": 550.0, "height_um": 550.0, "tissue_fraction": 0.9, "tissue_mm2": 0.2, "fibers": 40}
        | {"positive_cells": number, "cells_per_fiber": number / 40, "positive_fibers": 1}
        | {"straddling_fibers": 12, "straddling_cells": 3, "status": "ok", "reason": NAN}
        for number in range(1, count + 1)
    ]


def make_run(
    patients: tuple[str, ...] = (*NASTY, "P04"),
    fields: int = 2,
    failed: tuple[str, ...] = (),
    markers: tuple[str, ...] = MARKERS,
) -> RunTables:
    sections, rows = [], []
    for at, patient in enumerate(patients):
        for marker in markers:
            name = f"{patient}-{marker}"
            bad = name in failed or "all" in failed
            value = NAN if bad else 0.1 * (at + 1)
            section = {"patient": patient, "group": "ab"[at % 2], "marker": marker, "section": name}
            section |= {"fields_asked": fields, "fields": 0 if bad else fields, "fibers": 40 * fields}
            section |= {"positive_cells": 3, "cells_per_fiber": value, "cells_per_fiber_sd": 0.01}
            section |= {"ci_low": value, "ci_high": value, "cells_per_fiber_pooled": value}
            section |= {"positive_cells_per_mm2": 12.34, "positive_fibers": 2}
            section |= {
                "status": "failed" if bad else "ok",
                "reason": "no pixel size; give --mpp" if bad else NAN,
            }
            sections.append(section)
            rows += [] if bad else list_fields(section, fields)
    keys = [(row["section"], row["field"]) for row in rows]
    table = pd.DataFrame(sections, columns=SECTIONS)
    wide = table.pivot_table(index=["patient", "group"], columns="marker", values="cells_per_fiber")
    return RunTables(
        title="Study µ 张三",
        run={
            "versions": {"histoquant": "9.8.7"}, "seed": 4321, "protocol": Protocol().model_dump(mode="json"),
            "protocol_hash": hash_protocol(Protocol()), "started": "2026-03-01T09:05:59+00:00",
            "sections": {row["section"]: {"status": row["status"], "reason": "no pixel size; give --mpp"}
                         for row in sections},
        },
        fields=pd.DataFrame(rows, columns=FIELDS),
        sections=table,
        patients=wide.reset_index() if len(wide) else pd.DataFrame(columns=["patient", "group"]),
        statistics=make_statistics(),
        overviews={row["section"]: small_picture(48) for row in sections if row["fields"]},
        thumbnails={key: small_picture(16) for key in keys},
        links={key: f"sections/{key[0].replace('/', '%2F')}/overlays/{key[1]}.jpg" for key in keys},
    )  # fmt: skip


def make_statistics() -> pd.DataFrame:
    rows = [
        {"analysis": "correlation", "marker": "BAFF", "marker_2": "CD19", "n": 4, "estimate": 0.1, "p": 0.9},
        {"analysis": "correlation", "marker": "BAFF-R", "marker_2": "CD19", "n": 4, "estimate": 0.818,
         "estimate_name": "rho", "ci_low": 0.61, "ci_high": 0.92, "p": 1e-6, "p_exact": 0.0333,
         "method": "Spearman"},
        {"analysis": "comparison", "marker": "CD19", "group": "a", "group_2": "b", "n": 19, "n_2": 10,
         "mean": 0.18, "sd": 0.08, "mean_2": 0.36, "sd_2": 0.21, "estimate_name": "difference",
         "estimate": 0.18, "p": 0.0021, "p_exact": 0.0016, "method": "Mann-Whitney U", "note": "ties"},
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=STATISTICS)


def small_picture(side: int) -> bytes:
    return encode_webp(np.random.default_rng(side).integers(0, 256, (side, side, 3)).astype(np.uint8))


@cache
def build_default() -> str:
    return build_report(make_run())


class Page(HTMLParser):
    """Tags with attributes, and the text outside styles, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.quiet = False
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).replace("\u00a0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.quiet = tag == "style"

    def handle_endtag(self, tag):
        self.quiet = False

    def handle_data(self, data):
        if not self.quiet:
            self.texts.append(data)

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_failures_come_before_results():
    run = make_run(failed=("P04-CD19",))
    page = Page(build_report(run))
    assert "7 of 8 sections were measured in full; 1 failed." in page.text
    positions = [
        page.text.index(text) for text in ("1 failed", "no pixel size; give --mpp", "Spearman’s rho = 0.82")
    ]
    assert positions == sorted(positions)


def test_a_complete_run_says_so():
    text = Page(build_default()).text
    assert "All 8 sections were measured." in text
    assert "Sections not measured in full" not in text


def test_the_method_of_the_cells_is_told():
    run = make_run()
    assert "Precipitate, pigment" in build_report(run)
    page = build_report(replace(run, run={**run.run, "protocol": {"cells": {"method": "qupath"}}}))
    assert "Precipitate, pigment" not in page
    assert "after QuPath’s method" in page


def test_a_field_that_counts_but_wants_a_look_says_both():
    run = make_run()
    fields = run.fields.assign(reason=["focus is poor", *[NAN] * (len(run.fields) - 1)])
    assert "ok; look: focus is poor" in Page(build_report(replace(run, fields=fields))).text


def test_sections_that_only_run_json_knows_are_named():
    run = make_run()
    states = {**run.run["sections"], "P99-BAFF": {"status": "pending", "reason": ""}}
    page = Page(build_report(replace(run, run={**run.run, "sections": states})))
    assert "8 of 9 sections were measured in full; 1 pending." in page.text
    assert "P99-BAFF" in page.text


def test_key_result_names_the_pair_of_the_paper_first():
    text = Page(build_default()).text
    assert (
        "Patients with more BAFF-R-positive cells per fiber also had more CD19-positive cells per fiber: "
        "Spearman’s rho = 0.82 (95 % CI 0.61 to 0.92; n = 4 patients; P < 0.001, "
        "exact or permutation P = 0.033)."
    ) in text
    assert (
        "CD19: 0.18 ± 0.08 positive cells per fiber in a (n = 19), 0.36 ± 0.21 in b (n = 10); P = 0.002"
        in text
    )


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0496, "0.0496"), (0.0504, "0.0504"), (0.049999, "0.049999"), (0.05, "0.050"), (0.0494, "0.049"),
     (0.0506, "0.051"), (1.0, "1.000")],
)  # fmt: skip
def test_a_p_shows_on_which_side_of_the_limit_it_lies(p, text):
    """0.050 beside "also had more" and beside "no relation" would be one number for two claims."""
    assert format_p(p) == text


def test_the_number_of_sections_is_that_of_what_stands_beside_it():
    rows = [("bias_percent", 7, 5.0), ("limit_low_percent", 7, -9.0), ("limit_high_percent", 7, 9.0),
            ("bias", 9, 0.1), ("icc", 9, 0.9)]  # fmt: skip
    agreement = pd.DataFrame(rows, columns=["measure", "n", "estimate"]).assign(
        marker="", level="section", quantity="positive_cells", ci_low=NAN, ci_high=NAN
    )
    table = tabulate_validations({"validation/Li/validation.html": agreement}, 0.95)
    assert [cell.text for cell in table.rows[0]][2] == "7 of 9"
    table = tabulate_validations({"validation/Li/validation.html": agreement.assign(n=9)}, 0.95)
    assert [cell.text for cell in table.rows[0]][2] == "9"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"estimate": -0.8}, "also had fewer CD19"),
        ({"p": 0.2}, "No relation between"),
        ({"p": NAN}, "not tested"),
        ({"p_exact": 0.07}, "either side of 0.05"),
        (
            {"estimate": NAN, "note": "too few patients"},
            "no correlation could be computed (n = 4 patients): too few",
        ),
    ],
)
def test_the_sentence_says_no_more_than_the_numbers(change, part):
    row = {"marker": "BAFF-R", "marker_2": "CD19", "n": 4, "estimate": 0.8, "p": 0.01, "p_exact": 0.02}
    assert part in tell_correlation(row | change, 0.95)


def test_names_are_text_whatever_is_in_them():
    html = build_default()
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>-CD19" in page.text
    assert "张三-BAFF-R" in page.text
    assert 'µ "q" & O\'Neil $x_1$' in page.text
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_page_asks_for_nothing_outside_itself():
    page = Page(build_default())
    policy = next(
        attrs for attrs in page.find("meta") if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in str(policy["content"])
    assert all(str(attrs["src"]).startswith("data:image/") for attrs in page.find("img"))
    assert page.find("img")
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert [attrs["href"] for attrs in page.find("link")] == ["data:,"]


def test_links_are_relative_quoted_and_lead_to_the_path_on_disk():
    run = make_run()
    hrefs = [str(attrs["href"]) for attrs in Page(build_report(run)).find("a")]
    overlays = {href for href in hrefs if "overlays" in href}
    assert {unquote(href).removeprefix("./") for href in overlays} == set(run.links.values())
    assert all(href.isascii() and not set(href) & set(' <>"') for href in overlays)
    assert all(urlparse(href).scheme == "" for href in hrefs)
    evil = replace(run, links={("P04-CD19", 1): "javascript:alert(1)"})
    assert not [href for href in Page(build_report(evil)).find("a") if urlparse(str(href["href"])).scheme]


def test_pictures_and_tables_are_described():
    page = Page(build_default())
    assert all(attrs.get("alt") for attrs in page.find("img"))
    assert len(page.find("caption")) == len(page.find("table")) > 10
    assert all(attrs.get("scope") in ("row", "col") for attrs in page.find("th"))
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for attrs in page.find("svg"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs and not str(attrs["id"]).startswith("m")]
    assert len(ids) == len(set(ids))
    anchors = {str(attrs["href"])[1:] for attrs in page.find("a") if str(attrs["href"]).startswith("#")}
    assert anchors <= {attrs.get("id") for _, attrs in page.tags}


def test_all_failed_run_still_reads_well():
    run = replace(make_run(failed=("all",)), statistics=pd.DataFrame(columns=STATISTICS))
    text = Page(build_report(run)).text
    assert "0 of 8 sections were measured in full; 8 failed." in text
    assert "There are no statistics" in text
    assert "No patient has a value." in text
    assert "nan" not in text.lower().replace("nanometre", "")


def test_empty_tables_give_a_page():
    empty = pd.DataFrame()
    text = Page(build_report(RunTables("Nothing", {}, empty, empty, empty, empty))).text
    assert "The run holds no section." in text
    assert "What the numbers do not mean" in text


def test_one_patient_without_group_or_statistics():
    run = make_run(("P01",))
    run = replace(
        run,
        patients=run.patients.assign(group=None),
        sections=run.sections.assign(group=NAN, control="positive"),
        statistics=pd.DataFrame(columns=STATISTICS),
    )
    page = Page(build_report(run))
    assert "no group" in page.text
    assert "P01-CD19 (positive control)" in page.text
    assert "nan" not in page.text.lower()


def test_absent_values_are_dashes():
    run = make_run()
    blank = run.sections.assign(ci_low=NAN, ci_high=None, cells_per_fiber_sd=pd.NA)
    text = Page(build_report(replace(run, sections=blank))).text.lower()
    assert "nan" not in text
    assert "<na>" not in text
    assert "none" not in text


def test_every_pair_of_three_groups_has_its_table():
    rows = make_statistics().iloc[[2, 2, 2]].assign(group=["a", "a", "b"], group_2=["b", "c", "c"])
    page = Page(build_report(replace(make_run(), statistics=rows)))
    for pair in ("a and b", "a and c", "b and c"):
        assert f"Positive cells per fiber, {pair}." in page.text


def test_rows_of_other_analyses_are_not_dropped():
    row = pd.DataFrame([{"analysis": "spread", "marker": "CD19", "n": 4, "note": "kept"}], columns=STATISTICS)
    assert "spread" in Page(build_report(replace(make_run(), statistics=row))).text


def test_whole_protocol_is_shown_with_meaning():
    run = make_run()
    text = Page(build_report(run)).text

    def list_keys(values: dict, prefix: str = "") -> list[str]:
        nested = [
            list_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
            for key, value in values.items()
        ]
        return [key for keys in nested for key in keys]

    assert [key for key in list_keys(run.run["protocol"]) if key not in text] == []
    assert "Width of a field: field number 22 through a 40x objective is 550 um." in text
    assert run.run["protocol_hash"] in text


def test_settings_of_another_version_are_shown_without_meaning():
    run = make_run()
    protocol = {"fields": {"count": 3, "colour": "green"}, "novel": {"depth": {"a": 1}}, "list": [1, 2]}
    text = Page(build_report(replace(run, run={**run.run, "protocol": protocol}))).text
    assert "fields.colour green" in text
    assert "novel.depth" in text


def test_counting_rules_are_compared_with_half_area():
    rules = pd.DataFrame(
        {
            "section": ["A", "A", "B", "B"],
            "rule": ["half_area", "clipped", "half_area", "clipped"],
            "fibers": [100, 140, 100, 140],
            "positive_cells": [20, 22, 20, 22],
            "cells_per_fiber": [0.2, 0.15, 0.2, 0.17],
        }
    )
    text = Page(build_report(replace(make_run(), rules=rules))).text
    assert "any part inside (clipped at the edge) 280 44 0.160 −20.0 %" in text
    assert "Cells per fiber of each section by rule." in text
    alone = Page(build_report(replace(make_run(), rules=rules.drop(columns="section")))).text
    assert "−20.0 %" in alone
    assert "of each section by rule" not in alone
    assert "Counting rules compared" not in Page(build_report(replace(make_run(), rules=rules.iloc[:0]))).text


def test_sizes_of_fibers_are_plotted_by_group():
    sizes = pd.DataFrame({"group": ["a", "a", "a", NAN], "min_feret_um": [20.0, 30.0, 41.0, 7.0]})
    text = Page(build_report(replace(make_run(), sizes=sizes.assign(area_um2=1000.0)))).text
    assert "a, 3 fibers: 30.0 µm (25.0 to 35.5), area 1000 µm²" in text
    assert "no group, 1 fiber: 7.0 µm" in text
    assert "minimal Feret diameter (µm)" in text
    assert "minimal Feret diameter (µm)" not in Page(build_report(replace(make_run(), sizes=sizes[:0]))).text
    page = build_report(replace(make_run(), sizes=sizes.assign(area_um2=1000.0, group="a")))
    assert "a, 4 fibers" in Page(page).text


def test_reviewer_and_notes_are_named():
    text = Page(build_report(replace(make_run(), reviewer="Dr <b>Li</b>", notes=("Truth: 0.5 <x>.",)))).text
    assert "with the edits of reviewer Dr <b>Li</b>" in text
    assert "Truth: 0.5 <x>." in text


def test_page_of_a_large_study_stays_small():
    run = make_run(tuple(f"P{at:02d}" for at in range(29)), fields=10, markers=("BAFF", *MARKERS))
    noise = np.random.default_rng(0).bytes
    run = replace(
        run,
        overviews={section: b"RIFF" + noise(14_000) for section in run.overviews},
        thumbnails={key: b"RIFF" + noise(2_100) for key in run.thumbnails},
    )
    assert len(run.overviews) == 87
    html = build_report(run)
    assert len(html.encode()) < 5_000_000
    assert len(Page(html).find("img")) == 87 + 870


def test_too_many_pictures_are_left_out_and_the_page_says_so():
    run = make_run(("P01",))
    big = {key: b"RIFF" + bytes(MAX_PICTURE_BYTES // 2) for key in run.thumbnails}
    page = Page(build_report(replace(run, thumbnails=big)))
    assert "too many fields to show a small picture of each" in page.text
    assert len(page.find("img")) == len(run.overviews)
    assert sum("overlays" in str(attrs["href"]) for attrs in page.find("a")) == len(run.links)
    overviews = {section: b"RIFF" + bytes(MAX_PICTURE_BYTES) for section in run.overviews}
    assert Page(build_report(replace(run, overviews=overviews))).find("img") == []


def test_same_tables_same_page():
    assert build_report(make_run()) == build_default()


def require_browser() -> tuple[str, str]:
    """Skip without a browser, but not where tests are meant to be complete."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    reason = "needs chromium and chromedriver (Debian: chromium, chromium-driver)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def browser(tmp_path):
    program, driver = require_browser()
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage",
        "disable-background-networking", "disable-component-update", "disable-sync",
        f"user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    yield window
    window.quit()


def list_requests(browser) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    # The browser's own start page asks for its own things.
    return [entry["request"]["url"] for entry in sent if entry["documentURL"].startswith("file:")]


def test_in_a_browser(browser, tmp_path):
    run = make_run(failed=("P04-CD19",))
    folder = tmp_path / "run 1 µ"
    for path in run.links.values():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    (folder / "report.html").write_text(build_report(run), encoding="utf-8")
    for width in (400, 1200):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((folder / "report.html").as_uri())
        root = "document.documentElement"
        assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    sizes = browser.execute_script("return [...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert len(sizes) == len(run.overviews) + len(run.thumbnails)
    assert min(sizes) > 0
    links = browser.execute_script("return [...document.querySelectorAll('.thumbs a')].map(a => a.href)")
    assert len(links) == len(run.thumbnails)
    assert all(Path(unquote(urlparse(link).path)).is_file() for link in links)
    requests = list_requests(browser)
    assert requests
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert browser.get_log("browser") == []
    browser.get(links[0])
    assert browser.execute_script("return document.images[0].naturalWidth") == 8


def test_a_row_headed_by_a_number_stands_under_its_column_head() -> None:
    columns = (Column("Within, um"), Column("Overlap"))
    named = (Column("Measure", False), Column("Value"))
    tables = [make_table("A", columns, [["10", "0.2"]]), make_table("B", named, [["x", "0.3"]])]
    page = build_article("Title", "", {}, [Part("Part", tables=tables)])
    assert '<th scope="row" class="number">10</th><td class="number">0.2</td>' in page
    assert '<th scope="row">x</th><td class="number">0.3</td>' in page
