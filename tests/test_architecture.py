"""How the code is laid out: who imports whom, who touches files, how long a module is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "histoquant"
MODULES = sorted(PACKAGE.rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))

ORDER = (
    # what every stage speaks in
    *("errors", "turns"),
    *("compiled", "geometry", "ranks", "discs", "protocol", "lazy", "tiles", "backends", "sheets"),
    # the one way through
    *(
        "study",
        "slide",
        "spans",
        "distances",
        "pixels",
        "tracing",
        "annotations",
        "tissue",
        "fields",
        "densities",
        "stains",
        "qc",
        "clumps",
        "regions",
        "classical",
        "network",
        "fibers",
        "qupath",
    ),
    *("rings", "peaks", "cells", "direction", "feret", "place", "measure", "inclusion", "counts"),
    *("tables", "objects", "stats", "sensitivity", "agreement"),
    *("edits", "revise", "review"),
    # what shows, keeps and joins
    *(
        "pictures",
        "results",
        "trails",
        "prepare",
        "pipeline",
        "warm",
        "report",
        "compared",
        "publish",
        "executors",
        "preload",
        "cluster",
        "batch",
        "runs",
    ),
    *("draws", "reviewed", "vectors"),
    *("control",),
    *(
        "bias",
        "synthetic",
        "validation",
        "reading",
        "readers",
        "cohort",
        "mri",
        "blot",
        "planning",
        "serial",
        "demo",
        "cli",
        "__main__",
    ),
)
KNOW_PIPELINE = {"pipeline", "warm", "batch", "cli"}
LATE = {"dask", "distributed", "numba", "zarr"}
GRAPHICAL = {"napari", "qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6", "magicgui", "vispy"}
FILE_METHODS = {
    *("open", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "rmdir", "unlink"),
    *("rename", "touch", "iterdir", "glob", "rglob"),
}
FILE_FUNCTIONS = {
    *("imread", "imwrite", "imsave", "TiffFile", "TiffWriter", "OpenSlide", "read_csv", "read_parquet"),
    *("read_excel", "savefig", "loadtxt", "savetxt", "rmtree", "copytree", "copyfile"),
}


def name_module(path: Path) -> str:
    """Name of a module below the package, `report` for all of a subpackage."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def list_imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def list_upstream(path: Path) -> set[str]:
    """Modules of the package that a module imports."""
    parts = [name.split(".") for name in list_imports(parse(path))]
    found = {part[1] for part in parts if part[0] == "histoquant" and len(part) > 1}
    return {name for name in found if not name.startswith("__")} - {name_module(path)}


def declares_files(path: Path) -> bool:
    """Whether the first line of a module, or of its package, says that it touches files."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    package = path.with_name("__init__.py").read_text(encoding="utf-8").partition("\n")[0]
    return first.startswith("# This module touches files") or package.startswith(
        "# This package touches files"
    )


def list_file_calls(tree: ast.Module) -> Iterator[str]:
    imported = {name.split(".")[-1] for name in list_imports(tree)} | {"os"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in {"open", *FILE_FUNCTIONS}:
            yield function.id
        elif isinstance(function, ast.Attribute):
            of_module = isinstance(function.value, ast.Name) and function.value.id in imported
            if function.attr in FILE_FUNCTIONS or (function.attr in FILE_METHODS and not of_module):
                yield ast.unparse(function)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_in_the_library_knows_a_window(path: Path) -> None:
    names = set(list_imports(parse(path)))
    assert {name.split(".")[0] for name in names} & GRAPHICAL == set()
    assert [name for name in names if "pyplot" in name] == []


def test_what_few_commands_need_is_imported_late() -> None:
    """Each takes a second, and every command would."""
    early = []
    for path in MODULES:
        top = [node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name.split(".")[0] for name in list_imports(ast.Module(top, []))}
        early += [f"{path.name}: {name}" for name in names & LATE]
    assert early == []


def test_compiled_functions_call_no_others_but_those_of_their_file() -> None:
    """What numba has kept on disk, it makes anew when that file changes, and no other."""
    found = []
    for path in MODULES:
        tree = parse(path)
        foreign = {name.split(".")[-1] for name in list_imports(tree) if name.startswith("histoquant")}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and "Compiled" in map(ast.unparse, node.decorator_list):
                names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
                found += [f"{path.name}: {node.name} uses {name}" for name in names & foreign - {"Compiled"}]
    assert found == []


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_plugin_is_bound_to_no_one_toolkit(path: Path) -> None:
    names = {name.split(".")[0] for name in list_imports(parse(path))}
    assert names & {name for name in GRAPHICAL if name.startswith("Py")} == set()


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_plugin_uses_what_the_library_makes_public(path: Path) -> None:
    private = [
        name
        for name in list_imports(parse(path))
        if name.startswith(("histoquant", "napari")) and re.search(r"\._(?!_)", name)
    ]
    assert private == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_import_upstream_only(path: Path) -> None:
    name = name_module(path)
    if name == "__init__":
        assert list_upstream(path) == set()
        return
    assert name in ORDER, f"give {name} its place in ORDER"
    earlier = set(ORDER[: ORDER.index(name)])
    assert list_upstream(path) <= earlier, f"{name} imports what comes after it"


def test_only_what_runs_a_study_knows_the_pipeline() -> None:
    assert {name_module(path) for path in MODULES if "pipeline" in list_upstream(path)} <= KNOW_PIPELINE
    assert len((PACKAGE / "pipeline.py").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_are_touched_only_where_the_first_line_says_so(path: Path) -> None:
    if not declares_files(path):
        assert list(list_file_calls(parse(path))) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("open('a')", ["open"]),
        ("from pathlib import Path\nPath('a').read_text()", ["Path('a').read_text"]),
        ("path.write_bytes(b'')", ["path.write_bytes"]),
        ("import tifffile\ntifffile.imwrite('a', b)", ["tifffile.imwrite"]),
        ("from histoquant import results\nresults.write_bytes(path, b'')", []),
        ("slide.read(0, 0, 1, 1)", []),
    ],
)
def test_the_search_for_files_sees_them(code: str, found: list[str]) -> None:
    assert list(list_file_calls(ast.parse(code))) == found


@pytest.mark.parametrize("path", MODULES + PLUGINS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


def list_public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from list_public(node.body)


@pytest.mark.parametrize("path", MODULES + PLUGINS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_everything_public_has_a_docstring(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree)
    assert [node.name for node in list_public(tree.body) if not ast.get_docstring(node)] == []


def list_texts() -> Iterator[Path]:
    for folder in ("histoquant", "plugins", "tests", "docs", "notebooks", "benchmarks", "training", ".ci"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    yield from (path for path in ROOT.iterdir() if path.is_file())


def test_no_text_names_a_folder_of_somebodys_machine() -> None:
    private = re.compile(r"(?<![\w.)}\]])/(?:home|root|Users|work)/\w")
    found = []
    for path in list_texts():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in private.finditer(text)]
    assert found == []
