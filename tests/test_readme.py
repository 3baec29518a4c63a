"""The lines of Python in the README run as they stand there."""

from __future__ import annotations

from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_lines_of_python_run(
    small_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = README.read_text(encoding="utf-8").split("## From Python")[1].split("## ")[0]
    code = "\n".join(line.removeprefix("    ") for line in block.splitlines() if line.startswith("    "))
    slides = tmp_path / "histoquant-demo" / "study" / "slides"
    slides.mkdir(parents=True)
    (slides / "P01-CD19.svs").write_bytes((small_study / "slides" / "P01-CD19.svs").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    number, what = capsys.readouterr().out.split()
    assert what == "fibers" and int(number) > 5
