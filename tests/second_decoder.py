"""A second decoder of stores: what the pages of the format say in NumPy, and no romzarr.

It believes what it reads and is slow: an oracle for tests, and a start for other languages. Of
models it knows polynomials; what was carried over it reads as it is, but for texts.
"""

import base64
import json
import math
import zlib
from itertools import chain, combinations_with_replacement, islice, product, repeat
from pathlib import Path

import numpy as np
from numcodecs import Blosc

F, Array = np.float32, np.ndarray

# --- payloads: pipeline/romzarr/coding/FORMAT.md ------------------------------------------

LEAST = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 25, 41, 73)
BITS = (0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 0)
NORTH, BEFORE, PARENTS, WEST = range(4)
LIFTING = (-0.443506852043971, -0.882911075530934, 0.052980118572961, 1.586134342059924)
SCALE = 1.4142135623730951 / 1.230174104914001
MEANS = [(2 ** (k // 4 + 1) * (1 + (k % 4 + 0.5) / 4) - 2) / 16 for k in range(128)]
SHIFTS = [next(k for k in range(25) if k == 24 or mean / 2**k <= 5) for mean in MEANS]
SHIFTED = [mean / 2**shift for mean, shift in zip(MEANS, SHIFTS, strict=True)]


def slot_of(chances: list, rate: float) -> Array:
    guarded = [8 * (16 - k) + each * (2**18 - 128) for k, each in enumerate(chances, 1)]
    return np.array([2**18, *guarded, 0, rate], F)


def guess(mean: float, seen: int) -> Array:
    powers = np.cumprod(np.full(73, max(mean, 0.02) / (1 + max(mean, 0.02))))
    return slot_of([powers[least - 1] for least in LEAST[1:]], 1 / (seen + 1.6))


def first_slot(level: int, near: int) -> Array:
    other = SHIFTED[level] if SHIFTS[level] else (1.5 * 4 * 2**near - 4) / 16
    return guess(0.75 * SHIFTED[level] + 0.25 * other, 24)


TARGETS = [slot_of([k <= symbol for k in range(1, 16)], 1 / 401.6) for symbol in range(16)]
SLOTS = np.array([[first_slot(level, near) for near in range(8)] for level in range(128)])
BAND = np.array([guess(mean, 8) for mean in (*SHIFTED[2:48:4], 0.2)])


def counters(number: int, chance: float, seen: int) -> list[list[int]]:
    return [[int(chance * 2**22), seen] for _ in range(number)]


def reader(content: bytes):
    bits = chain("".join(f"{byte:08b}" for byte in content), repeat("0"))
    return lambda count: int("".join(islice(bits, count)) or "0", 2)


def edges_of(length: int, levels: int) -> list[int]:
    return [0, *(-(-length >> k) for k in range(levels, -1, -1))]


class Fit:
    """The weights of a kind of rows, and what they follow from."""

    def __init__(self, kind: tuple[bool, ...]) -> None:
        parents, before = kind[PARENTS] / 8, kind[BEFORE] * (8 - kind[PARENTS]) * 3 / 64
        north = kind[NORTH] * (1 - parents - before) / 2
        self.first = np.array([north, before, parents, 1 - parents - before - north], F)
        self.weights, self.shares, self.seen, self.since = self.first, np.full(13, 0.6, F), 0, 0
        # Of each feature with each feature and the sizes, by the column modulo 4.
        self.sums = np.zeros((4, 5, 1, 4), F)

    def learn(self, features: Array, sizes: Array, gradients: Array) -> None:
        moved = self.shares + F(0.04) * gradients * self.shares * (1 - self.shares)
        self.shares = np.clip(moved, F(0.02), 1 - F(0.02))
        fours = np.pad([*features, 16 * sizes.astype(F)], ((0, 0), (0, -len(sizes) % 4)))
        off = sum(self.weights[:, None] * fours[:4], np.full_like(fours[0], 16))
        added = ((1 / (off * off) * fours[:4])[:, None] * fours).reshape(4, 5, -1, 4)
        self.sums = np.add.accumulate(np.concatenate([self.sums, added], 2), 2)[:, :, -1:]
        self.seen, self.since = self.seen + len(sizes), self.since + len(sizes)
        if self.since >= 128:
            self.solve()
            if self.seen >= 1500:
                self.seen, self.sums = self.seen // 2, self.sums / 2

    def solve(self) -> None:
        rows = (self.sums[:, :, 0, ::2] + self.sums[:, :, 0, 1::2]).sum(-1).astype(float)
        rows[:, :4] = np.triu(rows[:, :4]) + np.triu(rows[:, :4], 1).T + 20 * np.eye(4)
        rows[:, 4] += 20 * self.first.astype(float)
        for k, below in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
            rows[below] -= rows[below, k] / rows[k, k] * rows[k]
        self.since, self.weights = 0, np.zeros(4, F)
        for k in (3, 2, 1, 0):
            known = rows[k, k + 1 : 4] * self.weights[k + 1 :].astype(float)
            self.weights[k] = np.clip(np.subtract.reduce([rows[k, 4], *known]) / rows[k, k], 0, 4)


class Payload:
    """The integers of a payload. The first axis of the array is all that have no levels."""

    def __init__(self, content: bytes, shape: list[int], levels: list[int], wide: bool) -> None:
        self.front, self.plain, self.wide = reader(content), reader(content[::-1]), wide
        self.range, self.code = 2**32 - 1, self.front(32)
        self.edges = [edges_of(n, k) for n, k in zip(shape[1:], levels, strict=True)]
        self.array, self.known = np.zeros(shape, np.int64), np.zeros(shape, np.uint32)
        self.fits = {kind: Fit(kind) for kind in product([False, True], repeat=3)}
        self.slots, self.ends, self.alive = SLOTS.copy(), guess(0.2, 8), {}
        self.digits, self.places, self.flags = map(counters, (60, 16, 24), (0.5,) * 3, (2, 6, 1))
        for scales in sorted(product(*(range(len(edges) - 1) for edges in self.edges)), key=sum):
            self.read_band(scales)

    def narrow(self, start: int, stop: int) -> None:
        shift = 32 - (stop - start).bit_length()
        self.range, self.code = stop - start << shift, self.code - start << shift
        self.code += self.front(shift)

    def bit(self, counter: list[int]) -> int:
        estimate, seen = counter
        middle = (self.range >> 18) * min(max(estimate >> 4, 8), 2**18 - 8)
        found = int(self.code < middle)
        self.narrow(*((0, middle) if found else (middle, self.range)))
        move = ((2**22 - 1) * found - estimate) * int(2**16 / (seen + 1.6)) >> 16
        counter[:] = estimate + move, min(seen + 1, 400)
        return found

    def symbol(self, first: Array, second: Array, share: F) -> tuple[int, F]:
        """A symbol, and the gradient of the share."""
        edges = (second + share * (first - second)).astype(int) * (self.range >> 18)
        found = int((edges[1:17] > self.code).sum())
        self.narrow(int(edges[found + 1]), int(edges[found]) if found else self.range)
        one, other = first[found] - first[found + 1], second[found] - second[found + 1]
        for slot in (first, second):
            slot += slot[17] * (TARGETS[found] - slot)
        return found, (one - other) / (other + share * (one - other))

    def read_band(self, scales: tuple[int, ...]) -> None:
        edges = [each[s : s + 2] for each, s in zip(self.edges, scales, strict=True)]
        self.spans, every = [(0, len(self.array)), *edges], list(enumerate(scales))
        self.parents = [(k, (*scales[:k], s - 1, *scales[k + 1 :])) for k, s in every if s >= 2]
        self.band, self.runs = BAND.copy(), counters(4, 0.9, 3)
        self.alive[scales] = alive = [0] * len(self.array)
        rows, columns = list(product(*(range(*span) for span in edges[:-1]))), np.arange(*edges[-1])
        for outer in range(len(alive) if len(rows) * len(columns) else 0):
            above = [self.alive[each][outer] for _, each in self.parents]
            context = 8 * (alive[outer - 1] if outer else 2) + bool(above) + min(sum(above), 6)
            alive[outer] = self.bit(self.flags[context])
            for index in rows if alive[outer] else ():
                self.read_row((outer, *index, columns))

    def at(self, index: tuple, axis: int, by: int) -> Array:
        """Sizes beside those at an index, or these where the band ends."""
        place = np.clip(index[axis] + by, self.spans[axis][0], self.spans[axis][1] - 1)
        return self.known[(*index[:axis], place, *index[axis + 1 :])]

    def sums(self, index: tuple) -> list[list[Array]]:
        """What the first three features of a row are sums of."""
        north, planes, parents, last = [], [], [], len(index) - 2
        for axis in (k for k in range(last + 1) if index[k] > self.spans[k][0]):
            there = (*index[:axis], index[axis] - 1, *index[axis + 1 :])
            row, far = self.known[there], self.at(there, axis, -1 if axis else 0)
            sides = self.at(there, last + 1, -1) + self.at(there, last + 1, 1)
            if axis == last > 0:
                north = [3 * row + far + 2 * sides]
            else:
                around = sum(self.at(there, last, by) if last else row for by in (-1, 1))
                planes.append(2 * (row + far) + around + sides)
        for k, scales in self.parents:
            start, stop = self.edges[k][scales[k] : scales[k] + 2]
            half = np.minimum(start + (index[k + 1] - stop) // 2, stop - 1)
            parents.append(self.known[(*index[: k + 1], half, *index[k + 2 :])])
        return [north, planes, parents]

    def read_row(self, index: tuple) -> None:
        width, sums = len(index[-1]), self.sums(index)
        fit, gradients = self.fits[tuple(map(bool, sums))], np.zeros(13, F)
        totals = np.array([sum(each, np.zeros(width, np.uint32)) for each in [*sums, []]])
        scales = [2, F(2) / (len(sums[BEFORE]) or 1), F(8) / (len(sums[PARENTS]) or 1), 0]
        features, w = (totals & 2**31 - 1).astype(F) * np.array(scales, F)[:, None], fit.weights
        expected = np.add.accumulate(features[:WEST] * w[:WEST, None])[-1]
        groups = np.minimum((features[BEFORE] + 4).view(np.int32) >> 23, 136) - 129
        left, empty = next((features[k, 0] for k in range(3) if sums[k]), F(16)), ~totals.any(0)
        found, sizes, x, history = np.zeros(width, np.int64), np.zeros(width, np.int64), 0, 0
        while x < width:
            run = x % 16 == 0 and x + 16 <= width and not sizes[max(0, x - 2) : x].any()
            if run := run and empty[x : x + 16].all():
                zeros = self.zeros(self.runs[history])
                left, x, history = F(left * (not zeros)), x + zeros, 2 * history + (zeros < 16) & 3
                if zeros == 16:
                    continue
                group, shift, slot = 12, 0, self.ends
            else:
                level = min(int((expected[x] + w[WEST] * left + 2).view(np.int32) >> 21) - 512, 127)
                group, shift = min(level // 4, 11), SHIFTS[level]
                slot = self.slots[level, groups[x]]
            features[WEST, x] = left
            symbol, gradient = self.symbol(slot, self.band[group], fit.shares[group])
            gradients[group] += gradient
            found[x] = self.integer(symbol + run, shift)
            sizes[x] = min(abs(found[x]), 2**22)
            left, x = F(12 * sizes[x] + 4 * sizes[max(x - 1, 0)]), x + 1
        self.array[index], self.known[index] = found, sizes if self.wide else np.abs(found)
        fit.learn(features, sizes, gradients)

    def zeros(self, run: list[int]) -> int:
        """How many zeros the next 16 integers begin with."""
        node = 32 if self.bit(run) else 1
        while node < 16:
            node = 2 * node + self.bit(self.places[node])
        return node - 16

    def integer(self, symbol: int, shift: int) -> int:
        size = LEAST[symbol]
        if symbol == 15:
            digits = next((k for k in range(60) if not self.bit(self.digits[k])), 60)
            size += 2**digits - 1 + self.plain(digits)
        size = (size << shift) + self.plain(BITS[symbol] + shift)
        return -size if size and self.plain(1) else size


def integers_of(content: bytes, shape, levels, wide: bool) -> Array:
    """The integers of a payload without its head, as int64; `wide` if they have 64 bits."""
    inner = [axis for axis, count in enumerate(levels) if count or not any(levels)]
    order = [*(axis for axis in range(len(shape)) if axis not in inner), *inner]
    lengths, first = [shape[axis] for axis in order], len(order) - len(inner)
    whole = [math.prod(lengths[:first]), *(lengths[first:] or [1])]
    found = Payload(content, whole, [levels[axis] for axis in inner] or [0], wide).array
    return found.reshape(lengths).transpose(np.argsort(order))


def values_of(layers: list[bytes], shape, dtype, step: list, levels, differences=()) -> Array:
    """The values of a chunk coded by `romzarr.wavelet`, in layers or in a single one."""
    values = np.zeros(shape)
    for content, unit in zip(layers, step, strict=True):
        head = 2 + bool(content[0] & 2)
        own = unit * ((content[2] + 32) / 128) if head == 3 else unit
        integers = np.rint(values / own).astype(np.int64)
        if len(content) > head:
            integers += integers_of(content[head:], shape, levels, bool(content[0] & 1))
        beyond, sizes = [0, (content[0] >> 2) / 64 - 0.5, content[1] / 256 - 0.5], np.abs(integers)
        values = np.copysign((sizes + np.choose(np.minimum(sizes, 2), beyond)) * own, integers)
    values = values.astype(dtype) + 0
    for axis, count in enumerate(levels):
        undo_wavelets(np.moveaxis(values, axis, 0), count)
    for column, order in enumerate(differences):
        for k in range(order, 0, -1):
            integers[k - 1 :, column] = np.cumsum(integers[k - 1 :, column])
            values[:, column] = own * integers[:, column]
    return values


def undo_wavelets(rows: Array, levels: int) -> None:
    """Undo the wavelet transform along the first axis, in place."""
    for length in edges_of(len(rows), levels)[2:]:
        half, some, real = (length + 1) // 2, rows[:length], rows.dtype.type
        some[::2], some[1::2] = rows[:half] * real(1 / SCALE), rows[half:length] * real(SCALE)
        for number, weight in enumerate(LIFTING):
            around = np.pad(some, [(1, 1), *[(0, 0)] * (some.ndim - 1)], "reflect")
            some[number % 2 :: 2] += real(weight) * (around[:-2] + around[2:])[number % 2 :: 2]


def exact(contents: list[bytes], shape, dtype: np.dtype, axes=(), packing=None) -> Array:
    """The values of a chunk coded by `romzarr.exact`, or, without options, by `bytes`."""
    kind = np.dtype(packing["integer"] if packing else f"u{dtype.itemsize}")
    found = np.frombuffer(contents[0], f"<u{kind.itemsize}").reshape(shape)
    found = found >> 1 ^ -(found & 1) if axes else found
    for axis in axes:
        found = np.cumsum(found, axis, found.dtype)
    if packing:
        found, missing = found.view(kind), found.view(kind) == packing["missing"]
        return np.where(missing, np.nan, found.astype(dtype) * packing["scale"] + packing["offset"])
    if axes and dtype.kind == "f":
        # Numbers above their complements have the highest bit set.
        found = np.where(found > ~found, found << 1 >> 1, ~found)
    return found.view(dtype)


def curve_order(curve: str, points: Array, pieces: int | list[int]) -> Array:
    low, bits = points.min(axis=1, keepdims=True) / 2, 62 // len(points)
    extent = (points.max(axis=1) / 2 - points.min(axis=1) / 2).max() or 1.0
    degrees = points * (57.29577951308232 if "radians" in curve else 1.0)
    index = on_cube(*degrees) if "sphere" in curve else hilbert((points / 2 - low) / extent, bits)
    lengths = pieces if isinstance(pieces, list) else [pieces] * -(-len(index) // pieces)
    return np.lexsort((index, np.repeat(np.arange(len(lengths)), lengths)[: len(index)]))


def sine(degrees: Array) -> Array:
    turned = np.mod(degrees, 360.0)
    half = np.where(turned > 180, turned - 180, turned)
    return np.where(turned > 180, -4, 4) * (half * (180 - half)) / (40500 - half * (180 - half))


def on_cube(east: Array, north: Array) -> Array:
    x, y, z = sine(north + 90.0) * sine(east + 90.0), sine(north + 90.0) * sine(east), sine(north)
    axis = np.argmax(np.abs([x, y, z]), axis=0)
    along = np.choose(axis, [x, y, z])
    face = axis + 3 * (along < 0)
    u = (np.choose(face, [y, -x, -x, z, z, -y]) / along + 1) / 2
    v = (np.choose(face, [z, z, -y, y, -x, -x]) / along + 1) / 2
    return face << 56 | hilbert(np.where(face % 2, [v, u], [u, v]), 28)


def hilbert(shares: Array, bits: int) -> Array:
    """Places along the curve of points at these shares of the length of each axis."""
    x = np.clip(np.floor(shares * 2.0**bits), 0, 2**bits - 1).astype(int)
    for bit, k in product(range(bits - 1, 0, -1), range(len(x))):
        is_set, lower = x[k] >> bit & 1 == 1, 2**bit - 1
        swapped = np.where(is_set, 0, (x[0] ^ x[k]) & lower)
        x[0] ^= np.where(is_set, lower, swapped)
        x[k] ^= swapped
    x = np.bitwise_xor.accumulate(x, axis=0)
    x ^= np.bitwise_xor.reduce([(x[-1] >> b & 1) * (2**b - 1) for b in range(1, bits)])
    return sum((e >> b & 1) << b * len(x) + k for k, e in enumerate(x[::-1]) for b in range(bits))


def rates(library: dict, equations: list, a: Array) -> Array:
    """Time derivatives of a by a polynomial model of its leading coefficients."""
    degrees, leading = range(library["degree"] + 1), range(len(equations))
    every = [each for d in degrees for each in combinations_with_replacement(leading, d)]
    theta = [math.prod(a[list(k)]) for k in every if library["interactions"] or len(set(k)) < 2]
    found = [sum(xi * theta[k] for k, xi in zip(e[::2], e[1::2], strict=True)) for e in equations]
    return np.array([*found, *np.zeros(len(a) - len(found))])


def advanced(a: Array, dt: float, substeps: int, *model) -> Array:
    """a(t) one snapshot later, by the classical Runge-Kutta method."""
    for h in [dt / substeps] * substeps:
        k1 = rates(*model, a)
        k2 = rates(*model, a + h / 2 * k1)
        k3 = rates(*model, a + h / 2 * k2)
        a = a + h / 6 * (k1 + rates(*model, a + h * k3)) + h / 3 * (k2 + k3)
    return a


# --- stores: pipeline/romzarr/store/FORMAT.md ---------------------------------------------

DICTIONARY = Path(__file__).parents[1] / "pipeline/romzarr/store/dictionary.txt"
ROOTS = [1.0, 1.0905077326652577, 1.189207115002721, 1.2968395546510096]
ROOTS += [1.4142135623730951, 1.5422108254079407, 1.6817928305074292, 1.8340080864093424]


def parts_of(store: Path) -> list["Part"]:
    root, parts = json.loads((store / "zarr.json").read_bytes()), {}
    for name, _ in root["attributes"]["romzarr"]["parts"]:
        parts[name] = Part(store / name, parts)
    return list(parts.values())


def decoded(store: Path) -> dict[str, Array]:
    """All variables that are coded."""
    parts = parts_of(store)
    of_one = parts[-1].facts["variables"].items()
    pieces = {name: [part.variable(name) for part in parts] for name, _ in of_one}
    return {n: np.concatenate(pieces[n], v["time_axis"], dtype=v["dtype"]) for n, v in of_one}


class Part:
    """One generation."""

    def __init__(self, folder: Path, earlier: dict[str, "Part"]) -> None:
        self.folder, self.layers, root = folder, {}, json.loads((folder / "zarr.json").read_bytes())
        self.facts = root["attributes"]["romzarr"]
        packed = base64.b85decode(self.facts["facts"])
        inflating = zlib.decompressobj(zdict=DICTIONARY.read_bytes().replace(b"\n", b""))
        decode = inflating.decompress if packed[:1] == b"x" else Blosc().decode
        self.facts |= json.loads(decode(packed))
        for field, each in self.facts.get("table", {}).items():
            for k, name in enumerate(self.facts["table"]["names"]):
                value = each["start"] + k * each["step"] if isinstance(each, dict) else each[k]
                own = self.facts.setdefault("variables", {}).setdefault(name, {})
                own |= {} if value is None else {field: value}
        self.arrays = root["consolidated_metadata"]["metadata"] | self.facts.get("inline", {})
        for path in sorted(each for each in self.arrays if each[-2:-1] == "_" and "basis" in each):
            self.layers.setdefault(path[:-2], []).append(path)
            self.arrays[path[:-2]] = self.arrays[path]
        before = earlier[self.facts["extends"]].chain if "extends" in self.facts else []
        self.chain = [*before, self]

    def array(self, path: str) -> Array:
        meta, layers = self.arrays[path], self.layers.get(path, [path])
        if chunk := meta.get("chunk"):
            return np.reshape(bytearray(Blosc().decode(base64.b64decode(chunk))), meta["shape"])
        if "codecs" not in meta:
            places = np.arange(meta.get("size", 0))
            values = meta.get("values", meta.get("start", 0) + meta.get("step", 0) * places)
            missed = np.ldexp(meta["units"], meta["exponent"]) if "units" in meta else 0
            return (np.array(values).astype(dtype := meta["data_type"]) + missed).astype(dtype)
        shape, codecs, dtype = meta["shape"], meta["codecs"], np.dtype(meta["data_type"])
        chunk, kind = meta["chunk_grid"]["configuration"]["chunk_shape"], codecs[0]["name"]
        grid = [-(-n // length) for n, length in zip(shape, chunk, strict=True)]
        whole = np.empty(np.multiply(grid, chunk), dtype)
        options = {} if kind == "bytes" else dict(codecs[0]["configuration"])
        if kind == "romzarr.wavelet":
            options["step"] = [self.arrays[e]["codecs"][0]["configuration"]["step"] for e in layers]
        for index in np.ndindex(*grid):
            # The last four bytes are a checksum.
            place = "/".join(["c", *map(str, index)])
            files = [(self.folder / each / place).read_bytes()[:-4] for each in layers]
            files = [Blosc().decode(files[0])] if codecs[1]["name"] == "blosc" else files
            region = tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, chunk, strict=True))
            decode = values_of if kind == "romzarr.wavelet" else exact
            whole[region] = decode(files, chunk, dtype, **options)
        return whole[tuple(slice(n) for n in shape)]

    def get(self, path: str, otherwise=None) -> Array:
        return self.array(path) if path in self.arrays else otherwise

    def coefficients(self) -> Array:
        """a(t)."""
        facts, time, model, rows = *map(self.facts.get, ("latent", "time", "model")), []
        corrections = self.get("latent/corrections", np.zeros((facts["snapshots"], 1)))
        if "latent/steps" not in self.arrays:
            return corrections
        kept, samples = self.array("latent/steps").cumsum(dtype=int), self.array("latent/samples")
        path = f"coordinates/{time['dim']}" if time.get("scale") else "latent/times"
        times = self.array(path) if time["step"] is None else np.arange(facts["snapshots"])
        times = (time["step"] or time.get("scale") or 1.0) * (times - times[0]).astype(float)
        number = self.get("latent/block_model", [0 if model.get("decodes") else -1] * len(times))
        for i, j, start, end in zip(kept, kept[1:], samples, samples[1:], strict=False):
            serves, path = number[i // facts["block_steps"]], [start]
            law = (model["library"], model["terms"][serves]) if serves >= 0 else None
            for dt in np.diff(times[i : j + 1]):
                path.append(advanced(path[-1], dt, facts["substeps"], *law) if law else path[-1])
            shares = (times[i:j] - times[i]) / (times[j] - times[i])
            rows += [*(path[:-1] + shares[:, None] * (end - path[-1]))]
        return np.array([*rows, samples[-1]]) + corrections

    def sums_over_modes(self, name: str) -> Array:
        a, total, mean = self.coefficients(), 0.0, len(self.chain[0].coefficients()) ** -0.5
        for part in self.chain:
            sigma, facts = part.get("basis/singular_values", []), part.facts["variables"][name]
            weights = np.insert(a[:, : len(sigma)] / sigma, 0, mean, axis=1)
            a, mean = a[:, len(sigma) :], 0.0
            fields = part.get(f"basis/{facts.get('group', name)}/fields")
            if "column" in facts and "shared/fields" in part.arrays:
                space = np.delete(facts["shape"], facts["time_axis"])
                columns = facts["column"] + np.arange(math.prod(space)).reshape(space)
                fields = facts["step"] * part.array("shared/fields")[:, columns]
            if fields is not None:
                total = total + np.tensordot(weights.astype(fields.dtype), fields, 1).astype(float)
        return total

    def variable(self, name: str) -> Array:
        facts = self.facts["variables"][name]
        axis, dtype = facts["time_axis"], np.dtype(facts["dtype"])
        own = f"basis/{facts.get('group', name)}/"
        # Time comes first until the end.
        sizes = {facts["dims"][axis]: 0} | dict(zip(facts["dims"], facts["shape"], strict=True))
        if own + "exact" in self.arrays:
            values = np.moveaxis(self.array(own + "exact"), axis, 0)
        elif own + "mean" in self.arrays:
            values = np.broadcast_to(self.array(own + "mean"), list(sizes.values()))
        else:
            values, most = self.in_units(name, own, sizes), float(np.finfo(dtype).max)
            values = np.where(np.isfinite(values), np.clip(values, -most, most), values)
        values = values.astype(dtype)
        if gaps := facts.get("gaps"):
            special = {int(k): float(each) for k, each in gaps.get("special", {1: "nan"}).items()}
            values[np.isnan(values)] = special.get(gaps.get("masked"), np.nan)
            codes = np.zeros(values.shape, np.uint8)
            for start, length, *code in gaps.get("runs", ()):
                codes.reshape(-1)[start : start + length] = (*code, 1)[0]
            if "home" in gaps:
                codes = np.moveaxis(self.array(f"basis/{gaps['home']}/gaps"), axis, 0)
            for code, value in special.items():
                values[codes == code] = value
        for dim, how in self.facts.get("orders", {}).items():
            points = np.array([self.array(f"coordinates/{e}") for e in how["coordinates"]], float)
            places = np.argsort(curve_order(how["curve"], points, how["pieces"]))
            values = np.take(values, places, list(sizes).index(dim)) if dim in sizes else values
        return np.moveaxis(values, 0, axis)

    def in_units(self, name: str, own: str, sizes: dict[str, int]) -> Array:
        """Values in float64, before they are rounded."""
        facts, coded = self.facts["variables"][name], own + "values" in self.arrays
        alone = coded and own + "fields" not in self.arrays
        values = 0.0 if alone else self.sums_over_modes(name)
        if coded:
            values = values + (self.array(own + "values").astype(float) + facts["offset"])
        if own + "episodes" in self.arrays:
            rows = np.concatenate([np.arange(*run) for run in self.facts["episodes"]])
            values[rows] = self.array(own + "episodes").astype(float) + facts["offset"]
        for part in {self, self if alone else self.chain[0]}:
            if mask := part.facts["variables"][name].get("mask"):
                values[:, part.array(f"basis/{mask}/mask")] = np.nan
        if scaling := facts.get("scaling"):
            lengths = [n if dim in scaling["dims"] else 1 for dim, n in sizes.items()]
            whole, eighths = np.divmod(scaling["exponents"], 8)
            values = values * np.ldexp(np.array(ROOTS)[eighths], whole).reshape(lengths)
        if own + "residuals" in self.arrays:
            values = values + np.moveaxis(self.array(own + "residuals"), facts["time_axis"], 0)
        if unit := facts.get("logarithm"):
            values = np.where(abs(v := values) < 0.5, 0, np.copysign(unit * 2 ** (abs(v) - 1), v))
        if sums := facts.get("sums"):
            lengths = [1 if dim in sums["dims"] else n for dim, n in sizes.items()]
            multiples = self.array(own + "sums").astype(float).reshape(-1, *lengths)
            for each, field in zip(multiples, self.array(own + "sum_fields"), strict=True):
                values = values + each * field
        return np.where(np.isnan(steady := self.get(own + "steady", np.nan)), values, steady)
