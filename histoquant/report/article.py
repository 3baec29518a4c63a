# This module touches files: it reads the template and the style sheet of the page.
"""A page of parts, for what is not a run: each part has sentences, pictures, plots and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup

from histoquant import __version__
from histoquant.report.table import Table


@dataclass(frozen=True)
class Figure:
    """A plot: an `<svg>` element of our own making, and its caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Image:
    """An encoded picture as a data URI, what it shows, and names and CSS colours of its legend."""

    src: str
    alt: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Part:
    """A part of the page; what is empty is left out.

    Attributes
    ----------
    title : str
        Heading, and entry of the contents.
    state : str
        A boxed sentence at the beginning; `bad` colours it.
    texts, points : sequence of str
        Paragraphs, then a list.
    pictures, figures, tables : sequence
        In this order.
    """

    title: str
    state: str = ""
    bad: bool = False
    texts: Sequence[str] = ()
    points: Sequence[str] = ()
    pictures: Sequence[Image] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def build_article(title: str, subtitle: str, facts: Mapping[str, str], parts: Sequence[Part]) -> str:
    """Write a self-contained HTML page: no script, nothing from outside, all text escaped.

    Parameters
    ----------
    title, subtitle : str
        Head of the page.
    facts : mapping of str to str
        Shown below it.
    parts : sequence of Part
        In order.

    Returns
    -------
    str
        HTML; the same parts give the same text.
    """
    page, style = load_page("article.html.j2")
    return (
        page.render(
            title=title, subtitle=subtitle, facts=facts, parts=parts, style=style, version=__version__
        )
        + "\n"
    )


def load_page(name: str) -> tuple[jinja2.Template, Markup]:
    """Load the template of a page, and the style sheet all pages share.

    What is put into the template is text: a patient's name stays one, whatever is in it.

    Parameters
    ----------
    name : str
        File in the folder `page`.

    Returns
    -------
    jinja2.Template, Markup
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("histoquant.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name), Markup(environment.get_template("page.css").render())
