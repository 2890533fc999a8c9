"""Files of calibrations: safetensors, a JSON header and raw numbers [1]_, by NumPy alone.

References
----------
.. [1] https://huggingface.co/docs/safetensors, section "Format".
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from romzarr.arguments import shown
from romzarr.errors import ConfigError, StoreError

Array = NDArray[Any]

FORMAT = "1"
_NAMES = {"F32": "<f4", "F64": "<f8", "U8": "u1", "U16": "<u2"}
# Longest header: one of a thousand layers has less than a tenth of it.
_MOST_HEADER = 2**24


class Kind(StrEnum):
    """What a file is the calibration of."""

    CODEC = "codec"
    CACHE = "cache"


class Saved(ABC):
    """A calibration that files keep."""

    kind: ClassVar[Kind]

    @abstractmethod
    def content(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Arrays, and facts for JSON, of which ``model`` is one."""

    @classmethod
    @abstractmethod
    def of_content(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> Self:
        """What `content` told, after checks of all that the kernels rely on."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, which any reader of this format opens."""
        arrays, facts = self.content()
        write(Path(path), arrays, {"kind": self.kind, **facts})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: str | None = None) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path
        model : str, optional
            Fingerprint that the file has to have.

        Raises
        ------
        StoreError
            If the file is damaged or holds something else.
        ConfigError
            If it is of another model.
        """
        return cls.of_content(*read(Path(path), cls.kind, model))


def write(path: Path, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
    """Write arrays and facts, which are kept as JSON in the metadata."""
    names = {np.dtype(dtype): name for name, dtype in _NAMES.items()}
    metadata = {"romzarr": FORMAT, "facts": json.dumps(dict(facts))}
    header: dict[str, Any] = {"__metadata__": metadata}
    place = 0
    for name, array in arrays.items():
        ends = [place, place + array.nbytes]
        kind = names[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": ends}
        place = ends[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)


def read(
    path: Path, kind: Kind, model: str | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and facts of a file that holds a calibration of a kind.

    Raises
    ------
    StoreError
        If the file is damaged or holds something else.
    ConfigError
        If it is of another model.
    """
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    try:
        if not 2 <= length <= min(_MOST_HEADER, len(data) - 8):
            raise ValueError("its header is longer than the file")
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__")
        facts = json.loads(metadata["facts"])
        if metadata["romzarr"] != FORMAT or facts["kind"] != kind:
            raise ValueError(f"it holds a calibration of the kind {shown(facts['kind'])}")
        body = memoryview(data)[8 + length :]
        arrays = {name: _array(tensor, body) for name, tensor in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path}: found no calibration of romzarr ({shown(error)}), allowed is a file that "
            f"save() wrote for a {kind}; calibrate anew"
        ) from error
    if model is not None and facts["model"] != model:
        raise ConfigError(
            f"{path}: found a calibration of the model {shown(facts['model'])}, allowed is one of "
            f"{shown(model)}; calibrate with this model"
        )
    return arrays, facts


def _array(tensor: Mapping[str, Any], body: memoryview) -> Array:
    first, last = tensor["data_offsets"]
    if not 0 <= first <= last <= len(body):
        raise ValueError("a tensor lies outside of it")
    found = np.frombuffer(body[first:last], _NAMES[tensor["dtype"]])
    # A copy that is aligned, as the kernels want it.
    return found.reshape(tensor["shape"]).copy()
