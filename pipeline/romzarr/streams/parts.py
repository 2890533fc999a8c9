"""Parts of a store that an open segment has: writing one, and going on from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from romzarr.archive.archive import Archive
from romzarr.compression.model_facts import equation_facts
from romzarr.compression.pod import Earlier
from romzarr.compression.write_store import Codings, facts
from romzarr.config import Config
from romzarr.contracts import Coding, Matrix, SparseModel, Vector
from romzarr.numerics.budget import ErrorBudget, VariableNorms
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.pod.incremental import IncrementalPOD
from romzarr.store.writing.writer import StoreWriter
from romzarr.streams.blocks import Frame
from romzarr.streams.reduction import sparse_model, weak_form_of
from romzarr.streams.running import ARITHMETIC, RunningFields


@dataclass(frozen=True)
class LiveModel:
    """The model of a segment so far, and its terms; None where there is none yet.

    Nothing is decoded with it: coefficients are coded before it is known.
    """

    library: Library | None
    model: SparseModel | None

    @property
    def facts(self) -> dict[str, Any]:
        if self.library is None or self.model is None:
            return {}
        return equation_facts(self.library, [self.model])


def live_model(a: Matrix, times: Vector, config: Config) -> LiveModel:
    """The model of the coefficients (m, r) at these times (m,)."""
    if len(a) < 3 or not a.shape[1]:
        return LiveModel(None, None)
    weak = weak_form_of(a, times, config)
    weak.add(a[:, : weak.library.states], times)
    return LiveModel(weak.library, sparse_model(weak, config))


def write_running_fields(
    writer: StoreWriter,
    frame: Frame,
    pod: IncrementalPOD,
    fields: list[RunningFields | None],
    scales: Vector,
    with_mean: bool,
    dtype: np.dtype[Any] = ARITHMETIC,
) -> None:
    """Fields of modes that are new, with the mean and masks if these are the first.

    They decode to `dtype`.
    """
    for number, coded in enumerate(fields):
        variable, part = frame.variables[number], frame.edges[number]
        space = variable.space_shape
        valid = np.ones(part.stop - part.start, bool) if pod.valid is None else pod.valid[part]
        if pod.fluctuation[number] == 0:
            mean = np.where(valid, pod.origin[part], np.nan).astype(variable.dtype)
            writer.write_constant(variable.name, variable.space_dims, mean.reshape(space))
            continue
        if coded is None:
            continue
        masked = with_mean and not valid.all()
        writer.create_fields(
            variable.name,
            variable.space_dims,
            space,
            coded.tile,
            len(scales),
            coded.step,
            dtype,
            variable.name if masked else None,
        )
        for index, content in coded.contents.items():
            writer.fields.write_tile(variable.name, index, content)
        if masked:
            everywhere = tuple(slice(0, n) for n in space)
            writer.fields.write_mask(variable.name, everywhere, ~valid.reshape(space))
    if len(scales):
        writer.write_singular_values(scales)


def running_facts(
    archive: Archive,
    pod: IncrementalPOD,
    rank: int,
    errors: Mapping[str, float],
    model: LiveModel,
    config: Config,
    dtype: np.dtype[Any] = ARITHMETIC,
) -> dict[str, Any]:
    """All that a part with coefficients of `rank` modes says, but for the state of the stream."""
    names = [variable.name for variable in archive.variables]
    codings = tuple(Coding.POD if total > 0 else Coding.CONSTANT for total in pod.fluctuation)
    coding = Codings(codings, rank, dtype.name)
    return {
        **facts(archive, coding, None, errors, config),
        **(model.facts if rank else {}),
        "fluctuation": dict(zip(names, pod.fluctuation.tolist(), strict=True)),
    }


def relative_errors(
    frame: Frame, pod: IncrementalPOD, lost: Vector, earlier: Earlier
) -> dict[str, float]:
    """Bound on the error of every variable, from squares `lost` (V,) now, and
    those of `earlier` snapshots."""
    budget = ErrorBudget(lost, lost, lost, ARITHMETIC, pod.tolerance)
    errors = {}
    for v, norms in enumerate(norms_of(frame, pod, pod.fluctuation)):
        now = budget.with_rounding(norms, float(lost[v] ** 0.5))
        errors[norms.name] = float(np.hypot(now, earlier.lost[v] ** 0.5)) / (norms.fluctuation or 1)
    return errors


def norms_of(frame: Frame, pod: IncrementalPOD, counted: Vector) -> list[VariableNorms]:
    """Norms of the segment, with the squared fluctuation (V,) that its bound is of."""
    norms, squares = [], pod.mean**2
    for variable, part, total in zip(frame.variables, frame.edges, counted, strict=True):
        inner, square = frame.inner.whole.on(part), squares[part]
        size = float((pod.snapshots * inner.sum(square)) ** 0.5)
        weight = pod.snapshots * inner.total(len(square))
        norms.append(VariableNorms(variable.name, float(total**0.5), size, variable.dtype, weight))
    return norms
