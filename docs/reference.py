"""Writes the reference pages from the code: protocol keys, columns of tables, commands, the API."""

from __future__ import annotations

import ast
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import histoquant
from histoquant.cli import main as _loads_every_command  # noqa: F401
from histoquant.cli.app import app
from histoquant.objects import OBJECT_COLUMNS
from histoquant.protocol import MarkerSettings, Protocol
from histoquant.stats import COLUMNS as STATISTICS_COLUMNS
from histoquant.study import OPTIONAL, REQUIRED
from histoquant.tables import FIELD_COLUMNS, SECTION_COLUMNS

UNITS = {"_um2": "um²", "_um": "um", "_px": "px", "_od": "OD", "_deg": "°", "_mpp": "um/px", "mpp": "um/px"}
BOUNDS = {
    annotated_types.Ge: ("ge", "≥"),
    annotated_types.Gt: ("gt", ">"),
    annotated_types.Le: ("le", "≤"),
    annotated_types.Lt: ("lt", "<"),
}
TABLES: Mapping[str, tuple[str, ...]] = {
    "study table": (*REQUIRED, *OPTIONAL),
    "fields.csv": FIELD_COLUMNS,
    "sections.csv": SECTION_COLUMNS,
    "patients.csv": ("patient", "group"),
    "statistics.csv": tuple(STATISTICS_COLUMNS),
    "objects.parquet": OBJECT_COLUMNS,
}
"""Tables and their columns, as the code reads and writes them."""
STAGES = (
    *("errors", "geometry", "protocol", "study", "slide", "tissue", "fields", "stains", "fibers", "cells"),
    *("measure", "inclusion", "counts", "tables", "stats", "pipeline"),
)
"""Modules from a slide to the statistics, in their order."""
TITLES = {"stages": "The stages, from slide to statistics", "others": "Other modules"}
COLUMN_TEXTS = Path(__file__).with_name("columns.toml")


def write_pages(folder: Path) -> None:
    """Write every generated page, and take away those of modules that are gone."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = {
        "protocol.md": describe_protocol(),
        "tables.md": describe_tables(),
        "commands.md": describe_commands(),
        **describe_modules(),
    }
    for name, text in pages.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def copy_notebooks(source: Path, target: Path) -> None:
    """Copy the executed notebooks to where the site looks; links to docs lose a level."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in sorted(source.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8").replace("](../docs/", "](../")
        (target / path.name).write_text(text, encoding="utf-8")


def describe_protocol() -> str:
    """Every key of the protocol with its unit, default and bounds, as Markdown."""
    parts = [
        "# Protocol keys",
        "A protocol is a TOML file, given with `--protocol`; what it does not name takes the default below. "
        "Every report lists what was used. An unknown key is an error that names the nearest one.",
        *_describe_settings(Protocol, ""),
    ]
    return "\n\n".join(parts) + "\n"


def _describe_settings(model: type[BaseModel], prefix: str) -> Iterator[str]:
    inner = {name: kind for name, info in model.model_fields.items() if (kind := _find_model(info))}
    title = f"[{prefix}]" if prefix else "Top level"
    yield f"## `{title}`" if prefix else f"## {title}"
    yield str(model.__doc__)
    rows = [
        _make_row(f"`{name}`", find_unit(name), _show_default(info), _show_bounds(info), info.description)
        for name, info in model.model_fields.items()
        if name not in inner
    ]
    if rows:
        yield "\n".join(
            [_make_row("key", "unit", "default", "allowed", "meaning"), _make_row(*["---"] * 5), *rows]
        )
    for name, kind in inner.items():
        yield from _describe_settings(kind, f"{prefix}.{name}".lstrip(".") + _KEYED.get(kind, ""))


_KEYED = {MarkerSettings: ".NAME"}


