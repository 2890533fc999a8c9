"""What `romzarr.identify` found: a Dataset, JSON, and equations to read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from romzarr.contracts import Matrix, Vector
from romzarr.numerics.dynamics.library import Library, PolynomialLibrary
from romzarr.numerics.dynamics.likelihood import first_noise, rounding
from romzarr.numerics.dynamics.shooting import Record
from romzarr.numerics.dynamics.term_selection import Selection
from romzarr.numerics.dynamics.trapping import Region

# A term is doubtful if it is less probable.
SURE = 0.9
# A term is printed with its probability if that rounds to less than this.
SHOWN_SURE = 0.99
# Powers of ten of coefficients that are written without one.
PLAIN = (-4, 6)
# Samples for each term of an equation that make it more than an interpolation of the record.
SAMPLES_PER_TERM = 5
# Where noise, or what looks like it from sample to sample, is more than half of what changes.
MOSTLY_NOISE = 0.5


def described(
    found: Selection,
    records: Sequence[Record],
    library: Library,
    names: tuple[str, ...],
    units: str,
) -> xr.Dataset:
    """The Dataset that `romzarr.identify` returns, over all terms of the largest `library`."""
    fit, both = found.fit, ("term", "state")
    beyond = ((0, library.size - found.library.size), (0, 0))
    region = Region.of([record.states for record in records])
    residual = np.array(
        [
            _share(record.states - states, record.states)
            for record, states in zip(records, fit.guess.states, strict=True)
        ]
    )
    return xr.Dataset(
        {
            "coefficients": (both, np.pad(fit.coefficients, beyond)),
            "standard_error": (both, np.pad(fit.standard_errors, beyond)),
            "probability": (both, np.pad(found.probability, beyond)),
            "noise": ("state", fit.guess.noise),
            "trust": ("state", _trust(found, records, names)),
            "residual": (("record", "state"), residual),
            "samples": ("record", [len(record.times) for record in records]),
            "centre": ("state", region.centre),
            "metric": (("state", "other"), region.metric),
        },
        {"term": list(term_names(library, names)), "state": list(names), "other": list(names)},
        {
            "library": json.dumps(library.spec()),
            "units": units,
            "disturbance": fit.guess.broken,
            "converged": int(fit.converged),
        },
    )


def _share(part: Matrix, whole: Matrix) -> Vector:
    """Rms of each column over that of the fluctuation of another; 0 of what does not change."""
    size = np.std(whole, axis=0)
    return np.divide(
        np.sqrt(np.mean(part**2, axis=0)), size, out=np.zeros_like(size), where=size > 0
    )


def term_names(library: Library, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the terms in those of the states: ``"x*y"`` for ``"a1 a2"``."""

    def renamed(text: str) -> str:
        return re.sub(r"\ba(\d+)\b", lambda found: names[int(found[1]) - 1], text)

    if isinstance(library, PolynomialLibrary):
        return tuple("*".join(map(renamed, name.split(" "))) for name in library.names())
    return tuple(map(renamed, library.names()))


def _trust(found: Selection, records: Sequence[Record], names: tuple[str, ...]) -> list[str]:
    """A sentence on each equation."""
    every = np.concatenate([record.states for record in records])
    left = np.concatenate(
        [
            record.states - states
            for record, states in zip(records, found.fit.guess.states, strict=True)
        ]
    )
    share = _share(left, every)
    size = np.std(every, axis=0)
    moving = size > rounding(records)
    rough = np.divide(first_noise(records), size, out=np.zeros_like(size), where=moving)
    terms = term_names(found.library, names)
    return [
        _sentence(
            found, j, terms, name, len(every), float(share[j]), float(rough[j]), bool(moving[j])
        )
        for j, name in enumerate(names)
    ]


def _sentence(
    found: Selection,
    j: int,
    terms: Sequence[str],
    name: str,
    steps: int,
    share: float,
    rough: float,
    moving: bool,
) -> str:
    fit = found.fit
    there = np.flatnonzero(fit.support[:, j])
    coarse = ""
    if rough > MOSTLY_NOISE:
        coarse = " (from sample to sample it is mostly noise, or samples are too far apart)"
    if not len(there):
        if not moving:
            return f"{name} is constant"
        return f"{name} is constant, noise, or moved by other terms: not modelled{coarse}"
    if steps < SAMPLES_PER_TERM * len(there):
        return (
            f"the equation of {name} is doubtful: {steps} samples are few for {len(there)} terms; "
            "give a longer record"
        )
    doubtful = [k for k in map(int, there) if found.probability[k, j] < SURE]
    if doubtful:
        words = ", ".join(f"{terms[k]} {100 * found.probability[k, j]:.0f} %" for k in doubtful)
        return f"the equation of {name} is doubtful: terms that are less than sure: {words}"
    # Disturbances that add up to less than the noise over the whole record are none.
    if fit.guess.broken * steps > 1:
        return (
            f"the equation of {name} foretells steps, not the long run: no trajectory stays near "
            f"the record without disturbances{coarse}"
        )
    if not fit.converged:
        return (
            f"the equation of {name} can be trusted but for its errors, which may be too small: "
            "its coefficients did not settle"
        )
    return (
        f"the equation of {name} can be trusted: a trajectory follows the record within "
        f"{100 * share:.2g} % of its fluctuation"
    )


