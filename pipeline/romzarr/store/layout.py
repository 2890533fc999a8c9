"""The layout of coefficient stores: names, codecs, chunk shapes, and checks of metadata.

FORMAT.md describes it in prose. All metadata pass these checks before arrays are allocated or
codecs run.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import Store
from zarr.codecs import BloscCodec
from zarr.storage import LocalStore

from romzarr import objects
from romzarr.arguments import as_place
from romzarr.encoding import MAX_VARIABLES, unfit_name
from romzarr.errors import ConfigError, StorageError, StoreError, StoreReplacedError
from romzarr.store import checksums
from romzarr.store.checksums import ChecksumCodec
from romzarr.store.codec import NAME, WaveletCodec
from romzarr.store.exact import NAME as EXACT
from romzarr.store.exact import ExactCodec
from romzarr.store.limits import MAX_METADATA_BYTES, check_chunk, index_bytes, refuse_large_document
from romzarr.store.local import GENERATION as GENERATION
from romzarr.store.local import RegularFiles, refuse_irregular

Shuffle = Literal["noshuffle", "shuffle", "bitshuffle"]

FORMAT = 4
KEY = "romzarr"
OPEN_WITH = "xarray.open_dataset(STORE, engine='romzarr')"
ROOT = "zarr.json"
# The array with the fields of several variables of few points.
SHARED_FIELDS = "shared/fields"
# Chunks of plain arrays: large for a request, small for memory.
CHUNK_BYTES = 1 << 20
STAMP = re.compile(r"\d{8}T\d{6}")
_SAFE_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
# Arrays that a variable may have below basis/.
_BASIS = (
    *("episodes", "exact", "fields", "gaps", "mask", "mean", "residuals", "steady"),
    *("sum_fields", "sums", "values"),
)
# Arrays that may be in layers, ``fields_1`` and so on, and the most of these.
FIELDS = "fields"
LAYERED = ("episodes", FIELDS, "values")
MAX_LAYERS = 8
_LAYERS = tuple(f"{array}_{k}" for array in LAYERED for k in range(1, MAX_LAYERS + 1))
_CODED = re.compile(r"basis/[^/]+/(residuals|(episodes|fields|values)(_\d)?)")
_SERIALIZERS = frozenset({"bytes", "vlen-utf8", "vlen-bytes"})
_SHUFFLES: dict[Shuffle, int] = {"shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
_COMPRESSORS = (["blosc", checksums.NAME], [checksums.NAME])
_VARIABLE_LENGTH = frozenset({"string", "variable_length_bytes"})
_FIXED_LENGTH = frozenset({"fixed_length_utf32", "null_terminated_bytes", "raw_bytes"})
_SIZES = {
    **{f"{kind}{8 * size}": size for kind in ("int", "uint") for size in (1, 2, 4, 8)},
    **{f"float{8 * size}": size for size in (2, 4, 8)},
    **{"bool": 1, "complex64": 8, "complex128": 16},
}


def codecs(shuffle: Shuffle = "shuffle", level: int = 5) -> tuple[BytesBytesCodec, ...]:
    """Return the codecs of a chunk: shuffle of bytes or bits, zstd, and checksum."""
    return BloscCodec(cname="zstd", clevel=level, shuffle=shuffle), ChecksumCodec()


def codecs_for(values: NDArray[Any]) -> tuple[BytesBytesCodec, ...]:
    """Choose the codecs that make `values` smallest, including their metadata."""
    if values.dtype.kind not in "biufc" or values.nbytes > CHUNK_BYTES:
        return codecs()
    content = np.ascontiguousarray(values)
    sizes: dict[Shuffle, int] = {
        name: len(Blosc("zstd", 5, number).encode(content)) for name, number in _SHUFFLES.items()
    }
    best = min(sizes, key=lambda name: sizes[name])
    blosc, crc = codecs(best)
    saved = values.nbytes - sizes[best]
    return (blosc, crc) if saved > len(compact_json(blosc.to_dict())) else (crc,)


def is_local(url: str) -> bool:
    return "://" not in url


def normalised(target: str | os.PathLike[str], name: str = "store") -> str:
    """Return the absolute path (links resolved) or URL of `target`, without a trailing slash.

    `name` is the name of the argument in messages.
    """
    url = as_place(target, name).removeprefix("file://")
    try:
        urlsplit(url)
    # Not shown: an invalid URL may contain a secret that cannot be located.
    except ValueError as error:
        raise ConfigError(f"{name}: invalid URL: {error}") from error
    return os.path.realpath(os.path.expanduser(url)) if is_local(url) else url.rstrip("/")


def joined(url: str, *parts: str) -> str:
    return "/".join((url, *parts))


def zarr_store(url: str, read_only: bool = True) -> Store:
    """Open the Zarr store at `url` with the credentials of this process."""
    if is_local(url):
        return RegularFiles(url, read_only=True) if read_only else LocalStore(url)
    return objects.zarr_store(url, read_only)


def read_bytes(url: str, limit: int = MAX_METADATA_BYTES) -> bytes:
    """Read a small file, local or remote.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    StoreError
        If it is larger than `limit` or cannot be read.
    StorageError
        If storage does not answer or refuses access.
    """
    place, _, name = url.rpartition("/")
    if is_local(url):
        refuse_irregular(url)
    try:
        content = objects.folder(place).read(name, limit).content
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(url) from error
    except OSError as error:
        raise StoreError(f"{url}: cannot be read: {error}") from error
    if len(content) > limit:
        raise StoreError(f"{url}: more than {limit} bytes of metadata; not a romzarr store")
    return content


def compact_json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def since_first(times: NDArray[Any]) -> NDArray[np.float64]:
    """Subtract the first time; integers are subtracted exactly before they are rounded."""
    return (times - times[0]).astype(np.float64)


def segment(name: str, taken: Sequence[str]) -> str:
    """Make a path segment for variable `name`: the name itself if all file systems allow it."""
    clash = {"singular_values", *(other.casefold() for other in taken)}
    if _SAFE_SEGMENT.fullmatch(name) and name.casefold() not in clash:
        return name
    return next(s for i in range(len(clash) + 1) if (s := f"variable-{i}") not in clash)


# --- checked metadata ---------------------------------------------------------------------


class OtherFormatError(StoreError):
    """A romzarr store of a format that this version cannot read."""


class Part(NamedTuple):
    """A current generation, and the checksum of its metadata."""

    generation: str
    checksum: str


class Superseded(NamedTuple):
    """A superseded generation, and the time of its replacement (`STAMP`, UTC)."""

    generation: str
    since: str


class Root(NamedTuple):
    """The root metadata: current generations in the order of time, and superseded ones that may
    still exist for readers that opened them."""

    parts: tuple[Part, ...]
    superseded: tuple[Superseded, ...] = ()

    @property
    def generations(self) -> frozenset[str]:
        """Names of the current generations."""
        return frozenset(part.generation for part in self.parts)

    @property
    def named(self) -> frozenset[str]:
        """Names of the current and superseded generations."""
        return self.generations | {each.generation for each in self.superseded}


@dataclass(frozen=True)
class ArrayLayout:
    """The layout of an array, as its metadata claim.

    ``itemsize`` is None for variable-length strings. Chunks are ``coded`` by wavelets, or
    ``compressed`` by Blosc from ``packed_itemsize`` bytes per value, or neither. ``index`` bounds
    the bytes that xarray takes to open it (`romzarr.store.limits`).
    """

    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    itemsize: int | None
    coded: bool
    compressed: bool
    packed_itemsize: int | None
    index: int = 0

    @property
    def packed_bytes(self) -> int | None:
        """Bytes of every chunk before Blosc; None for variable-length strings."""
        size = self.packed_itemsize
        return None if size is None else math.prod(self.chunk) * size

    @property
    def chunk_bytes(self) -> int | None:
        """Decoded bytes of every chunk; None for variable-length strings."""
        return None if self.itemsize is None else math.prod(self.chunk) * self.itemsize


class JsonObject:
    """An untrusted JSON object, with typed access to its fields."""

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

    def object(self, key: str) -> JsonObject:
        return JsonObject(self._get(key, Mapping, "a JSON object"), f"{self.where}/{key}")

    def text(self, key: str) -> str:
        value: str = self._get(key, str, "a string")
        return value

    def checksum(self, key: str) -> str:
        value = self.text(key)
        if not _is_checksum(value):
            raise StoreError(
                f"{self.where}: {key!r} must be eight hexadecimal digits, found {_shown(value)}"
            )
        return value

    def number(self, key: str) -> float:
        value = self._get(key, (int, float), "a number")
        # Integers in JSON are unbounded.
        if not abs(value) <= sys.float_info.max:
            raise StoreError(f"{self.where}: {key!r} must be finite, found {_shown(value)}")
        return float(value)

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


def order_checksum(positions: NDArray[np.int64]) -> str:
    """Compute the checksum of an order of points."""
    return checksums.checksum("order", positions.astype("<i8").tobytes())


def root_document(root: Root) -> bytes:
    """Write root metadata, with a checksum of everything else."""
    facts: dict[str, Any] = {"format": FORMAT, "parts": [list(part) for part in root.parts]}
    if root.superseded:
        facts["superseded"] = [list(each) for each in root.superseded]
    plain = compact_json(_root_group(facts))
    return compact_json(_root_group(facts | {"checksum": checksums.checksum(ROOT, plain)}))


def _root_group(facts: Any) -> dict[str, Any]:
    """Make the root group; an attribute tells readers with plain Zarr how to open the store."""
    group = group_document(facts)
    return group | {"attributes": {"open_with": OPEN_WITH, **group["attributes"]}}


def parse_root(raw: bytes, url: str) -> Root:
    """Parse the root metadata of a store.

    Raises
    ------
    StoreError
        If this is not a romzarr store, has another format, or any byte has changed.
    """
    document = parsed_json(raw, joined(url, ROOT))
    try:
        node = JsonObject(document, url)
        facts = node.object("attributes").object(KEY)
        node.integer("zarr_format", 3, 3)
        if node.text("node_type") != "group":
            raise StoreError(f"{url}: is not a group")
    except StoreError as error:
        raise StoreError(
            f"{url}: not a romzarr store, which is a Zarr group with an attribute {KEY!r}"
        ) from error
    version = facts.integer("format", 1, 1 << 31)
    if version != FORMAT:
        raise OtherFormatError(
            f"{url}: written in format {version}, this romzarr reads format {FORMAT}; use "
            f"{'a newer' if version > FORMAT else 'an older'} romzarr, or compress anew"
        )
    parts = tuple(Part(*each) for each in _pairs(facts, "parts", _is_checksum, url))
    superseded = _pairs(facts, "superseded", _is_stamp, url) if "superseded" in facts else ()
    root = Root(parts, tuple(Superseded(*each) for each in superseded))
    # Compare every byte: an older list of generations would be a valid store.
    if not parts or raw != root_document(root):
        raise StoreError(
            f"{joined(url, ROOT)}: is damaged, or was not written by romzarr (wrong checksum)"
        )
    return root


def _pairs(
    facts: JsonObject, key: str, is_second: Callable[[Any], bool], url: str
) -> tuple[list[Any], ...]:
    """Parse pairs of a unique generation and something else."""
    given = facts.document.get(key)
    listed: list[Any] = given if isinstance(given, list) else [given]
    for each in listed:
        valid = isinstance(each, list) and len(each) == 2 and isinstance(each[0], str)
        if not valid or not GENERATION.fullmatch(each[0]) or not is_second(each[1]):
            raise StoreError(f"{url}: {key!r}: {_shown(each)} does not name a generation")
    if len({name for name, _ in listed}) < len(listed):
        raise StoreError(f"{url}: {key!r} lists a generation twice")
    return tuple(listed)


def _is_checksum(value: Any) -> bool:
    return isinstance(value, str) and checksums.PATTERN.fullmatch(value) is not None


def _is_stamp(value: Any) -> bool:
    return isinstance(value, str) and STAMP.fullmatch(value) is not None


def missing(url: str, generation: str, where: str, root: bytes | None) -> StoreError:
    """Make the error for a missing file of a generation.

    Parameters
    ----------
    url : str
        The store.
    generation : str
    where : str
        The file.
    root : bytes, optional
        The current root metadata; None if there are none.
    """
    try:
        named = root is not None and generation in parse_root(root, url).generations
    except StoreError:
        # The current generations are unknown.
        named = True
    if named:
        return StoreError(f"{where}: is missing; the store is damaged")
    return StoreReplacedError(
        f"{url}: the store was replaced since it was opened, and the old one is no longer kept; "
        "open it again"
    )


def read_root(url: str) -> bytes | None:
    """Read the current root metadata of the store at `url`; None if there are none."""
    try:
        return read_bytes(joined(url, ROOT))
    except FileNotFoundError:
        return None


def current_root(url: str) -> Root:
    """Read and parse the current root metadata of the store at `url`.

    Raises
    ------
    StoreError
        If there is no store, or its root metadata are damaged or of an unknown format.
    """
    raw = read_root(url)
    if raw is None:
        raise StoreError(f"{url}: there is no romzarr store")
    return parse_root(raw, url)


def array_paths(facts: JsonObject) -> list[str]:
    """List the arrays that a generation may have, by what is known of its variables.

    Raises
    ------
    StoreError
        If a name is not allowed as a path.
    """
    variables = facts.object("variables")
    groups = [group_of(name, variables.object(name)) for name in variables]
    for group in groups:
        if segment(group, ()) != group:
            raise StoreError(f"{variables.where}: {_shown(group)} is not allowed as a group")
    carried = list(facts.object("carried"))
    for name in [*variables, *carried]:
        if why := unfit_name(name):
            raise StoreError(f"{facts.where}: variable name {_shown(name)} {why}")
    if len(groups) + len(carried) > MAX_VARIABLES or len(set(groups)) < len(groups):
        raise StoreError(
            f"{facts.where}: {len(groups) + len(carried)} variables in {len(set(groups))} groups; "
            f"allowed are {MAX_VARIABLES} variables, and one group for each coded variable"
        )
    return [
        "basis/singular_values",
        SHARED_FIELDS,
        *(f"basis/{group}/{array}" for group in groups for array in (*_BASIS, *_LAYERS)),
        *(f"latent/{array}" for array in ("steps", "samples", "corrections")),
        *(f"latent/{array}" for array in ("block_model", "times")),
        *(f"coordinates/{name}" for name in carried),
    ]


def plain_paths(facts: JsonObject) -> list[str]:
    """List the arrays that a generation may have and that wavelets do not code."""
    return [path for path in array_paths(facts) if not is_coded(path)]


def group_of(name: str, variable: JsonObject) -> str:
    """Return the group of variable `name`, which is named after it if nothing else is said."""
    return variable.text("group") if "group" in variable.document else name


def layer(path: str, number: int) -> str:
    """Return the path of a layer, from 1 on, of the array at `path`."""
    return f"{path}_{number}"


def is_coded(path: str) -> bool:
    """Tell whether the array at `path` of a generation is coded by wavelets."""
    if path in ("latent/samples", "latent/corrections", SHARED_FIELDS):
        return True
    return _CODED.fullmatch(path) is not None


def parse_array(node: JsonObject, coded: bool) -> ArrayLayout:
    """Check the metadata of an array, `coded` or not.

    Raises
    ------
    StoreError
        If anything is missing, has the wrong type, is not allowed or too large.
    """
    if node.text("node_type") != "array":
        raise StoreError(f"{node.where}: is not an array")
    return _array_layout(node, coded)


def group_document(facts: Any = None) -> dict[str, Any]:
    """Make the metadata of a group, with `facts` as our attribute."""
    group: dict[str, Any] = {"zarr_format": 3, "node_type": "group"}
    return group if facts is None else group | {"attributes": {KEY: facts}}


def consolidated_group(arrays: Mapping[str, Any], facts: Any = None) -> dict[str, Any]:
    """Make the metadata of a group with those of all arrays below it, by path."""
    parents = {path.rpartition("/")[0] for path in arrays}
    parents |= {parent.rpartition("/")[0] for parent in parents}
    nodes = {parent: group_document() for parent in parents - {""}} | dict(arrays)
    # Zarr expects the children of a group side by side.
    nodes = {path: nodes[path] for path in sorted(nodes)}
    inline = {"kind": "inline", "must_understand": False, "metadata": nodes}
    return group_document(facts) | {"consolidated_metadata": inline}


def parsed_json(raw: bytes, where: str) -> Any:
    """Parse strict JSON.

    Raises
    ------
    StoreError
        If it is not, is too large, or too deep.
    """
    refuse_large_document(raw, where)

    def refused(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        return json.loads(raw, parse_constant=refused)
    # Deep nesting exhausts the stack of the parser.
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not JSON: {error}") from error


def _array_layout(node: JsonObject, coded: bool) -> ArrayLayout:
    grid = node.object("chunk_grid")
    if grid.text("name") != "regular":
        raise StoreError(f"{node.where}: the chunk grid must be regular")
    shape, chunk = (
        node.integers("shape", 0),
        grid.object("configuration").integers("chunk_shape", 1),
    )
    if len(shape) != len(chunk):
        raise StoreError(f"{node.where}: chunks {chunk} do not fit shape {shape}")
    dtype, itemsize = _data_type(node)
    names, packed = _check_codecs(node, chunk, dtype, coded)
    if "blosc" not in names and not coded and itemsize is None:
        raise StoreError(f"{node.where}: variable-length strings must be compressed")
    compressed = "blosc" in names
    eager = index_bytes(node.document, node.where, shape, math.prod(chunk), itemsize)
    layout = ArrayLayout(
        shape, dtype, chunk, itemsize, coded, compressed, packed or itemsize, eager
    )
    check_chunk(chunk, layout.chunk_bytes, coded, "/latent/" in node.where, node.where)
    return layout


def _check_codecs(
    node: JsonObject, chunk: tuple[int, ...], dtype: str, coded: bool
) -> tuple[list[str], int | None]:
    """Check the codecs; return their names, and the itemsize of packed integers, if any."""
    if node.document.get("storage_transformers"):
        raise StoreError(f"{node.where}: storage transformers are not allowed")
    if node.object("chunk_key_encoding").text("name") != "default":
        raise StoreError(f"{node.where}: the chunk key encoding must be 'default'")
    listed = node.document.get("codecs")
    codecs = [JsonObject(c, node.where) for c in (listed if isinstance(listed, list) else ())]
    names = [codec.text("name") for codec in codecs]
    if coded and names != [NAME, checksums.NAME]:
        raise StoreError(f"{node.where}: codecs must be {NAME}, {checksums.NAME}; found {names}")
    if coded or names == [EXACT, "blosc", checksums.NAME]:
        kind = WaveletCodec if coded else ExactCodec
        native = np.dtype(dtype if dtype in _SIZES else "O")
        try:
            codec = kind.from_dict(dict(codecs[0].document))
            codec.check(chunk, native)
        except ValueError as error:
            raise StoreError(f"{node.where}: {error}") from error
        return names, codec.itemsize(native) if isinstance(codec, ExactCodec) else None
    if names[:1] == [] or names[0] not in _SERIALIZERS or names[1:] not in _COMPRESSORS:
        raise StoreError(
            f"{node.where}: codecs must be bytes, optionally blosc, and {checksums.NAME}; found "
            f"{names}"
        )
    return names, None


def _data_type(node: JsonObject) -> tuple[str, int | None]:
    declared = node.document.get("data_type")
    if isinstance(declared, str) and declared in _SIZES:
        return declared, _SIZES[declared]
    if isinstance(declared, str) and declared in _VARIABLE_LENGTH:
        return declared, None
    fields = node.object("data_type")
    if fields.text("name") not in _FIXED_LENGTH:
        raise StoreError(f"{node.where}: data type {_shown(declared)} is not allowed")
    size = fields.object("configuration").integer("length_bytes", 1, 1 << 20)
    return fields.text("name"), size


def float_dtype(text: str, where: str) -> np.dtype[Any]:
    """Parse the dtype of a decoded variable: an IEEE float of either byte order."""
    if not re.fullmatch(r"[<>=]?f[248]|float(16|32|64)", text):
        raise StoreError(f"{where}: dtype {_shown(text)} is not a floating-point type")
    return np.dtype(text)


# What stands in gaps by code, where nothing is said of it.
MISSING = {"1": "nan"}
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def special_to_json(value: float) -> float | str:
    """Return the JSON form of a value that stands in a gap."""
    return value if math.isfinite(value) else str(value)


def special_from_json(value: Any, where: str) -> float:
    """Parse a value that stands in a gap.

    Raises
    ------
    StoreError
    """
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if type(value) not in (int, float) or not abs(value) < math.inf:
        raise StoreError(
            f"{where}: a special value must be a number, 'nan', 'inf' or '-inf', found "
            f"{_shown(value)}"
        )
    return float(value)
