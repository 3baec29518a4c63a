"""Command that compares serial sections: serial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


@app.command
def serial(
    study: Path,
    *,
    out: Path,
    protocol: Path | None = None,
    seed: int = 0,
    fields: int | None = None,
    workers: int | None = None,
    timeout: float = 1800.0,
    quiet: Annotated[bool, Flag] = False,
) -> int:
    """Register the serial sections of each biopsy, measure the same places on all, and compare markers there.

    Sections of a patient with the same text in the column `block` belong together. If OUT holds no run,
    matched fields are drawn and measured: drawn once per block where every section has tissue, and put on
    each. If OUT holds a run, its stored fields are compared where they cover the same place; fields that were
    drawn independently share little. Writes serial.html, registrations.csv and overlap.csv to serial/ in OUT,
    beside a run's tables. Exit code 1: a section cannot be registered or measured.

    Parameters
    ----------
    study
        Study table, as for `run`, with the column block.
    out
        Folder for the results; a run's folder may be given.
    protocol
        Settings (TOML).
    seed
        Seed of the draws.
    fields
        Fields per block, instead of the protocol's.
    workers
        Worker processes; as many as there are cores if not given.
    timeout
        Longest time in seconds for one field.
    quiet
        No progress, errors only.
    """
    from histoquant.cli.measure import measure_study
    from histoquant.protocol import load_protocol
    from histoquant.serial.analyse import analyse_study, has_own_draw, place_fields
    from histoquant.serial.blocks import register_study
    from histoquant.study import read_study

    settings = override_fields(load_protocol(protocol), fields)
    how = (choose_workers(workers), check_timeout(timeout))
    table = read_study(study, settings.markers)
    folder = out / "serial"
    with show_progress("registering", quiet) as note:
        blocks, left_out = register_study(table, settings, folder, note)
    code = OK
    for block in blocks:
        for name, registration in block.registrations.items():
            if registration.transform is None:
                complain(f"{name}: not registrable: {registration.reason}")
                code = PARTLY
    for name, reason in left_out.items():
        complain(f"{name}: left out: {reason}")
    if not has_own_draw(out):
        matched, troubles = place_fields(table, blocks, settings, check_seed(seed))
        for trouble in troubles:
            complain(trouble)
            code = PARTLY
        measured = measure_study(matched, out, settings, seed, how, fresh=False, only=(), quiet=quiet)
        code = max(code, measured)
    page, told = analyse_study(out, blocks, left_out, settings, seed)
    if not quiet:
        print("\n".join(told))
        print(page)
    return code
