"""Pages made of templates: nothing is fetched, and whatever a store holds is text."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from romzarr_flows.tables import age, size


class Picture(NamedTuple):
    """A figure as SVG, with a title, a note beside the title, and a caption below."""

    svg: str
    caption: str = ""
    title: str = ""
    note: str = ""


def digest(script: str) -> str:
    """What a page's policy names the script by that may run."""
    return "sha256-" + b64encode(sha256(script.encode()).digest()).decode()


def ratio(value: float) -> str:
    """How many times smaller.

    >>> ratio(39.52), ratio(1341.2)
    ('39.5', '1,341')
    """
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


_TEMPLATES = Environment(
    loader=PackageLoader("romzarr_flows.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["digest"] = digest
_TEMPLATES.globals |= {"age": age, "ratio": ratio, "scientific": "{:.2e}".format, "size": size}


def rendered(template: str, title: str, place: str, **facts: Any) -> str:
    """The page that a template makes of these facts."""
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return _TEMPLATES.get_template(template).render(title=title, place=place, made=made, **facts)
