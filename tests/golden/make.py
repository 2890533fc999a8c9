"""Write the golden stores anew: ``python -m tests.golden.make [NAME ...]``.

Stores of the same name are replaced, so a change of the format is seen in the history of these
files; say in the commit message why it was meant.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from tests.golden.cases import CASES
from tests.golden.decoded import decoded, described, kept
from tests.golden.payloads import payloads

HERE = Path(__file__).parent
STORES = HERE / "stores"
PAYLOADS = HERE / "payloads.json"


def pack(store: Path, archive: Path) -> None:
    """Put a store and what it decodes to into a zip file."""
    dataset, values = decoded(store), io.BytesIO()
    np.savez_compressed(values, **kept(dataset))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        root = json.loads((store / "zarr.json").read_bytes())
        for part, _ in root["attributes"]["romzarr"]["parts"]:
            for each in sorted(p for p in (store / part).rglob("*") if p.is_file()):
                file.write(each, each.relative_to(store.parent))
        file.write(store / "zarr.json", "store/zarr.json")
        file.writestr("expected.npz", values.getvalue())
        file.writestr("expected.json", json.dumps(described(dataset), sort_keys=True))


def main(names: list[str]) -> None:
    STORES.mkdir(exist_ok=True)
    for name in names or CASES:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "store"
            CASES[name](store)
            pack(store, STORES / f"{name}.zip")
    PAYLOADS.write_text(json.dumps(payloads(), indent=1) + "\n")
    print(sum(each.stat().st_size for each in STORES.iterdir()), "bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
