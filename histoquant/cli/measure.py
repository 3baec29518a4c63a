"""Commands that measure: run, fields, info, demo, bias."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from histoquant.cli.app import (
    OK,
    PARTLY,
    Flag,
    app,
    check_seed,
    check_timeout,
    choose_workers,
    complain,
    override_fields,
    show_progress,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from histoquant.protocol import Protocol
    from histoquant.study import Study


@app.command
def run(
    study: Path,
    *,
    out: Path,
    protocol: Path | None = None,
    seed: int = 0,
    fields: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    timeout: float = 1800.0,
    fresh: Annotated[bool, Flag] = False,
    only: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    quiet: Annotated[bool, Flag] = False,
) -> int:
    """Measure a study: draw fields, count, write tables and report.

    A run that was stopped goes on where it stopped: sections already measured under the same
    protocol, seed and input are not measured again.

    Parameters
    ----------
    study
        Study table: CSV with the columns patient, group, marker, slide.
    out
        Folder for the results.
    protocol
        Settings (TOML), or `qupath` for cells as QuPath finds them; what it does not name takes the default.
    seed
        Seed of the draws: the same seed, the same fields.
    fields
        Fields per section, instead of the protocol's.
    workers
        Worker processes; as many as there are cores if not given.
    scheduler
        Address of a dask.distributed scheduler, `tcp://host:8786` say, whose workers do the work instead;
        they must see the slides under the same paths. There is no `--timeout` then.
    timeout
        Longest time in seconds for one field, or for opening a section and drawing its fields; what takes
        longer fails, and the run goes on.
    fresh
        Move an older result aside first.
    only
        IDs of the sections to measure; the others keep their stored results.
    quiet
        No progress, errors only.
    """
    from histoquant.protocol import load_protocol

    settings = override_fields(load_protocol(protocol), fields)
    how = (scheduler or choose_workers(workers), check_timeout(timeout))
    if scheduler:
        study = study.absolute()  # workers may stand in another folder
    return _run(study, out, settings, check_seed(seed), how, fresh, tuple(only or ()), quiet)


@app.command
def fields(
    slide: Path,
    *,
    out: Path,
    mpp: float | None = None,
    protocol: Path | None = None,
    seed: int = 0,
    count: Annotated[int | None, Parameter(name="--fields")] = None,
    section: str | None = None,
) -> int:
    """Draw fields on one slide, without measuring, with the receipt and a picture.

    Parameters
    ----------
    slide
        The slide.
    out
        Folder for receipt.json and overview.webp.
    mpp
        Pixel size in um, where the slide does not say it.
    protocol
        Settings (TOML).
    seed
        Seed of the draw.
    count
        Fields to draw, instead of the protocol's.
    section
        ID of the section, which seeds the draw: a run draws the same fields under the same ID. The
        slide's name if not given.
    """
    from histoquant.prepare import prepare_section
    from histoquant.protocol import load_protocol
    from histoquant.results import encode_json, open_run, write_bytes
    from histoquant.study import Section, Source

    settings = override_fields(load_protocol(protocol), count)
    name = section or slide.stem
    drawn_on = Section(name, name, "", "", "", "", "", (Source(slide, 0, mpp),))
    prepared = prepare_section(drawn_on, settings, check_seed(seed))
    with open_run(out) as folder:
        write_bytes(folder.path / "receipt.json", encode_json(prepared.receipt))
        if prepared.overview is not None:
            write_bytes(folder.path / "overview.webp", prepared.overview)
    drawn, asked = len(prepared.tasks), prepared.fields_asked
    short = "" if drawn == asked else "; there is no room for more: ask for fewer or smaller ones"
    print(f"{drawn} of {asked} fields, seed {seed}: {out / 'receipt.json'}{short}")
    return OK if drawn == asked else PARTLY


@app.command
def info(slide: Path, *, mpp: float | None = None) -> int:
    """Say what a slide is: format, size, pixel size, power, problems.

    Parameters
    ----------
    slide
        A slide or field image.
    mpp
        Pixel size in um, where the slide does not say it.
    """
    from histoquant.slide import describe_slide, open_slide

    with open_slide(slide, mpp) as opened:
        for key, value in describe_slide(opened).items():
            print(f"{key + ':':16} {_tell(value)}")
    return OK


@app.command
def demo(
    *,
    out: Path = Path("histoquant-demo"),
    workers: int | None = None,
    quiet: Annotated[bool, Flag] = False,
) -> int:
    """Make a small study whose truth is known, measure it, and print truth beside measurement.

    Parameters
    ----------
    out
        Folder for the study and its results.
    workers
        Worker processes; as many as there are cores if not given.
    quiet
        No progress, errors only.
    """
    from histoquant.demo import FIELDS, describe_demo, make_demo
    from histoquant.executors import TIMEOUT_S
    from histoquant.protocol import load_protocol

    processes = choose_workers(workers)
    with show_progress("rendering", quiet) as note:
        table = make_demo(out / "study", processes, note)
    settings = override_fields(load_protocol(None), FIELDS)
    code = _run(
        table, out / "results", settings, 0, (processes, TIMEOUT_S), fresh=False, only=(), quiet=quiet
    )
    print(describe_demo(out / "study", out / "results"))
    return code


@app.command
def bias(
    *,
    field_um: float = 550.0,
    fiber_um: float = 60.0,
    cell_um: float = 9.0,
    shape: Literal["circle", "square"] = "circle",
    seed: int = 0,
    quiet: Annotated[bool, Flag] = False,
) -> int:
    """Show how far each counting rule leads cells per fiber astray, for your field and object sizes.

    Parameters
    ----------
    field_um
        Width of the field.
    fiber_um
        Diameter of the circle of a fiber's area.
    cell_um
        Diameter of a cell.
    shape
        Shape of the field.
    seed
        Seed of the simulation.
    quiet
        No progress.
    """
    import numpy as np

    from histoquant.bias import check_bias, simulate_bias

    sizes = (field_um, fiber_um, cell_um)
    check_seed(seed)
    with show_progress("simulating", quiet) as note:
        rng = np.random.default_rng(seed)
        simulated = simulate_bias(*sizes, rng, shape, progress=lambda done, total: note(done, 2 * total))
        rng = np.random.default_rng(seed)
        checked = check_bias(*sizes, rng, shape, progress=lambda done, total: note(total + done, 2 * total))
    print("Bias of positive cells per fiber by counting rule (fibers 1.3:1, any direction), per cent:\n")
    print(simulated.dropna().round(2).to_string())
    print("\nThe simulation against exact formulae, round fibers; se: standard error, Monte Carlo:\n")
    print(checked.dropna().round(2).to_string())
    return OK if bool((checked["difference_se"].abs().fillna(0) < 4).all()) else PARTLY


def _run(
    table: Path,
    out: Path,
    settings: Protocol,
    seed: int,
    how: tuple[int | str, float],
    fresh: bool,
    only: tuple[str, ...],
    quiet: bool,
) -> int:
    """Read the study and measure it."""
    from histoquant.study import read_study

    return measure_study(read_study(table, settings.markers), out, settings, seed, how, fresh, only, quiet)


def measure_study(
    study: Study,
    out: Path,
    settings: Protocol,
    seed: int,
    how: tuple[int | str, float],
    fresh: bool,
    only: tuple[str, ...],
    quiet: bool,
) -> int:
    """Measure what is not stored, publish; the exit code says how it went.

    Parameters
    ----------
    study : Study
        Its sections.
    out : Path
        Folder for the results.
    settings, seed
        Protocol and seed of the draws.
    how : tuple of int or str, and float
        Worker processes or a scheduler's address, and the time limit of one task, s.
    fresh, only, quiet
        As for `run`.

    Returns
    -------
    int
    """
    from histoquant.batch import check_request, plan_work
    from histoquant.results import list_orphans, open_run
    from histoquant.runs import execute_plan

    check_request(study, settings, only)
    with open_run(out, fresh) as folder:
        if folder.moved_to is not None and not quiet:
            print(f"the older result is now {folder.moved_to}")
        plan = plan_work(study, folder, settings, seed, only)
        # What cannot be measured is said now, not after a night.
        told = {work.section.id: work.trouble for work in plan.works if work.trouble} | plan.unavailable
        for name, trouble in told.items():
            complain(f"{name}: failed: {trouble}")
        for name in list_orphans(folder, [section.folder for section in study.sections]):
            complain(f"{name}: holds edits, but belongs to no section of the study")
        if plan.outdated:
            complain(
                f"{plan.outdated} stored sections come from other settings, seed, input or version and are "
                "measured again"
            )
        waiting = [work.section.id for work in plan.works]
        executor, at_once = _make_executor(*how, len(waiting) * settings.fields.count)
        with show_progress("measuring", quiet or not waiting) as note:
            sections, page = execute_plan(
                plan, study, folder, settings, seed, executor, note, in_flight=at_once + 1, tell=note.say
            )
    asked = sections[sections["section"].isin(only)] if only else sections
    wanting = asked[asked["status"].isin(["failed", "incomplete"])]
    for row in wanting[~wanting["section"].isin(list(told))].itertuples():
        complain(f"{row.section}: {row.status}: {row.reason}")
    if not quiet:
        fresh_ones = asked["section"].isin(waiting) & ~asked["status"].eq("failed")
        failed = int(asked["status"].eq("failed").sum())
        kept = len(asked) - int(fresh_ones.sum()) - failed
        incomplete = int(asked["status"].eq("incomplete").sum())
        print(
            f"{int(fresh_ones.sum())} sections measured, {kept} kept, {failed} failed, "
            f"{incomplete} incomplete: {page}"
        )
    return PARTLY if len(wanting) else OK


def _make_executor(where: int | str, timeout_s: float, tasks: int) -> tuple[Executor, int]:
    """Where the work is done, here or by a scheduler's workers, and how many tasks go on at once."""
    if isinstance(where, str) and tasks:
        from histoquant.cluster import ClusterExecutor

        cluster = ClusterExecutor(where)
        return cluster, cluster.slots
    from histoquant.executors import make_executor

    processes = where if isinstance(where, int) else 1
    return make_executor(max(1, min(processes, tasks)), timeout_s), processes


def _tell(value: object) -> str:
    """A value for reading: numbers that belong together as 2220 x 2967."""
    if isinstance(value, list | tuple):
        between = " x " if value and isinstance(value[0], int | float) else "; "
        return between.join(map(_tell, value)) or "–"
    return "–" if value is None else str(value)
