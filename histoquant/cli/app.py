"""What the commands share: the app, exit codes, messages, progress, and `main`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, Parameter

from histoquant import __version__
from histoquant.errors import HistoquantError, StorageError, WorkerError

if TYPE_CHECKING:
    from histoquant.protocol import Protocol

OK, PARTLY, WRONG, BROKEN, STOPPED = 0, 1, 2, 3, 130

app = App(
    name="histoquant",
    help="Positive cells per muscle fiber in random fields of stained sections.",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
Flag = Parameter(negative="")


def main(argv: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A redirected stream on Windows may not know every letter of a name.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(
            argv,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        complain(str(error))
        code = WRONG
    except (StorageError, WorkerError) as error:
        complain(str(error))
        code = BROKEN
    except HistoquantError as error:
        complain(str(error))
        code = WRONG
    except KeyboardInterrupt:
        complain("stopped; sections already finished are kept, run again to go on")
        code = STOPPED
    except BrokenPipeError:
        # The reader of our output has gone, `histoquant info X | head` say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    sys.exit(code if isinstance(code, int) else OK)


def override_fields(settings: Protocol, count: int | None) -> Protocol:
    """Give a protocol another number of fields, checked like any setting."""
    from histoquant.protocol import validate_protocol

    if count is None:
        return settings
    data = settings.model_dump(mode="json")
    return validate_protocol({**data, "fields": {**data["fields"], "count": count}}, "--fields")


def check_seed(seed: int) -> int:
    """Return a seed that is not negative.

    Raises
    ------
    HistoquantError
        It is negative.
    """
    if seed < 0:
        raise HistoquantError(f"{seed} is negative", "--seed", "give 0 or more")
    return seed


def choose_workers(asked: int | None) -> int:
    """Return the number of workers asked for, or of cores.

    Raises
    ------
    HistoquantError
        Fewer than one is asked for.
    """
    if asked is not None and asked < 1:
        raise HistoquantError(f"{asked} is no number of workers", "--workers", "give 1 or more")
    return asked or os.cpu_count() or 1


def check_timeout(seconds: float) -> float:
    """Return a time limit in seconds.

    Raises
    ------
    HistoquantError
        It is not above 0, or longer than eleven days.
    """
    if not 0 < seconds <= 1e6:
        raise HistoquantError(f"{seconds:g} s is no time limit", "--timeout", "give seconds, 1000000 at most")
    return seconds


def complain(text: str) -> None:
    """Print a line to stderr."""
    print(f"histoquant: {text}", file=sys.stderr)


@dataclass(frozen=True)
class Note:
    """What a progress bar takes: how many of how many are done, and a line above it."""

    move: Callable[[int, int], None]
    say: Callable[[str], None]

    def __call__(self, done: int, total: int, /) -> None:
        """Move the bar."""
        self.move(done, total)


@contextmanager
def show_progress(what: str, quiet: bool) -> Iterator[Note]:
    """A progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if quiet:
        yield Note(lambda done, total: None, lambda line: None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield Note(lambda done, total: bar.update(task, completed=done, total=total), bar.console.print)
