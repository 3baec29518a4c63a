"""Numbers and names as a reader expects them in print; what is not available is an en dash."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

ABSENT = "–"
_THIN_SPACE = "\u202f"


def is_absent(value: Any) -> bool:
    """Tell whether a cell of a table holds nothing.

    Examples
    --------
    >>> is_absent(float("nan")), is_absent(""), is_absent(None), is_absent(0)
    (True, True, True, False)
    """
    if isinstance(value, str):
        return value == ""
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def format_text(value: Any) -> str:
    """Write a name as it is.

    Examples
    --------
    >>> format_text(float("nan")), format_text("µ 张三")
    ('–', 'µ 张三')
    """
    return ABSENT if is_absent(value) else str(value)


def format_field(value: Any) -> str:
    """Write a field's number; a table with a gap holds it as 3.0.

    Examples
    --------
    >>> format_field(3.0), format_field("left")
    ('3', 'left')
    """
    return format_text(value) if isinstance(value, str) else format_count(value)


def format_count(value: Any) -> str:
    """Write a whole number, in groups of three from ten thousand on.

    Examples
    --------
    >>> format_count(1234.0), format_count(12345), format_count(None)
    ('1234', '12\\u202f345', '–')
    """
    if is_absent(value):
        return ABSENT
    number = round(float(value))
    text = f"{number:,}".replace(",", _THIN_SPACE) if abs(number) >= 10_000 else str(number)
    return text.replace("-", "−")


def format_number(value: Any, decimals: int = 3) -> str:
    """Write a number with fixed decimals and a true minus sign.

    Examples
    --------
    >>> format_number(0.27349), format_number(-1.5, 1), format_number(-0.0001), format_number(float("inf"))
    ('0.273', '−1.5', '0.000', '∞')
    """
    if is_absent(value):
        return ABSENT
    number = float(value)
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    # Adding zero turns -0.0 into 0.0.
    return f"{round(number, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def format_p(value: Any) -> str:
    """Write a P value with three decimals, small ones as an inequality; near 0.05 so that its side is seen.

    Examples
    --------
    >>> format_p(0.03249), format_p(0.0004), format_p(float("nan")), format_p(0.0496)
    ('0.032', '< 0.001', '–', '0.0496')
    """
    if is_absent(value):
        return ABSENT
    number, decimals = float(value), 3
    if 0 <= number < 0.001:
        return "< 0.001"
    while round(number, decimals) == 0.05 != number and decimals < 6:
        decimals += 1
    return format_number(number, decimals)


def format_equals_p(value: Any) -> str:
    """Write a P value for the running text.

    Examples
    --------
    >>> format_equals_p(0.2), format_equals_p(1e-9), format_equals_p(None)
    ('= 0.200', '< 0.001', 'not available')
    """
    if is_absent(value):
        return "not available"
    text = format_p(value)
    return text if text.startswith("<") else f"= {text}"


def format_mean_sd(mean: Any, sd: Any, decimals: int = 3) -> str:
    """Write mean ± standard deviation.

    Examples
    --------
    >>> format_mean_sd(0.27, 0.14, 2), format_mean_sd(0.27, None, 2), format_mean_sd(None, None)
    ('0.27 ± 0.14', '0.27', '–')
    """
    if is_absent(mean) or is_absent(sd):
        return format_number(mean, decimals)
    return f"{format_number(mean, decimals)} ± {format_number(sd, decimals)}"


def format_interval(low: Any, high: Any, decimals: int = 3) -> str:
    """Write an interval.

    Examples
    --------
    >>> format_interval(-0.1, 0.25, 2), format_interval(None, 0.25)
    ('−0.10 to 0.25', '–')
    """
    if is_absent(low) or is_absent(high):
        return ABSENT
    return f"{format_number(low, decimals)} to {format_number(high, decimals)}"


def format_setting(value: Any) -> str:
    """Write a setting of the protocol.

    Examples
    --------
    >>> format_setting(550.0), format_setting(True), format_setting([0.65, 0.7]), format_setting("auto")
    ('550', 'yes', '0.65, 0.7', 'auto')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.10g}"
    if isinstance(value, list | tuple):
        return ", ".join(format_setting(part) for part in value) or ABSENT
    return format_text(value)
