"""Every block of code in README and docs runs, or says that it is not run here and why."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
import tomllib
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from conftest import invoke

from histoquant.cli.app import app
from histoquant.cli.cohort import cohort
from histoquant.cli.mri import mri
from histoquant.edits import make_change
from histoquant.protocol import Protocol, load_protocol
from histoquant.reviewed import open_section
from histoquant.study import read_study
from histoquant.trails import open_trail

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARK = re.compile(r"<!-- not run here: (.+) -->")
ELSEWHERE = {
    # test_docs.py runs it with Cellpose played by a stand-in, since its weights come from the internet.
    ("segmenters.md", "import cv2"),
    # test_readme.py runs it.
    ("README.md", "from histoquant.fibers import get_segmenter"),
}


class Block(NamedTuple):
    """A block of a page: its first line's number, its text, and why it is not run, if so."""

    page: str
    line: int
    text: str
    excuse: str

    @property
    def first(self) -> str:
        return self.text.partition("\n")[0]


def find_blocks(page: Path) -> list[Block]:
    """Indented and fenced blocks; those with a directive are no code. An empty line parts indented ones."""
    blocks: list[Block] = []
    lines = [*page.read_text(encoding="utf-8").splitlines(), ""]
    start, fence, excuse = None, "", ""
    for number, line in enumerate(lines):
        if fence or line.startswith("```"):
            if not fence:
                start, fence = number + 1, line
            elif line == "```":
                if not fence.startswith("```{"):
                    blocks.append(Block(page.name, start + 1, "\n".join(lines[start:number]), excuse))
                start, fence, excuse = None, "", ""
        elif line.startswith("    ") and (start is not None or not lines[number - 1].strip()):
            start = number if start is None else start
        elif start is not None:
            text = textwrap.dedent("\n".join(lines[start:number]))
            blocks.append(Block(page.name, start + 1, text, excuse))
            start = None
            excuse = excuse if not line else ""
        elif line:
            found = MARK.fullmatch(line)
            excuse = found[1] if found else ""
    return blocks


BLOCKS = [block for page in PAGES for block in find_blocks(page)]
PYTHON = [block for block in BLOCKS if re.match(r"(from|import) ", block.first) and not block.excuse]
RUN = [block for block in BLOCKS if not block.excuse and block not in PYTHON]


def read_table(text: str, header: str) -> str:
    """Table in the help of a command, from its header to the next empty line."""
    return textwrap.dedent(re.search(rf"^ *{header}(.|\n)*?(?=\n\n)", text, re.MULTILINE)[0]) + "\n"


@pytest.fixture(scope="module")
def place(small_study: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which what the pages name is there: slides, a run with two reviewers, tables."""
    folder = tmp_path_factory.mktemp("blocks") / "lab"
    shutil.copytree(small_study, folder)
    shutil.copytree(small_study, folder / "histoquant-demo" / "study")
    # Measured from the same files already, so that nothing is measured again.
    shutil.copytree(small_run / "sections", folder / "results" / "sections")
    words = ("--protocol", folder / "PROTOCOL.toml", "--workers", 1, "--quiet")
    assert invoke("run", folder / "STUDY.csv", "--out", folder / "results", *words).returncode == 0
    counts = pd.read_csv(folder / "results" / "fields.csv")
    counts[["section", "field", "fibers", "positive_cells"]].to_csv(folder / "Li.csv", index=False)
    for reviewer in ("Li", "Wang"):
        section = open_section(folder / "results", "P02-CD19")
        with open_trail(section.folder, reviewer) as trail:
            trail.append(make_change("accept", section.objects["object"].iloc[0]))
    (folder / "VISITS.csv").write_text(read_table(cohort.__doc__, "patient,month"), encoding="utf-8")
    (folder / "PATIENTS.csv").write_text(read_table(cohort.__doc__, "patient,age"), encoding="utf-8")
    (folder / "SCORES.csv").write_text(read_table(mri.__doc__, "patient,group"), encoding="utf-8")
    return folder


def run_command(line: str) -> None:
    """A line of the command line, with small fields where fields are drawn."""
    words = shlex.split(line, comments=True)[1:]
    if words[0] in ("run", "qc"):
        words += ["--protocol", "PROTOCOL.toml", "--quiet"]
    if words[0] in ("run", "vectors"):
        words += ["--workers", "1"]
    if words == ["demo"]:
        assert "make demo" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        return
    done = invoke(*words)
    # 1 says that something was left out, here patients of whom the example tells too little.
    assert done.returncode in ((0, 1) if words[0] in ("cohort", "mri", "qc") else (0,)), done.stderr


def check_make(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def check_settings(text: str, folder: Path) -> None:
    data = tomllib.loads(text)
    if "project" in data:
        assert data["project"]["entry-points"]["histoquant.segmenters"]
        return
    (folder / "P.toml").write_text(text, encoding="utf-8")
    load_protocol(folder / "P.toml")


def check_study(text: str, folder: Path) -> None:
    """A study table without trouble, once the files that it names are there."""
    (folder / "S.csv").write_text(text, encoding="utf-8")
    table = pd.read_csv(folder / "S.csv")
    for name in [*table["slide"], *table.get("annotations", [])]:
        path = folder / name / "1.png" if not Path(name).suffix else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert {section.problem for section in read_study(folder / "S.csv", Protocol().markers).sections} == {""}


@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}:{block.line}")
def test_a_block_runs(block: Block, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    lines = block.text.strip().splitlines()
    if lines[0].startswith("histoquant "):
        for line in lines:
            run_command(line)
    elif lines[0].startswith("make "):
        for line in lines:
            check_make(line)
    elif lines[0].startswith("patient,"):
        check_study(block.text, tmp_path)
    elif lines[0].startswith("{"):
        json.loads(block.text)
    else:
        check_settings(block.text, tmp_path)


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON}))
def test_blocks_of_python_run_in_their_order(
    page: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    names: dict[str, object] = {}
    for block in PYTHON:
        if block.page == page and (page, block.first) not in ELSEWHERE:
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)


def test_what_is_not_run_is_listed_with_its_reason() -> None:
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\| `(.+?)` \| (.+?) \|$", text.partition("## Blocks that are not run")[2], re.MULTILINE
    )
    assert sorted(listed) == sorted({(block.page, block.excuse) for block in BLOCKS if block.excuse})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_a_sentence_exist(page: Path) -> None:
    named = re.findall(r"`histoquant ([a-z]+)", page.read_text(encoding="utf-8"))
    assert set(named) <= set(app)


def test_the_search_for_blocks_finds_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n    a = 1\n\n<!-- not run here: why -->\n\n```python\nb\n```\n\n```{toctree}\nc\n```\n"
    )
    assert find_blocks(page) == [Block("page.md", 3, "a = 1", ""), Block("page.md", 8, "b", "why")]
    assert {(block.page, block.first) for block in BLOCKS} >= ELSEWHERE
