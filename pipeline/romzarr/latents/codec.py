"""A codec of activations: a product, rounding with steps that were chosen before, and a table.

It is calibrated once (`romzarr.latents.calibration`). Running it searches for nothing and keeps
nothing: equal tokens in equal blocks give equal bytes.

References
----------
.. [1] K. Staniszewski, A. Lancucki, "KV cache transform coding for compact storage in LLM
   inference", arXiv:2511.01815: principal directions, bits by importance, entropy coding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from romzarr.arguments import is_number, shown, wrong_type
from romzarr.coding import coordinates, products
from romzarr.coding.coordinates import Tables
from romzarr.coding.products import IntegerDirections
from romzarr.errors import ConfigError, StoreError
from romzarr.latents.arrays import Precision, as_values, check_type, like, precision_of
from romzarr.latents.files import Kind, Saved

Values = NDArray[np.float32]

_TABLES = ("steps", "rounding", "offsets", "classes", "shifts", "frequencies")


@dataclass(frozen=True, eq=False)
class Codes:
    """What `Codec.encode` made of tokens.

    Attributes
    ----------
    payload : ndarray of uint8
    tokens : int
    finer : int
        How often the steps were halved to keep a bound; -1 if the payload is the values
        themselves, in float32.
    """

    payload: NDArray[np.uint8]
    tokens: int
    finer: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the payload, and two that say how it was made."""
        return len(self.payload) + 2


