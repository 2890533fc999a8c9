"""What a store says about itself, and its equations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.compress import advice
from pipeline.numerics.library import ConcatenatedLibrary, Library, library_from_spec
from pipeline.numerics.neural_library import NeuralLibrary
from pipeline.reports import StoreInfo
from pipeline.store.reader import CoefficientStore, open_store

Matrix = NDArray[np.float64]

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
        relative_l2_error=facts["relative_l2_error"],
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
        model=facts["model"] | {"terms": _term_counts(opened)},
        prediction=_prediction(opened),
        source={
            key: value for key, value in facts["source"].items() if not key.endswith("history")
        },
        versions=facts["versions"],
        format=opened.root.format,
        advice=advice(
            ratio, last.rank, opened.snapshots, [v.coding for v in opened.variables.values()]
        ),
        max_error=facts.get("max_error", {}),
        largest_pointwise_error=facts.get("largest_pointwise_error", {}),
    )


def _term_counts(opened: CoefficientStore) -> list[int]:
    return [int(np.count_nonzero(xi)) for xi in opened.last.latent.coefficients]


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
    """Bytes of each group of the store; "metadata" is all that is in none of them."""
    parts = dict.fromkeys(("basis", "latent", "model", "coordinates"), 0)
    for path, size in opened.sizes().items():
        group = path.split("/")[1]
        if group in parts:
            parts[group] += size
    return parts | {"metadata": stored - sum(parts.values())}


@dataclass(frozen=True)
class Equations:
    """The sparse model of a store, ``da/dt = Theta(a) Xi``, to be read by people.

    ``coefficients`` (p, q) of the pooled model, ``names`` and ``symbols`` its p terms in
    plain text and LaTeX, ``formulas`` the same with networks as the formulas they were trained
    to be (empty: there are none), ``share`` (r,) each mode's part of the energy kept, ``size``
    (q,) the standard deviation of each coefficient.
    """

    coefficients: Matrix
    names: tuple[str, ...]
    symbols: tuple[str, ...]
    share: Matrix
    residual: tuple[float, ...]
    time_units: str
    dependent: tuple[str, ...]
    formulas: tuple[str, ...] = ()

    def text(self) -> str:
        """One equation a line, after what the modes are and before what was left out."""
        if not self.coefficients.size:
            return "No model: every variable is constant in time, or coded without POD."
        unit = f" (time in {self.time_units})" if self.time_units not in ("", "1") else ""
        lines = [
            f"Equations of the leading {len(self.residual)} of {len(self.share)} POD "
            f"coefficients{unit}"
        ]
        lines.append(
            "energy of each mode: "
            + ", ".join(f"a{k + 1} {_percent(share)}" for k, share in enumerate(self.share[:12]))
            + (", ..." if len(self.share) > 12 else "")
        )
        lines.append("")
        for k in range(len(self.residual)):
            right = _sum(self.coefficients[:, k], self.names) or "0"
            lines.append(f"a{k + 1}' = {right}    [residual {_percent(self.residual[k])}]")
        if self.formulas:
            lines += ["", "with each network replaced by the formula it was trained to be:"]
            for k in range(len(self.residual)):
                right = _sum(self.coefficients[:, k], self.formulas) or "0"
                lines.append(f"a{k + 1}' = {right}")
        if self.dependent:
            lines += ["", "left out, because the data cannot tell them apart from others:"]
            lines += [f"  {words}" for words in self.dependent]
        return "\n".join(lines)

    def latex(self) -> str:
        """An ``align*`` environment."""
        lines = [
            rf"\dot a_{{{k + 1}}} &= " + (_sum(self.coefficients[:, k], self.symbols, r"\,") or "0")
            for k in range(self.coefficients.shape[1])
        ]
        return "\\begin{align*}\n" + " \\\\\n".join(lines) + "\n\\end{align*}"


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
    """The pooled sparse model of a coefficient store, of its newest part that has one.

    Raises
    ------
    StoreError
        If there is no store, or it is damaged or not understood.
    """
    parts = open_store(store).parts
    # One that is still open may not have a model yet.
    part = next((part for part in reversed(parts) if part.facts["nonzero_terms"]), parts[-1])
    facts: Mapping[str, Any] = part.facts
    latent = part.latent
    energy = part.singular_values**2
    share = energy / max(float(energy.sum()), np.finfo(float).tiny)
    if not len(latent.coefficients):
        return Equations(np.zeros((0, 0)), (), (), share, (), facts["time"]["units"], ())
    library = library_from_spec(facts["library"])
    return Equations(
        coefficients=latent.coefficients[0],
        names=library.names(),
        symbols=library.latex(),
        share=share,
        residual=tuple(facts["model"]["residual"]),
        time_units=facts["time"]["units"],
        dependent=tuple(facts["model"]["dependent"]),
        formulas=_formulas(library),
    )