def equations_text(model: xr.Dataset, *, trust: bool = True) -> str:
    """The equations in lines: coefficients with standard errors, probabilities of terms that are
    not sure, and, with `trust`, what to trust."""
    lines = []
    for equation in model_facts(model)["equations"]:
        parts = [_part(term) for term in equation["terms"]]
        lines.append(f"d{equation['state']}/dt = {' + '.join(parts) or '0'}")
        if trust:
            lines.append(f"    {equation['trust']}")
    return "\n".join(lines)


def coordinates_text(model: xr.Dataset) -> str:
    """How the coordinates of a field's equations come from its modes, in lines."""
    facts = coordinates_facts(model)
    lines = []
    for state, shift, weights in zip(
        model["state"].values, facts["shift"], facts["turn"], strict=True
    ):
        parts = [f"{weight:+.4g} a{k + 1}" for k, weight in enumerate(weights) if weight]
        lines.append(f"{state} = {' '.join([f'{shift:.4g}', *parts])}")
    return "\n".join(lines)


def coordinates_facts(model: xr.Dataset) -> dict[str, Any]:
    """The coordinates ``z = turn a + shift`` of a field's equations, as JSON."""
    names = ("sparse", "terms", "terms_of_modes", "modes", "energy", "stored")
    facts = {name: model.attrs[name] for name in names if name in model.attrs}
    arrays = {name: model[name].values.tolist() for name in ("turn", "shift", "pattern")}
    return facts | {"sparse": bool(model.attrs["sparse"])} | arrays


def field_text(model: xr.Dataset) -> str:
    """Equations of a field, and the coordinates they are in, to read."""
    attrs, equations = model.attrs, equations_text(model)
    count = model.sizes["state"]
    energy = f"{100 * attrs['energy']:.4g} %"
    share = f"{count} of {attrs['modes']} modes, {energy} of their energy"
    if not attrs["stored"]:
        share = f"the leading {count} modes of the values in the store, {energy} of their energy"
    if attrs["sparse"]:
        return (
            f"Equations in coordinates in which they are sparse: {attrs['terms']} terms, where "
            f"those of the modes have {attrs['terms_of_modes']}\n\n{equations}\n\n"
            f"Coordinates, of {share}\n\n{coordinates_text(model)}"
        )
    title = f"Equations of {share}\n\n{equations}"
    if "terms" not in attrs:
        return title
    return (
        f"No coordinates make the equations sparse: {attrs['terms']} terms in the best, "
        f"{attrs['terms_of_modes']} in the modes\n\n{title}"
    )


def _part(term: dict[str, Any]) -> str:
    """One term in words.

    >>> term = {"term": "x*y", "coefficient": -9.99723, "standard_error": 0.0213}
    >>> _part(term | {"probability": 1.0}), _part(term | {"probability": 0.7})
    ('(-9.997 ± 0.021) x*y', '(-9.997 ± 0.021) x*y [70 % sure]')
    """
    words, name, sure = (
        _number(term["coefficient"], term["standard_error"]),
        term["term"],
        term["probability"],
    )
    words += "" if name == "1" else f" {name}"
    return words if sure >= SHOWN_SURE else f"{words} [{100 * sure:.0f} % sure]"


def _number(value: float, error: float) -> str:
    """A value with its error, to two digits of that.

    >>> _number(-9.99723, 0.0213), _number(1e-12, 3.6e-15), _number(2.5, 0.0)
    ('(-9.997 ± 0.021)', '(1.0000 ± 0.0036)e-12', '(2.5)')
    """
    if not error > 0:
        return f"({value:.12g})"
    power = math.floor(math.log10(max(abs(value), error)))
    power = power if not PLAIN[0] <= power < PLAIN[1] else 0
    # In two steps: the power of the smallest numbers is no number.
    value, error = (
        each / 10.0 ** (power // 2) / 10.0 ** (power - power // 2) for each in (value, error)
    )
    digits = int(np.clip(1 - math.floor(math.log10(error)), 0, 12))
    return f"({value:.{digits}f} ± {error:.{digits}f})" + (f"e{power:+d}" if power else "")


def model_facts(model: xr.Dataset) -> dict[str, Any]:
    """What `identify` found, as JSON."""
    return {
        "equations": [_equation(model.sel(state=state)) for state in model["state"].values],
        "records": [
            {"samples": int(record["samples"]), "residual": record["residual"].values.tolist()}
            for record in (model.isel(record=k) for k in range(model.sizes["record"]))
        ],
        "units": model.attrs["units"],
        "disturbance": model.attrs["disturbance"],
        "converged": bool(model.attrs["converged"]),
    }


def _equation(one: xr.Dataset) -> dict[str, Any]:
    """The equation of one state."""
    there = np.flatnonzero(one["coefficients"].values)
    numbers = {
        "coefficient": one["coefficients"],
        "standard_error": one["standard_error"],
        "probability": one["probability"],
    }
    return {
        "state": str(one["state"].item()),
        "terms": [
            {"term": str(one["term"].values[k])}
            | {name: float(values.values[k]) for name, values in numbers.items()}
            for k in there
        ],
        "noise": float(one["noise"]),
        "trust": str(one["trust"].item()),
    }