@dataclass(frozen=True, eq=False)
class Codec(Saved):
    """Tokens of `features` values to bytes and back.

    `romzarr.latents.calibrate` makes one. A codec may be used by several threads.

    Attributes
    ----------
    mean : ndarray of float32 (features,)
    forward : ndarray of float32 (directions, features)
        Coordinates are ``(x - mean) @ forward.T``, and tokens
        ``mean + coordinates @ forward / metric``.
    metric : ndarray of float32 (features,)
        In which the directions are orthonormal: ``forward / metric @ forward.T`` is one.
    tables : Tables
    model : str
        Fingerprint of the model whose activations it was calibrated with.
    """

    kind = Kind.CODEC

    mean: Values
    forward: Values
    metric: Values
    tables: Tables
    model: str = ""

    @property
    def features(self) -> int:
        return len(self.mean)

    @property
    def nbytes(self) -> int:
        """Bytes of the calibration in memory."""
        arrays = (self.mean, self.forward, self.metric, *vars(self.tables).values())
        return self._directions.nbytes + sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))

    def encode(self, x: Any, *, bound: float | None = None) -> Codes:
        """Code tokens.

        Parameters
        ----------
        x : array (tokens, features)
            Of NumPy, JAX or torch; float16, bfloat16 or float32.
        bound : float, optional
            Largest L2 error of all tokens together, relative to their distance from the mean of
            the calibration, after rounding to the type of `x`. Steps are halved until it is kept,
            and where no step keeps it the values are stored as they are.

        Raises
        ------
        ConfigError
            If `x` has another number of features, or `bound` is not positive.
        GapsError
            If a value is not finite.
        """
        values = as_values(x, "x", (None, self.features))
        if bound is None:
            return self.encode_values(values)
        return self.encode_within(values, as_bound(bound), precision_of(x))

    def decode(self, codes: Codes, *, like: Any = None) -> Any:
        """Decode tokens (codes.tokens, features), in float32 of NumPy.

        Parameters
        ----------
        codes : Codes
            Made by this codec, or by one that was loaded from the same file.
        like : array, optional
            The result is of its framework, type and device.

        Raises
        ------
        ConfigError
            If `like` is not of floating-point numbers.
        """
        if not isinstance(codes, Codes):
            raise wrong_type("codes", codes, "what encode() returned")
        if like is not None:
            check_type(like, "like")
        values = self.decode_values([codes])
        return values if like is None else _like(values, like)

    def encode_values(self, values: Values, finer: int = 0) -> Codes:
        """Code tokens that are known to be finite float32 numbers of the right shape."""
        found = self.forward @ (values - self.mean).T
        return Codes(coordinates.encode(found, self.tables, finer), len(values), finer)

    def decode_values(self, codes: Sequence[Codes], features: slice = slice(None)) -> Values:
        """Decode some features of all tokens of several codes, one after the other.

        In integers where codes are of small ones, with steps as they were calibrated, and in
        floating-point numbers where not. One product for all of them: of short ones, most of the
        time would go to reading the directions again.
        """
        are_wide = np.array([each.finer != 0 for each in codes])
        narrow = [each for each in codes if each.finer == 0]
        levels, are_beyond = coordinates.decode_levels(
            [each.payload for each in narrow],
            [each.tokens for each in narrow],
            self.tables,
        )
        are_wide[~are_wide] = are_beyond
        if are_wide.all():
            return self._in_floats(codes, features)
        tokens = sum(each.tokens for each in narrow)
        found = products.expand(levels, tokens, self._directions, self.mean, features)
        if not are_wide.any():
            return found
        wide = [each for each, is_wide in zip(codes, are_wide, strict=True) if is_wide]
        rows = np.repeat(are_wide, [each.tokens for each in codes])
        decoded = np.empty((len(rows), found.shape[1]), np.float32)
        decoded[rows] = self._in_floats(wide, features)
        decoded[~rows] = found[~np.repeat(are_beyond, [each.tokens for each in narrow])]
        return decoded

    @cached_property
    def _directions(self) -> IntegerDirections:
        inverse = self.forward / self.metric
        return IntegerDirections.of(inverse, self.tables.steps, self.tables.most_levels)

    def _in_floats(self, codes: Sequence[Codes], features: slice) -> Values:
        coded = [each for each in codes if each.finer >= 0]
        ends = np.cumsum([each.tokens for each in coded])
        parts = iter(np.split(self._product(coded, features), ends[:-1]) if coded else ())
        return np.concatenate(
            [
                next(parts)
                if each.finer >= 0
                else each.payload.view(np.float32).reshape(each.tokens, -1)[:, features]
                for each in codes
            ]
        )

    def _product(self, codes: Sequence[Codes], features: slice) -> Values:
        found = [coordinates.decode(c.payload, c.tokens, self.tables, c.finer) for c in codes]
        decoded: Values = np.concatenate(found, axis=1).T @ self.forward[:, features]
        # In place: each would take another array.
        decoded /= self.metric[features]
        decoded += self.mean[features]
        return decoded

    def encode_within(self, values: Values, bound: float, precision: Precision) -> Codes:
        """Code such tokens within a bound, which they keep when they are rounded to their type."""
        limit = bound * _norm(values, self.mean)
        # Turned by a position, a pair of features may have all of its size in one.
        largest = precision.largest / 2**0.5
        for finer in range(self.tables.finest + 1):
            codes = self.encode_values(values, finer)
            decoded = self.decode_values([codes])
            rounding = (
                precision.relative * _norm(decoded, 0) + precision.absolute * values.size**0.5
            )
            is_finite = np.abs(decoded).max(initial=0) <= largest
            if is_finite and _norm(decoded, values) + rounding <= limit:
                return codes
            if codes.nbytes >= values.nbytes:
                break
        return Codes(np.ascontiguousarray(values).view(np.uint8).ravel().copy(), len(values), -1)

    def content(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and facts, for a file."""
        return self.arrays(), {"model": self.model}

    @classmethod
    def of_content(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Codec:
        """What `content` told; raises a `StoreError` if arrays are missing or disagree."""
        return cls.of_arrays(arrays, "", str(facts["model"]))

    def arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """All that has to be kept, by names with a prefix."""
        found = {"mean": self.mean, "forward": self.forward, "metric": self.metric}
        found |= {name: getattr(self.tables, name) for name in _TABLES}
        return {prefix + name: array for name, array in found.items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str, model: str) -> Codec:
        """The codec of `arrays`, after checks of all that the kernels rely on.

        Raises
        ------
        StoreError
            If something is missing or arrays disagree.
        """
        try:
            mean, forward, metric = (
                arrays[prefix + name] for name in ("mean", "forward", "metric")
            )
            tables = Tables(*(arrays[prefix + name] for name in _TABLES))
            sound = _fit(mean, forward, metric) and tables.are_sound(len(forward))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{prefix}*: the calibration lacks {shown(error)}; calibrate anew"
            ) from error
        if not sound:
            raise StoreError(f"{prefix}*: the tables of the calibration disagree; calibrate anew")
        return cls(mean, forward, metric, tables, model)


_like = like


def _norm(values: Values, others: Values | float) -> float:
    """Of a difference: in float64, for the squares of single ones may be beyond its numbers."""
    return float(np.linalg.norm(np.subtract(values, others, dtype=np.float64)))


def _fit(mean: Values, forward: Values, metric: Values) -> bool:
    return bool(
        forward.ndim == 2
        and mean.shape == metric.shape == forward.shape[1:]
        and all(a.dtype == np.float32 and np.isfinite(a).all() for a in (mean, forward, metric))
        and (metric > 0).all()
    )


def as_bound(bound: float) -> float:
    """Check a bound on a relative error."""
    if not is_number(bound) or not 0 < bound < 1:
        raise ConfigError(
            f"bound: found {shown(bound)}, allowed is a number between 0 and 1, such as 0.1"
        )
    return float(bound)
