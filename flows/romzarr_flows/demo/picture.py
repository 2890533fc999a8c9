"""One picture of a compressed cylinder wake: original, decoded field, spectrum and model."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from numpy.typing import NDArray

from romzarr_flows.drawing import BLUE, GREEN, GREY, INK, ORANGE, RED, canvas

CURVES = (BLUE, ORANGE, GREEN)
LINE_WIDTH, LINES = 62, 12  # characters and lines of the equations that fit their panel


@dataclass(frozen=True)
class Wake:
    """The content of the picture.

    `original` and `decoded` hold u and v of one snapshot over (y, x); `error` is the error of the
    vorticity over the whole record, relative to its fluctuation. `singular_values` (m,)
    belong to the archive, `coefficients` (m, r) are the a(t) of the store at `times`, and `kept`
    numbers the snapshots whose samples it keeps. `equations` has a line for each of
    `states`.
    """

    original: xr.Dataset
    decoded: xr.Dataset
    error: float
    singular_values: NDArray[np.float64]
    rank: int
    tolerance: float
    times: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    kept: NDArray[np.int64]
    states: str
    equations: Sequence[str]
    title: str


def draw(wake: Wake, path: Path) -> None:
    """Draw `wake` into the PNG file `path`."""
    figure = canvas(13, 8.8)
    # Any: matplotlib annotates an array of subfigures as one.
    panels: Any = figure.subfigures(3, 1, height_ratios=(0.14, 1, 1.1))
    heading, maps, lower = panels
    heading.text(0.5, 0.45, wake.title, ha="center", va="center", fontsize=13, color=INK)
    draw_maps(maps.subplots(1, 3, sharey=True), wake)
    grid = lower.add_gridspec(2, 2, width_ratios=(1, 1.25))
    draw_spectrum(lower.add_subplot(grid[:, 0]), wake)
    draw_coefficients(lower.add_subplot(grid[0, 1]), wake)
    draw_equations(lower.add_subplot(grid[1, 1]), wake)
    figure.savefig(path)


def vorticity(velocity: xr.Dataset) -> xr.DataArray:
    return velocity.v.differentiate("x") - velocity.u.differentiate("y")


def vorticity_error(original: xr.Dataset, decoded: xr.Dataset) -> float:
    """Compute the L2 error of the vorticity relative to its fluctuation."""
    before, after = vorticity(original), vorticity(decoded)
    fluctuation = float((before - before.mean("time")).pipe(np.square).sum())
    return float(np.sqrt(float(((after - before) ** 2).sum()) / fluctuation))


def draw_maps(axes: NDArray[Any], wake: Wake) -> None:
    """Draw the vorticity of archive and store on one colour scale, and their difference."""
    original, decoded = vorticity(wake.original), vorticity(wake.decoded)
    # The vorticity beside the cylinder is far larger than in the wake, which is to be shown.
    scale = float(np.nanpercentile(np.abs(original), 98))
    difference = decoded - original
    small = float(np.nanpercentile(np.abs(difference), 99.5)) or 1.0
    shown = (
        ("archive", original, scale),
        ("store", decoded, scale),
        (f"difference, {100 * wake.error:.2g} % of the fluctuation", difference, small),
    )
    for ax, (name, field, limit) in zip(axes, shown, strict=True):
        image = ax.pcolormesh(
            field.x, field.y, field, cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True
        )
        ax.set(title=f"vorticity: {name}", xlabel="x / D", aspect="equal", xticks=range(0, 13, 4))
        ax.figure.colorbar(
            image, ax=ax, location="bottom", shrink=0.8, extend="both", label="vorticity (U/D)"
        )
    axes[0].set_ylabel("y / D")


def draw_spectrum(ax: Axes, wake: Wake) -> None:
    """Draw the truncation error against the number of modes."""
    energy = wake.singular_values**2
    lost = np.sqrt(np.maximum(energy[::-1].cumsum()[::-1][1:], 0) / energy.sum())
    shown = min(len(lost), 3 * wake.rank + 4)
    ax.semilogy(np.arange(1, shown + 1), lost[:shown], "o-", ms=3.5, lw=1, color=CURVES[0])
    ax.axhline(wake.tolerance, color=RED, lw=1)
    ax.axvline(wake.rank, color=GREY, lw=1, ls="--")
    ax.set(
        title="POD truncation error",
        xlabel="number of modes",
        ylabel="relative L2 error of the fluctuation",
        xlim=(0, shown + 1),
    )
    ax.annotate(
        f"tolerance {wake.tolerance:g}",
        (shown + 0.5, wake.tolerance),
        (0, 4),
        textcoords="offset points",
        ha="right",
        color=RED,
        fontsize=9,
    )
    ax.annotate(
        f"kept: {wake.rank} modes",
        (wake.rank, lost[0]),
        (5, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        fontsize=9,
    )
    ax.grid(alpha=0.25)


def draw_coefficients(ax: Axes, wake: Wake) -> None:
    """Draw the leading coefficients in time, with the samples that the store keeps."""
    count = min(len(CURVES), wake.coefficients.shape[1])
    scale = np.abs(wake.coefficients[:, :1]).max() or 1.0
    scaled = wake.coefficients[:, :count] / scale
    for j, colour in zip(range(count), CURVES, strict=False):
        ax.plot(wake.times, scaled[:, j], color=colour, lw=1.2, label=f"$a_{j + 1}$")
        ax.plot(wake.times[wake.kept], scaled[wake.kept, j], "o", ms=3, color=colour)
    if len(wake.kept):
        ax.plot([], [], "o", ms=3, color=INK, label="kept sample")
    ax.set(
        title=f"POD coefficients: {len(wake.kept)} of {len(wake.times)} samples kept",
        xlabel="time (D/U)",
        ylabel=r"$a_j$ / max $|a_1|$",
        xlim=(wake.times[0], wake.times[-1]),
    )
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    ax.grid(alpha=0.25)


def draw_equations(ax: Axes, wake: Wake) -> None:
    ax.set_axis_off()
    ax.set_title(f"equations of {wake.states}")
    lines = fitted(wake.equations)
    ax.text(0, 0.98, "\n".join(lines), va="top", family="monospace", fontsize=8.5, color=INK)


def fitted(equations: Sequence[str]) -> list[str]:
    """Wrap the equations to the width of their panel, as many as fit completely."""
    lines: list[str] = []
    for number, equation in enumerate(equations):
        broken = textwrap.wrap(equation, LINE_WIDTH, subsequent_indent=" " * 9)
        if len(lines) + len(broken) > LINES:
            left = len(equations) - number
            return [*lines, f"... and {left} more: romzarr equations STORE"]
        lines += broken
    return lines


def singular_values(archive: xr.Dataset) -> NDArray[np.float64]:
    """Compute the singular values of all variables together, each scaled by its fluctuation.

    They come from the Gram matrix in time: values below 1e-8 of the largest are rounding errors.
    """
    gram: Any = 0.0
    for name in archive.data_vars:
        values = archive[name].values.reshape(archive.sizes["time"], -1).astype(np.float64)
        values = np.nan_to_num(values - values.mean(axis=0))
        gram = gram + values @ values.T / np.square(values).sum()
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))
