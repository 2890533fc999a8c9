"""Renders pages from templates; they load nothing, and content of a store is always escaped."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from romzarr_flows.tables import age, ratio, size


class Picture(NamedTuple):
    """A figure as SVG, with a title, a note beside the title, and a caption below."""

    svg: str
    caption: str = ""
    title: str = ""
    note: str = ""


def digest(script: str) -> str:
    """Return the hash by which a content security policy allows a script."""
    return "sha256-" + b64encode(sha256(script.encode()).digest()).decode()


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
    """Render a template."""
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return _TEMPLATES.get_template(template).render(title=title, place=place, made=made, **facts)
