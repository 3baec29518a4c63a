"""What the plugin tells its user: sentences, never a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

from napari.utils.notifications import show_error, show_info, show_warning

from histoquant.errors import HistoquantError

P = ParamSpec("P")
__all__ = ["describe_error", "guard", "show_error", "show_info", "show_warning", "tell_errors"]


def describe_error(error: BaseException) -> str:
    """Say what went wrong, where, and what to do, a line each.

    Examples
    --------
    >>> print(describe_error(HistoquantError("has no pixel size", "a.tif", "give one")))
    Has no pixel size.
    Where: a.tif
    What to do: give one.
    """
    if not isinstance(error, HistoquantError):
        return f"Something unexpected happened ({type(error).__name__}: {error}). Nothing was changed."
    lines = [_end(error.what)]
    lines += [f"Where: {error.where}"] if error.where else []
    lines += [f"What to do: {error.fix}."] if error.fix else []
    return "\n".join(lines)


@contextmanager
def tell_errors() -> Iterator[None]:
    """Show what goes wrong inside as a message."""
    try:
        yield
    except HistoquantError as error:
        show_error(describe_error(error))
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        show_error(f"The computer refuses{where}: {error.strerror or error}. Check the disk and the folder.")


def guard(function: Callable[P, object]) -> Callable[P, None]:
    """A function, of a button say, whose errors become messages."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        with tell_errors():
            function(*args, **kwargs)

    return guarded


def _end(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:].rstrip(".") + "."