def _find_model(info: FieldInfo) -> type[BaseModel] | None:
    """Settings below a key, also where they are the values of a table."""
    for kind in (info.annotation, *get_args(info.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def find_unit(name: str) -> str:
    """Unit that a name ends in; empty if in none."""
    return next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")


def _show_default(info: FieldInfo) -> str:
    value = info.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`" if value < 1e4 else f"`{value:.0f}`"


def _show_bounds(info: FieldInfo) -> str:
    if info.annotation is bool:
        return "`true`, `false`"
    parts = [_show_kind(info.annotation)]
    for bound in info.metadata:
        for kind, (name, sign) in BOUNDS.items():
            if isinstance(bound, kind):
                parts.append(f"{sign} {getattr(bound, name):g}")
    return ", ".join(part for part in parts if part)


def _show_kind(kind: Any) -> str:
    """Choices of a literal; what else a key may hold in words."""
    if get_origin(kind) is Literal:
        return ", ".join(f'`"{one}"`' if isinstance(one, str) else f"`{one}`" for one in get_args(kind))
    if get_origin(kind) is Annotated:
        return _show_kind(get_args(kind)[0])
    if kind in (str, int, float):
        return {str: "text", int: "whole number", float: ""}[kind]
    if get_origin(kind) is tuple:
        inner = _show_kind(get_args(kind)[0])
        return f"{len(get_args(kind))} times ({inner})" if inner else f"{len(get_args(kind))} numbers"
    return " or ".join(map(_show_kind, get_args(kind)))


def describe_tables() -> str:
    """Every column of a run's tables, as Markdown.

    Raises
    ------
    KeyError
        A column has no text in columns.toml, or a text has no column.
    """
    texts = read_column_texts()
    parts = [
        "# Tables and files",
        "CSV is UTF-8, with a point as decimal sign; an empty cell is not available. Rows are sorted by "
        "patient, marker, section, field. Positions are micrometres from the slide's upper left corner, x to "
        "the right, y down.",
    ]
    for name, columns in TABLES.items():
        own = {**texts["shared"], **texts[name]}
        rows = [_make_row(f"`{one}`", find_unit(one), own[one]) for one in columns]
        parts += [
            f"## {name}",
            texts[name]["about"],
            "\n".join([_make_row("column", "unit", "meaning"), _make_row(*["---"] * 3), *rows]),
        ]
    files = [_make_row(f"`{name}`", text) for name, text in texts["files"].items()]
    heads = [_make_row("file", "what"), _make_row("---", "---")]
    parts += ["## Other files of a run", "\n".join([*heads, *files])]
    return "\n\n".join(parts) + "\n"


def read_column_texts() -> dict[str, dict[str, str]]:
    """Texts on columns by table, `shared` for columns of several."""
    return tomllib.loads(COLUMN_TEXTS.read_text(encoding="utf-8"))


def describe_commands() -> str:
    """Every command with its arguments, as `--help` has them, as Markdown."""
    text = app.generate_docs(output_format="markdown")
    commands = text[text.index("\n## histoquant") :]
    codes = (
        "Exit codes: 0 all is measured; 1 some section failed or has too few fields, the others are "
        "measured; 2 wrong input, nothing begun; 3 disk full or folder lost, finished sections are kept; "
        "130 stopped by Ctrl-C, likewise."
    )
    return f"# Commands\n\n{codes}\n{commands}\n"


def describe_modules() -> dict[str, str]:
    """A page of what is public per package of the library, two of single modules, and their list."""
    pages: dict[str, list[str]] = {}
    for name in list_modules():
        pages.setdefault(choose_page(name), []).append(name)
    texts = {f"api/{page}.md": _describe_members(page, names) for page, names in pages.items()}
    about = "What is public, by module. The order of the stages: [the map](../../contributing.md)."
    return {
        **texts,
        "api/index.md": f"# Library\n\n{about}\n\n```{{toctree}}\n\n{chr(10).join(pages)}\n```\n",
    }


def list_modules() -> list[str]:
    """Dotted names of the library's modules but the command line, stages first and in their order."""
    root = Path(histoquant.__file__).parent
    names = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in root.rglob("*.py")
    }
    names = {name for name in names if not re.search(r"\.(cli|__main__)\b", name) and name != "histoquant"}
    stages = [f"histoquant.{name}" for name in STAGES]
    return [*stages, *sorted(names - set(stages))]


def choose_page(name: str) -> str:
    """Page of a module: `stages`, its package, or `others`."""
    part = name.split(".")[1]
    if part in STAGES:
        return "stages"
    return part if (Path(histoquant.__file__).parent / part).is_dir() else "others"


def _describe_members(page: str, names: list[str]) -> str:
    """Heading and members of modules."""
    parts = []
    for name in names:
        members = list_public(name)
        automodule = f".. automodule:: {name}\n"
        automodule += f"   :members: {', '.join(members)}\n" if members else ""
        parts.append(f"## {name}\n\n```{{eval-rst}}\n{automodule}```")
    return "\n\n".join([f"# {TITLES.get(page, f'histoquant.{page}')}", *parts]) + "\n"


def list_public(module: str) -> list[str]:
    """Public functions and classes that a module defines, in their order."""
    file = find_spec(module).origin
    body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def _make_row(*cells: object) -> str:
    """Row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
