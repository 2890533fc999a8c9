"""What a store says about itself, and its equations."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from romzarr.contracts import Matrix
from romzarr.numerics.dynamics.library import ConcatenatedLibrary, Library
from romzarr.numerics.dynamics.neural_library import NeuralLibrary
from romzarr.numerics.pod.roughness import runs
from romzarr.reports import StoreInfo, advice
from romzarr.store import layout
from romzarr.store.document import packed
from romzarr.store.layout import JsonObject
from romzarr.store.models import UNEXPLAINED, StoredModels, models_from_facts
from romzarr.store.reading.facts import DERIVATIVE_ERRORS, DERIVATIVES, ERRORS_BY_INDEX, errors_of
from romzarr.store.reading.generation import Generation
from romzarr.store.reading.latent import StoredLatent
from romzarr.store.reading.reader import CoefficientStore, open_store

# Stretches of time of a model that are named.
SPANS = 4
NO_MODES = "No model: every variable is constant in time, or coded without POD."
NO_EQUATIONS = "No model: no equations of the coefficients were found."
NOT_DECODED = "not used for decoding: the model takes more bytes than it saves"
MEASURED_BY = "bound from the norms of all cuts and of what coding misses"


def info(store: str | os.PathLike[str]) -> StoreInfo:
    """Facts of a coefficient store; reads metadata and a few small arrays.

    Raises
    ------
    StoreError
        If there is no store, or it is damaged or not understood.
    """
    opened = open_store(store)
    last, facts, stored = opened.last, opened.facts, opened.stored_bytes()
    ratio = facts["raw_bytes"] / stored
    energy = last.singular_values**2
    return StoreInfo(
        relative_l2_error=errors_of(facts, opened.variables),
        error_measured_by=MEASURED_BY if facts["tolerance"] else "every bit is stored",
        tolerance=facts["tolerance"],
        rank=last.rank,
        nonzero_terms=facts["nonzero_terms"],
        kept_samples=sum(len(part.latent.index) for part in opened.parts if part.rank),
        snapshots=opened.snapshots,
        raw_bytes=facts["raw_bytes"],
        stored_bytes=stored,
        compression_ratio=ratio,
        bytes_by_part=_bytes_by_part(opened, stored),
        variables={
            name: {
                "dims": list(v.dims),
                "shape": list(v.shape),
                "dtype": v.dtype.name,
                "coding": v.coding,
                "corrected": f"basis/{v.group}/residuals" in last.arrays,
            }
            for name, v in opened.variables.items()
        },
        episodes=[tuple(run) for run in facts.get("episodes", [])],
        time=facts["time"],
        energy_by_mode=tuple(float(e) for e in energy / max(energy.sum(), np.finfo(float).tiny)),
        model=_model_of(last),
        prediction=_prediction(opened),
        source={
            key: value for key, value in facts["source"].items() if not key.endswith("history")
        },
        versions=facts["versions"],
        format=layout.FORMAT,
        advice=advice(
            ratio, last.rank, opened.snapshots, [v.coding for v in opened.variables.values()]
        ),
        max_error=facts.get("max_error", {}),
        largest_pointwise_error=facts.get("largest_pointwise_error", {}),
        derivative_errors=facts.get(DERIVATIVE_ERRORS, {}),
        derivatives=facts.get(DERIVATIVES, {}),
        errors_by_index=facts.get(ERRORS_BY_INDEX, {}),
        layers={name: v.layers for name, v in last.variables.items() if v.layers},
        max_relative_error=facts.get("max_relative_error", {}),
        largest_relative_error=facts.get("largest_relative_error", {}),
        orders={dim: order.coordinates for dim, order in last.orders.items()},
    )


def _model_of(part: Generation) -> dict[str, Any]:
    """What is said of the models; of their terms how many there are."""
    found, facts = _models_of(part), part.facts["model"]
    terms = [] if found is None else [int(np.count_nonzero(xi)) for xi in found.coefficients]
    said = {key: value for key, value in facts.items() if key not in ("library", "terms")}
    return said | {"decodes": len(part.latent.models) > 0, "terms": terms}


def _models_of(part: Generation) -> StoredModels | None:
    """The models of a part, with which it is decoded or not."""
    return models_from_facts(JsonObject(part.facts, part.name).object("model"))


def _prediction(opened: CoefficientStore) -> dict[str, Any]:
    """What foretells the coefficients, besides wavelets along time; empty without any."""
    found = [part.latent.block_model for part in opened.parts if part.rank]
    if not found:
        return {}
    block_model = np.concatenate(found)
    return {
        "blocks": len(block_model),
        "modelled_blocks": int(np.count_nonzero(block_model >= 0)),
        "polynomial_orders": list(opened.last.latent.orders),
    }


def _bytes_by_part(opened: CoefficientStore, stored: int) -> dict[str, int]:
    """Bytes of each group of the store, and of the facts of models; "metadata" is all else."""
    parts = dict.fromkeys(("basis", "latent", "model", "coordinates"), 0)
    sizes = opened.sizes()
    parts["model"] = sum(len(packed(part.facts["model"])) for part in opened.parts)
    for path, size in sizes.items():
        group = path.split("/")[1]
        group = "basis" if group == "shared" else group
        if group in parts:
            parts[group] += size
    return parts | {"metadata": stored - sum(parts.values())}


@dataclass(frozen=True)
class Regime:
    """A model, and where in time it serves.

    ``coefficients`` (p, q) and the ``residual`` (q,) of its equations, NaN if that is not known;
    ``spans`` the first and the last snapshot of each stretch of time that it foretells.
    """

    coefficients: Matrix
    residual: tuple[float, ...]
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def unexplained(self) -> tuple[int, ...]:
        """Numbers of the equations, from 0, that explain nothing of their coefficient."""
        return tuple(k for k, each in enumerate(self.residual) if each >= UNEXPLAINED)

    def where(self) -> str:
        """The stretches of time in words."""
        shown = [f"{first} to {last}" for first, last in self.spans[:SPANS]]
        more = [f"{len(self.spans) - SPANS} more"] if len(self.spans) > SPANS else []
        return "snapshots " + ", ".join(shown + more)


@dataclass(frozen=True)
class Equations:
    """The sparse models of a store, ``da/dt = Theta(a) Xi``, to be read by people.

    ``regimes`` are one for the whole record, or one for each of several stretches of time in
    their order; ``decodes`` says whether coefficients are decoded with them. ``names`` and
    ``symbols`` are the p terms in plain text and LaTeX, ``formulas`` the same with networks as
    the formulas they were trained to be (empty: there are none), ``share`` (r,) each mode's part
    of the energy kept.
    """

    regimes: tuple[Regime, ...]
    names: tuple[str, ...]
    symbols: tuple[str, ...]
    share: Matrix
    time_units: str
    dependent: tuple[str, ...]
    formulas: tuple[str, ...] = ()
    decodes: bool = True

    @property
    def coefficients(self) -> Matrix:
        """Those (p, q) of the first regime; (0, 0) if there is no model."""
        return self.regimes[0].coefficients if self.regimes else np.zeros((0, 0))

    def text(self) -> str:
        """One equation a line, after what the modes are and before what was left out."""
        if not self.regimes:
            return NO_MODES if not len(self.share) else NO_EQUATIONS
        unit = f" (time in {self.time_units})" if self.time_units not in ("", "1") else ""
        lines = [
            f"Equations of the leading {self.coefficients.shape[1]} of {len(self.share)} POD "
            f"coefficients{unit}"
        ]
        lines.append(
            "energy of each mode: "
            + ", ".join(f"a{k + 1} {_percent(share)}" for k, share in enumerate(self.share[:12]))
            + (", ..." if len(self.share) > 12 else "")
        )
        if not self.decodes:
            lines.append(NOT_DECODED)
        for regime in self.regimes:
            several = [f"{regime.where()}:"] if len(self.regimes) > 1 else []
            lines += ["", *several, *self._lines(regime)]
        if self.dependent:
            lines += ["", "left out, because the data cannot tell them apart from others:"]
            lines += [f"  {words}" for words in self.dependent]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text())}</pre>"

    def to_dict(self) -> dict[str, Any]:
        """The equations as JSON values: the terms of each, with their coefficients."""
        return {
            "regimes": [
                {
                    "spans": [list(span) for span in regime.spans],
                    "equations": [
                        {
                            "state": f"a{k + 1}",
                            "terms": [
                                {"term": name, "coefficient": float(value)}
                                for name, value in zip(self.names, column, strict=True)
                                if value != 0
                            ],
                            "residual": _number(regime.residual[k]),
                        }
                        for k, column in enumerate(regime.coefficients.T)
                    ],
                }
                for regime in self.regimes
            ],
            "units": self.time_units,
            "decodes": self.decodes,
        }

    def _lines(self, regime: Regime) -> Iterator[str]:
        for k, column in enumerate(regime.coefficients.T):
            right = _sum(column, self.names) or "0"
            nothing = ", explains nothing" if k in regime.unexplained else ""
            yield f"a{k + 1}' = {right}    [residual {_percent(regime.residual[k])}{nothing}]"
        if self.formulas:
            yield ""
            yield "with each network replaced by the formula it was trained to be:"
            for k, column in enumerate(regime.coefficients.T):
                yield f"a{k + 1}' = {_sum(column, self.formulas) or '0'}"

    def latex(self) -> str:
        """An ``align*`` environment for each regime."""
        found = []
        for regime in self.regimes:
            lines = [
                rf"\dot a_{{{k + 1}}} &= " + (_sum(column, self.symbols, r"\,") or "0")
                for k, column in enumerate(regime.coefficients.T)
            ]
            where = f"% {regime.where()}\n" if len(self.regimes) > 1 else ""
            found.append(where + "\\begin{align*}\n" + " \\\\\n".join(lines) + "\n\\end{align*}")
        return "\n".join(found)


def _number(value: float) -> float | None:
    """A number that JSON has: None where it is not known."""
    return None if np.isnan(value) else float(value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _sum(coefficients: Matrix, names: tuple[str, ...], times: str = " ") -> str:
    """Terms as a signed sum, largest coefficients as they come in the library."""
    text = ""
    for value, name in zip(coefficients, names, strict=True):
        if value != 0:
            sign = " - " if value < 0 else " + "
            text += sign + (f"{abs(value):.4g}" + (f"{times}{name}" if name != "1" else ""))
    text = text.strip()
    return "-" + text[2:] if text.startswith("- ") else text.removeprefix("+ ")


def _formulas(library: Library) -> tuple[str, ...]:
    """Terms with networks as formulas; empty if no term is a network."""
    parts = library.parts if isinstance(library, ConcatenatedLibrary) else (library,)
    if not any(isinstance(part, NeuralLibrary) for part in parts):
        return ()
    formulas: list[str] = []
    for part in parts:
        formulas += part.formulas() if isinstance(part, NeuralLibrary) else part.names()
    return tuple(formulas)


def equations(store: str | os.PathLike[str]) -> Equations:
    """The sparse models of a coefficient store, of its newest part that has any.

    Raises
    ------
    StoreError
        If there is no store, or it is damaged or not understood.
    """
    opened = open_store(store)
    numbered = list(zip(opened.parts, opened.starts, strict=False))
    # One that is still open may not have a model yet.
    part, start = next(
        (each for each in reversed(numbered) if each[0].facts["nonzero_terms"]), numbered[-1]
    )
    facts: Mapping[str, Any] = part.facts
    energy = part.singular_values**2
    share = energy / max(float(energy.sum()), np.finfo(float).tiny)
    units, found = facts["time"]["units"], _models_of(part)
    if found is None:
        return Equations((), (), (), share, units, ())
    library, regimes = found.library, list(_regimes(part.latent, int(start), found))
    return Equations(
        regimes=tuple([regime for regime in regimes if regime.spans] or regimes[:1]),
        names=library.names(),
        symbols=library.latex(),
        share=share,
        time_units=units,
        dependent=tuple(facts["model"].get("dependent", ())),
        formulas=_formulas(library),
        decodes=len(part.latent.models) > 0,
    )


def _regimes(latent: StoredLatent, start: int, found: StoredModels) -> Iterator[Regime]:
    """Models in the order of time; `start` is the part's first snapshot."""
    for number, coefficients in enumerate(found.coefficients):
        spans = _served(latent, number) if latent.models else found.spans[number]
        yield Regime(
            coefficients,
            found.residuals[number],
            tuple((start + first, start + last) for first, last in spans),
        )


def _served(latent: StoredLatent, number: int) -> list[tuple[int, int]]:
    """First and last snapshot of each stretch of time that a model serves."""
    steps = int(latent.facts["latent"]["block_steps"])
    served = runs(latent.block_model == number)
    return [(steps * first, min(steps * stop, latent.snapshots) - 1) for first, stop in served]
