"""Decodes a variable by what the pages of the format say in Python."""

import re
from pathlib import Path
from typing import Any

from romzarr.coding import tiles
from romzarr.store import layout

PAGE, OTHER_PAGE = (
    (Path(module.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
    for module in (layout, tiles)
)
DICTIONARY = Path(layout.__file__).with_name("dictionary.txt").read_bytes().replace(b"\n", b"")


def decoded_by_hand(store: Path, name: str) -> Any:
    """The values that the code on the page of stores, with what it takes from the page of coded
    arrays, finds."""
    facts_and_arrays, in_archive_order = re.findall(r"```python\n(.*?)```", OTHER_PAGE, re.DOTALL)
    (decoding,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope = {"store": store, "name": name, "dictionary": DICTIONARY}
    exec(facts_and_arrays + decoding + in_archive_order, scope)
    return scope["values"]
