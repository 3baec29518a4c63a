"""Compiled functions: loops over pixels that no library has, made machine code by numba when first called."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Compiled(Generic[P, T]):
    """A function that is compiled when first called, and kept on disk for the next process.

    numba takes a second and 90 MB to import, which who measures nothing does not pay. It knows a kept
    function by its own file alone: a compiled function calls no other but those of its file.

    Parameters
    ----------
    function : callable
        Of arrays and numbers; what it calls may be compiled too.

    Examples
    --------
    >>> @Compiled
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double(4)
    8
    """

    lost = False
    """Whether some function could not be kept, for want of room say."""
    under_way = False
    """Whether this process compiles a function now that was not kept."""

    def __init__(self, function: Callable[P, T]) -> None:
        self.plain = function
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the compiled function."""
        result: T = self._compiled(*args, **kwargs)
        return result

    @cached_property
    def _compiled(self) -> Any:
        from numba import njit

        try:
            function = njit(cache=True, nogil=True, error_model="numpy")(self.plain)
        except RuntimeError:  # no folder to keep it in
            return njit(nogil=True, error_model="numpy")(self.plain)
        compile_variant = function.compile
        find, keep = function._cache.load_overload, function._cache.save_overload
        function.compile = lambda types: _go_on_after(compile_variant, types)
        function._cache.load_overload = lambda *wanted: _look_for(find, *wanted)
        function._cache.save_overload = lambda *compiled: _try_to(keep, *compiled)
        return function

    @property
    def _numba_type_(self) -> Any:
        """By which numba knows a function called from another one."""
        return self._compiled._numba_type_


def _go_on_after(compile_variant: Callable[[Any], Any], types: Any) -> Any:
    """Load or compile; then that of the function goes on which calls this one, if any does."""
    before = Compiled.under_way
    try:
        return compile_variant(types)
    finally:
        Compiled.under_way = before


def _look_for(find: Callable[..., Any], *wanted: Any) -> Any:
    """What is kept; what is not will be compiled now."""
    found = find(*wanted)
    Compiled.under_way |= found is None
    return found


def _try_to(keep: Callable[..., None], *compiled: Any) -> None:
    """Keep what is compiled unless the disk is full: it works without."""
    try:
        keep(*compiled)
    except OSError:
        Compiled.lost = True
