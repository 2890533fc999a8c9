"""Format 1 of the coefficient store: names, codecs, chunk shapes, and what a reader may trust.

FORMAT.md describes the same in prose. Everything read from a store passes the checks here
before an array is allocated or a codec runs.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import fsspec
import numpy as np
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import FsspecStore, LocalStore

from pipeline.errors import StoreError

FORMAT = 1
KEY = "romzarr"
ROOT = "zarr.json"
CHUNK_BYTES = 1 << 20
# A chunk that claims to be larger is taken for an attack on memory.
MAX_CHUNK_BYTES = 1 << 31
MAX_METADATA_BYTES = 1 << 26
MAX_SNAPSHOTS = 1 << 31
GENERATION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
_SAFE_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_SERIALIZERS = frozenset({"bytes", "vlen-utf8", "vlen-bytes"})
_VARIABLE_LENGTH = frozenset({"string", "variable_length_bytes"})
_FIXED_LENGTH = frozenset({"fixed_length_utf32", "null_terminated_bytes", "raw_bytes"})
_SIZES = {
    **{f"{kind}{8 * size}": size for kind in ("int", "uint") for size in (1, 2, 4, 8)},
    **{f"float{8 * size}": size for size in (2, 4, 8)},
    **{"bool": 1, "complex64": 8, "complex128": 16},
}

Chunks = Sequence[Sequence[int]]


def codecs(shuffle: bool = True) -> tuple[BytesBytesCodec, ...]:
    """What every chunk passes through: byte shuffle, zstd, and a checksum over the result."""
    blosc = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle" if shuffle else "noshuffle")
    return blosc, Crc32cCodec()


def is_local(url: str) -> bool:
    return "://" not in url


def normalised(target: str | os.PathLike[str]) -> str:
    """Absolute path (links resolved) or URL of `target`, without a trailing slash."""
    url = os.fspath(target).removeprefix("file://")
    return os.path.realpath(os.path.expanduser(url)) if is_local(url) else url.rstrip("/")


def joined(url: str, *parts: str) -> str:
    return "/".join((url, *parts))


def zarr_store(url: str, read_only: bool = True) -> Store:
    """Zarr store at `url`, with the credentials of this process and no others."""
    if is_local(url):
        return LocalStore(url, read_only=read_only)
    try:
        return FsspecStore.from_url(url, read_only=read_only)
    except (ImportError, ValueError) as error:
        raise StoreError(f"{url}: no access to this kind of URL: {error}") from error


def read_bytes(url: str, limit: int = MAX_METADATA_BYTES) -> bytes:
    """Content of a small file, local or not.

    Raises
    ------
    FileNotFoundError
        If there is none.
    StoreError
        If it is larger than `limit` or cannot be read.
    """
    try:
        with fsspec.open(url, "rb") as file:
            content: bytes = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(url) from error
    except OSError as error:
        raise StoreError(f"{url}: cannot be read: {error}") from error
    if len(content) > limit:
        raise StoreError(f"{url}: more than {limit} bytes of metadata; this is no romzarr store")
    return content


def compact_json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


# --- chunk shapes -------------------------------------------------------------------------


def basis_chunks(space_chunks: Chunks, rank: int, itemsize: int) -> tuple[int, ...]:
    """Chunk shape in space of a basis array, about 1 MiB with all modes together.

    Parameters
    ----------
    space_chunks : sequence of sequence of int
        Chunk lengths of the archive per space dim, as dask.array has them.
    rank : int
        Modes that lie together in one chunk (1 for the mean field).
    itemsize : int
        Bytes of one number.

    Returns
    -------
    tuple of int
        Where the archive's grid allows it, every boundary of the archive's chunks is one of
        these chunks (`aligned`), so that each space block can be written by a task of its
        own. A grid so ragged or fine that chunks would fall below 1/16 MiB is ignored.
    """
    wanted = max(1, CHUNK_BYTES // max(1, rank * itemsize))
    periods = [_period(lengths) for lengths in space_chunks]
    shape = _subdivided([max(1, sum(lengths)) for lengths in space_chunks], periods, wanted)
    whole = math.prod(sum(lengths) for lengths in space_chunks)
    if math.prod(shape) < min(wanted, whole) / 16:
        return _subdivided([max(1, sum(lengths)) for lengths in space_chunks], None, wanted)
    return shape


def aligned(space_chunks: Chunks, chunk: Sequence[int]) -> bool:
    """Whether no two blocks of the archive's space grid touch one chunk of shape `chunk`."""
    return all(
        boundary % length == 0
        for lengths, length in zip(space_chunks, chunk, strict=True)
        for boundary in list(accumulate(lengths))[:-1]
    )


def _period(lengths: Sequence[int]) -> int:
    """Greatest chunk length that meets every inner boundary (0: there is none to meet)."""
    return math.gcd(*list(accumulate(lengths))[:-1])


def _subdivided(
    shape: Sequence[int], periods: Sequence[int] | None, wanted: int
) -> tuple[int, ...]:
    """Split the leading dims first, so that the trailing ones stay contiguous."""
    chunk = [n if p == 0 else p for n, p in zip(shape, periods or [0] * len(shape), strict=True)]
    for axis in range(len(shape)):
        if math.prod(chunk) <= wanted:
            break
        target = max(1.0, wanted / math.prod(chunk[axis + 1 :]))
        if periods and periods[axis]:
            divisors = [d for d in range(1, chunk[axis] + 1) if chunk[axis] % d == 0]
            chunk[axis] = min(divisors, key=lambda d: abs(math.log(d / target)))
        else:
            chunk[axis] = math.ceil(shape[axis] / math.ceil(shape[axis] / target))
    return tuple(chunk)


def row_chunk(rows: int, row_bytes: int) -> int:
    """Rows of about 1 MiB, at least one."""
    return max(1, min(rows, CHUNK_BYTES // max(1, row_bytes)))


def segment(name: str, taken: Sequence[str]) -> str:
    """Path segment for variable `name`: the name itself where every file system takes it."""
    clash = {"singular_values", *(other.casefold() for other in taken)}
    if _SAFE_SEGMENT.fullmatch(name) and name.casefold() not in clash:
        return name
    return next(s for i in range(len(clash) + 1) if (s := f"variable-{i}") not in clash)


# --- what a reader may trust --------------------------------------------------------------


class OtherFormatError(StoreError):
    """A romzarr store, but of a format that this version does not read."""


@dataclass(frozen=True)
class ArrayLayout:
    """Shape, Zarr data type and chunk shape of an array, as its metadata claim."""

    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    itemsize: int | None

    @property
    def chunk_bytes(self) -> int | None:
        """Decoded bytes of every chunk; None where strings have no fixed length."""
        return None if self.itemsize is None else math.prod(self.chunk) * self.itemsize

    @property
    def chunks(self) -> int:
        return math.prod(-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True))


class Fields:
    """A JSON object of unknown origin, read one typed field at a time."""

    def __init__(self, document: Any, where: str) -> None:
        if not isinstance(document, Mapping):
            raise StoreError(f"{where}: expected a JSON object, found {_shown(document)}")
        self.document, self.where = document, where

    def __iter__(self) -> Any:
        return iter(self.document)

    def _get(self, key: str, kinds: type | tuple[type, ...], expected: str) -> Any:
        if key not in self.document:
            raise StoreError(f"{self.where}: {key!r} is missing")
        value = self.document[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise StoreError(f"{self.where}: {key!r} must be {expected}, found {_shown(value)}")
        return value

    def fields(self, key: str) -> Fields:
        return Fields(self._get(key, Mapping, "a JSON object"), f"{self.where}/{key}")

    def text(self, key: str) -> str:
        value: str = self._get(key, str, "a string")
        return value

    def number(self, key: str) -> float:
        value = float(self._get(key, (int, float), "a number"))
        if not math.isfinite(value):
            raise StoreError(f"{self.where}: {key!r} must be finite, found {value!r}")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value: int = self._get(key, int, f"an integer from {low} to {high}")
        if not low <= value <= high:
            raise StoreError(f"{self.where}: {key!r} must be from {low} to {high}, found {value}")
        return value

    def integers(self, key: str, low: int) -> tuple[int, ...]:
        values = self._get(key, list, "a list of integers")
        if not all(type(v) is int and low <= v < 1 << 62 for v in values) or len(values) > 64:
            raise StoreError(
                f"{self.where}: {key!r} must be integers of at least {low}, found {_shown(values)}"
            )
        if math.prod(max(1, v) for v in values) >= 1 << 62:
            raise StoreError(f"{self.where}: {key!r} is too large: {_shown(values)}")
        return tuple(values)

    def names(self, key: str) -> tuple[str, ...]:
        values = self._get(key, list, "a list of strings")
        if not all(isinstance(v, str) for v in values) or len(set(values)) != len(values):
            raise StoreError(
                f"{self.where}: {key!r} must be different strings, found {_shown(values)}"
            )
        return tuple(values)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def parse_root(raw: bytes, url: str) -> str:
    """Generation that the root metadata of a store name.

    Raises
    ------
    StoreError
        If this is no romzarr store, or one of another format.
    """
    document = _parsed(raw, joined(url, ROOT))
    try:
        facts = Fields(document, url).fields("attributes").fields(KEY)
    except StoreError as error:
        raise StoreError(
            f"{url}: a Zarr group, but not a romzarr store (no {KEY!r} attribute)"
        ) from error
    version = facts.integer("format", 1, 1 << 31)
    if version != FORMAT:
        raise OtherFormatError(
            f"{url}: written in format {version}, this romzarr reads format {FORMAT}; "
            "use a newer romzarr"
        )
    generation = facts.text("generation")
    if not GENERATION.fullmatch(generation):
        raise StoreError(f"{url}: {_shown(generation)} is no name of a generation")
    return generation


def parse_facts(raw: bytes, url: str) -> Fields:
    """Facts in the metadata of the generation at `url`."""
    return Fields(_parsed(raw, joined(url, ROOT)), url).fields("attributes").fields(KEY)


def array_paths(facts: Fields) -> list[str]:
    """Arrays that a generation with these facts has, or may have (the last).

    Raises
    ------
    StoreError
        If a name in the facts would lead out of the generation.
    """
    variables = facts.fields("variables")
    groups = [variables.fields(name).text("group") for name in variables]
    for group in groups:
        if segment(group, ()) != group:
            raise StoreError(f"{variables.where}: {_shown(group)} is no name of a group")
    carried = list(facts.fields("carried"))
    for name in carried:
        if "\\" in name or "\0" in name or {"", ".", ".."} & set(name.split("/")):
            raise StoreError(f"{facts.where}: {_shown(name)} is no name of a variable")
    latent = ["steps", "samples", "block_model"]
    latent += ["times"] if facts.fields("time").document.get("step") is None else []
    return [
        "basis/singular_values",
        *(f"basis/{group}/{array}" for group in groups for array in ("mean", "modes")),
        *(f"latent/{array}" for array in latent),
        *(f"coordinates/{name}" for name in carried),
        "model/coefficients",
        "model/factors",
    ]


def parse_array(raw: bytes, url: str) -> tuple[Any, ArrayLayout]:
    """Metadata of the array at `url`, and the layout they describe, checked.

    Raises
    ------
    StoreError
        If a piece is missing, of the wrong JSON type, not allowed or absurdly large.
    """
    document = _parsed(raw, url)
    node = Fields(document, url)
    if node.text("node_type") != "array":
        raise StoreError(f"{url}: is not an array")
    return document, _array_layout(node)


def group_document(facts: Any = None) -> dict[str, Any]:
    """Metadata of a group, with `facts` as our attribute."""
    group: dict[str, Any] = {"zarr_format": 3, "node_type": "group"}
    return group if facts is None else group | {"attributes": {KEY: facts}}


def consolidated(arrays: Mapping[str, Any]) -> bytes:
    """Metadata of a group that holds these arrays, for Zarr to open without reading more."""
    parents = {path.rpartition("/")[0] for path in arrays}
    parents |= {parent.rpartition("/")[0] for parent in parents}
    nodes = {parent: group_document() for parent in sorted(parents - {""})} | dict(arrays)
    inline = {"kind": "inline", "must_understand": False, "metadata": nodes}
    return compact_json(group_document() | {"consolidated_metadata": inline})


def _parsed(raw: bytes, where: str) -> Any:
    def refused(constant: str) -> None:
        raise ValueError(f"{constant} is no number in JSON")

    try:
        return json.loads(raw, parse_constant=refused)
    # A deeply nested document exhausts the stack of the parser.
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not JSON: {error}") from error


def _array_layout(node: Fields) -> ArrayLayout:
    grid = node.fields("chunk_grid")
    if grid.text("name") != "regular":
        raise StoreError(f"{node.where}: the chunk grid must be regular")
    shape, chunk = (
        node.integers("shape", 0),
        grid.fields("configuration").integers("chunk_shape", 1),
    )
    if len(shape) != len(chunk):
        raise StoreError(f"{node.where}: chunks {chunk} do not fit shape {shape}")
    _check_codecs(node)
    dtype, itemsize = _data_type(node)
    layout = ArrayLayout(shape, dtype, chunk, itemsize)
    if (layout.chunk_bytes or math.prod(chunk)) > MAX_CHUNK_BYTES:
        raise StoreError(f"{node.where}: chunks {chunk} of {dtype} exceed {MAX_CHUNK_BYTES} bytes")
    return layout


def _check_codecs(node: Fields) -> None:
    if node.document.get("storage_transformers"):
        raise StoreError(f"{node.where}: storage transformers are not allowed")
    if node.fields("chunk_key_encoding").text("name") != "default":
        raise StoreError(f"{node.where}: the chunk key encoding must be 'default'")
    listed = node.document.get("codecs")
    names = [
        Fields(codec, node.where).text("name")
        for codec in (listed if isinstance(listed, list) else ())
    ]
    if names[:1] == ["transpose"]:
        names = names[1:]
    if len(names) != 3 or names[0] not in _SERIALIZERS or names[1:] != ["blosc", "crc32c"]:
        raise StoreError(
            f"{node.where}: codecs must be bytes, blosc, crc32c (transpose may come first), "
            f"found {names}"
        )


def _data_type(node: Fields) -> tuple[str, int | None]:
    declared = node.document.get("data_type")
    if isinstance(declared, str) and declared in _SIZES:
        return declared, _SIZES[declared]
    if isinstance(declared, str) and declared in _VARIABLE_LENGTH:
        return declared, None
    fields = node.fields("data_type")
    if fields.text("name") not in _FIXED_LENGTH:
        raise StoreError(f"{node.where}: data type {_shown(declared)} is not allowed")
    size = fields.fields("configuration").integer("length_bytes", 1, 1 << 20)
    return fields.text("name"), size


def float_dtype(text: str, where: str) -> np.dtype[Any]:
    """dtype of a decoded variable: IEEE floats of either byte order and nothing else."""
    if not re.fullmatch(r"[<>=]?f[248]|float(16|32|64)", text):
        raise StoreError(f"{where}: dtype {_shown(text)} is not a floating-point type")
    return np.dtype(text)
