"""Results as plain text: a title, then one fact per line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from romzarr.config import NO_TOLERANCE
from romzarr.contracts import Coding
from romzarr.progress import size as size
from romzarr.reports import CARRIED
from romzarr_flows.measured import index_lines, measure_lines
from romzarr_flows.terminal import escaped

Facts = Mapping[str, Any]

CODINGS: Mapping[str, str] = {
    Coding.POD: "POD modes",
    Coding.HYBRID: "few POD modes, and values of the rest",
    Coding.DIRECT: "values, without POD",
    Coding.CONSTANT: "constant, exact",
    Coding.LOSSLESS: "values, lossless",
    CARRIED: "copied, lossless",
}


def table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Format two columns under a title; a row without a name continues the row above.

    >>> print(table("run", [("rank", "3"), ("snapshots", "40")]))
    run
      rank       3
      snapshots  40
    """
    rows = [(escaped(name), escaped(value)) for name, value in rows]
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        [escaped(title), *(f"  {name:<{width}}  {value}".rstrip() for name, value in rows)]
    )


def estimate_table(facts: Facts, source: str) -> str:
    """Format what compression would give at each tolerance, and how each variable is coded."""
    rows = [("snapshots", str(facts["snapshots"])), ("uncompressed", size(facts["raw_bytes"]))]
    for each in facts["estimates"]:
        name = f"tolerance {each['tolerance']:g}"
        if each["problem"]:
            rows.append((name, f"refused: {each['problem']}"))
            continue
        rows.append((name, f"ratio {each['compression_ratio']:.4g}, {size(each['stored_bytes'])}"))
        width = max(map(len, each["variables"]), default=0)
        for variable, found in each["variables"].items():
            line = f"{variable:<{width}}  {CODINGS[found['coding']]}: {found['why']}; "
            line += size(found["stored_bytes"])
            if found["max_error"]:
                line += (
                    f", and {size(found['max_error_bytes'])} more with --max-error "
                    f"{variable}={found['max_error']:.2g}"
                )
            rows.append(("", line))
    return table(f"{source}: estimated in {facts['seconds']:.1f} s", rows)


def error_rows(errors: Mapping[str, float], tolerance: float) -> list[tuple[str, str]]:
    """Compare the error of each variable with the tolerance."""
    width = max(map(len, errors), default=0)
    lines = [
        f"{name:<{width}}  {value:.3e}" + ("" if value <= tolerance else "  ABOVE THE TOLERANCE")
        for name, value in errors.items()
    ]
    words = {0.0: "0, lossless", NO_TOLERANCE: "none but the bounds on single values"}
    bound = ("tolerance", words.get(tolerance, f"{tolerance:g}"))
    return [*continued("relative L2 error", lines), bound]


def value_rows(
    errors: Mapping[str, float], bounds: Mapping[str, float], title: str = "largest error"
) -> list[tuple[str, str]]:
    """Compare the largest pointwise error with its bound, for variables that have one.

    >>> value_rows({"u": 0.0098, "v": 3.0}, {"u": 0.01})
    [('largest error', 'u  9.800e-03 of at most 0.01')]
    """
    width = max((len(name) for name in bounds), default=0)
    lines = [
        f"{name:<{width}}  {errors[name]:.3e} of at most {bound:g}"
        + ("" if errors[name] <= bound else "  ABOVE THE BOUND")
        for name, bound in bounds.items()
        if name in errors
    ]
    return continued(title, lines)


def bounded_rows(facts: Facts) -> list[tuple[str, str]]:
    """Compare the largest errors of single values, and those of derivatives, with their bounds."""
    relative = facts["largest_relative_error"], facts["max_relative_error"]
    return [
        *value_rows(facts["largest_pointwise_error"], facts["max_error"]),
        *value_rows(*relative, "largest of value"),
        *value_rows(facts["derivative_errors"], facts["derivatives"], "derivatives"),
    ]


def size_rows(facts: Facts) -> list[tuple[str, str]]:
    return [
        ("archive", f"{size(facts['raw_bytes'])} uncompressed"),
        ("store", size(facts["stored_bytes"])),
        ("compression ratio", ratio(facts["compression_ratio"])),
    ]


# Variables that are listed, at most; all are in JSON.
LISTED = 30


def variable_lines(variables: Mapping[str, Facts]) -> list[str]:
    """Say of each variable how it is coded, and in how many bytes.

    >>> facts = {"coding": "direct", "raw_bytes": 4000, "stored_bytes": 500, "share": 0.5,
    ...          "relative_l2_error": 0.01, "gaps": ""}
    >>> variable_lines({"u": facts})
    ['u  4.0 kB -> 500 B, 50 % of the store; values, without POD']
    """
    shown = dict(list(variables.items())[:LISTED])
    width = max(map(len, shown), default=0)
    lines = []
    for name, found in shown.items():
        sizes = f"{size(found['raw_bytes'])} -> {size(found['stored_bytes'])}"
        line = f"{name:<{width}}  {sizes}, {100 * found['share']:.2g} % of the store"
        why = f": {found['why']}" if found.get("why") else ""
        lines.append(f"{line}; {CODINGS[found['coding']]}{why}")
        lines += [f"{'':<{width}}  {said}" for said in (found["gaps"], found.get("before")) if said]
        if found.get("bounded_by"):
            dims = " and ".join(found["bounded_by"])
            largest = f"largest error of its own fluctuation {found['largest_by_index']:.2e}"
            lines.append(f"{'':<{width}}  bounded at each {dims}: {largest}")
    more = len(variables) - len(shown)
    return lines + ([f"and {more} more"] if more else [])


def compression_table(report: Facts, source: str, store: str) -> str:
    rows = [
        *error_rows(report["relative_l2_error"], report["tolerance"]),
        *bounded_rows(report),
        *continued("variables", variable_lines(report["variables"])),
        *continued("order", order_lines(report["orders"])),
        ("rank", f"{report['rank']} POD modes"),
        ("model", f"{report['nonzero_terms']} terms"),
        ("kept samples", f"{report['kept_samples']} of {report['snapshots']} snapshots"),
        *size_rows(report),
        ("time", f"{report['seconds']:.1f} s, {report['cpu_seconds']:.1f} s of CPU"),
        ("read", f"{size(report['bytes_read'])} in {report['chunks_read']} chunks"),
    ]
    return with_advice(table(f"{source} -> {store}", rows), report)


def append_table(report: Facts, source: str, store: str) -> str:
    rows = [
        ("appended", f"{report['appended']} snapshots, now {report['snapshots']}"),
        *error_rows(report["relative_l2_error"], report["tolerance"]),
        ("rank", f"{report['rank']} POD modes"),
        ("parts", str(report["parts"])),
        *size_rows(report),
        ("time", f"{report['seconds']:.1f} s"),
    ]
    return table(f"{source} -> {store}", rows)


def compact_table(report: Facts, store: str) -> str:
    rows = [
        ("parts", f"{report['parts']}, were {report['parts_before']}"),
        *([("left as it is", report["why"])] if report["why"] else []),
        *error_rows(report["relative_l2_error"], report["tolerance"]),
        ("rank", f"{report['rank']} POD modes"),
        ("store", f"{size(report['stored_bytes'])}, was {size(report['bytes_before'])}"),
        ("time", f"{report['seconds']:.1f} s, {report['cpu_seconds']:.1f} s of CPU"),
    ]
    return table(store, rows)


def with_advice(text: str, report: Facts) -> str:
    return f"{text}\n\n{report['advice']}" if report.get("advice") else text


def verify_table(report: Facts, source: str, store: str) -> str:
    outcome = "keeps its bound" if report["ok"] else "BREAKS ITS BOUND"
    rows = [
        *error_rows(report["relative_l2_error"], report["tolerance"]),
        *bounded_rows(report),
        *([("worst place", report["worst"])] if report["worst"] else []),
        *(("problem", problem) for problem in report["problems"]),
        *continued("error by index", limited(index_lines(report["by_index"]))),
        *(("warning", warning) for warning in limited(report["warnings"])),
        *(
            row
            for title, lines in measure_lines(report["measures"]).items()
            for row in continued(title, limited(lines))
        ),
        ("compared", f"{100 * report['compared']:.3g} % of the values"),
        ("time", f"{report['seconds']:.1f} s"),
    ]
    return table(f"{store} {outcome} against {source}", rows)


def index_rows(found: Mapping[str, Facts]) -> list[tuple[str, str]]:
    """The largest error of single indices of each variable that has bounds on them.

    >>> index_rows({"u": {"dims": ["lev"], "errors": [0.008, 0.0095]}})
    [('largest by index', 'u  9.500e-03 of its own fluctuation, at any lev')]
    """
    width = max(map(len, found), default=0)
    lines = [
        f"{name:<{width}}  {max(each['errors']):.3e} of its own fluctuation, at any "
        + " and ".join(each["dims"])
        for name, each in found.items()
        if each["dims"] and each["errors"]
    ]
    return continued("largest by index", lines)


def layer_rows(layers: Mapping[str, Sequence[float]]) -> list[tuple[str, str]]:
    """The errors at which a part of the bytes can be read.

    >>> layer_rows({"u": [0.098, 0.0297]})
    [('read in layers', 'u  with errors of 9.8e-02, 3.0e-02')]
    """
    width = max(map(len, layers), default=0)
    lines = [
        f"{name:<{width}}  with errors of {', '.join(f'{each:.1e}' for each in errors)}"
        for name, errors in layers.items()
    ]
    return continued("read in layers", lines)


def limited(lines: Sequence[str]) -> list[str]:
    """The first of many lines, and how many more there are."""
    more = len(lines) - LISTED
    return [*lines[:LISTED], *([f"and {more} more"] if more > 0 else [])]


def info_table(info: Facts, store: str) -> str:
    rows = [
        *error_rows(info["relative_l2_error"], info["tolerance"]),
        *index_rows(info["errors_by_index"]),
        *layer_rows(info["layers"]),
        *bounded_rows(info),
        ("error measured by", info["error_measured_by"]),
        ("rank", f"{info['rank']} POD modes"),
        ("energy by mode", energies(info["energy_by_mode"])),
        ("model", terms(info)),
        *continued("terms by bytes", bytes_of_terms(info["model"])),
        ("kept samples", f"{info['kept_samples']} of {info['snapshots']} snapshots"),
        *continued("predicted by", predictors(info["prediction"])),
        *size_rows(info),
        *continued("bytes of", [f"{k}: {size(v)}" for k, v in info["bytes_by_part"].items()]),
        *continued("variable", [f"{k}: {shape(v)}" for k, v in info["variables"].items()]),
        *continued("order", order_lines(info["orders"])),
        *continued("without POD", [f"snapshots {a} to {b - 1}" for a, b in info["episodes"]]),
        *continued("time", [plain(info["time"])]),
        *continued("source", [f"{k}: {plain(v)}" for k, v in info["source"].items()]),
        ("written with", plain(info["versions"])),
        ("format", str(info["format"])),
    ]
    return with_advice(table(store, rows), info)


def order_lines(orders: Mapping[str, Sequence[str]]) -> list[str]:
    """Say how points of meshes are ordered in a store.

    >>> order_lines({"cell": ["lon", "lat"]})
    ['points of cell ordered along a Hilbert curve through lon, lat']
    """
    return [
        f"points of {dim} ordered along a Hilbert curve through {', '.join(names)}"
        for dim, names in orders.items()
    ]


def shape(variable: Facts) -> str:
    """Describe dims with their lengths, the dtype and the coding.

    >>> shape({"dims": ["time", "x"], "shape": [240, 192], "dtype": "float32", "coding": "pod"})
    'time 240, x 192; float32; POD modes'
    """
    dims = zip(variable["dims"], variable["shape"], strict=True)
    lengths = ", ".join(f"{dim} {length}" for dim, length in dims)
    residuals = " and residuals" if variable.get("corrected") else ""
    return f"{lengths}; {variable['dtype']}; {CODINGS[variable['coding']]}{residuals}"


def terms(info: Facts) -> str:
    """Count the terms and the regimes.

    >>> terms({"nonzero_terms": 54, "model": {"terms": [27, 27], "decodes": True}})
    '54 terms, for 2 regimes'
    >>> terms({"nonzero_terms": 12, "model": {"terms": [12], "decodes": False}})
    '12 terms, not used for decoding'
    """
    regimes, count = len(info["model"]["terms"]), info["nonzero_terms"]
    unused = ", not used for decoding" if count and not info["model"]["decodes"] else ""
    return f"{count} terms" + (f", for {regimes} regimes" if regimes > 1 else "") + unused


def bytes_of_terms(model: Facts) -> list[str]:
    """Explain the choice of terms by the bytes that they cost.

    >>> model = {"bytes": {"model": 1650, "none": 2400}, "tried": [[10, 8, 1700], [10, 6, 1650]]}
    >>> print("\\n".join(bytes_of_terms(model)))
    the coefficients take 1.6 kB with the model (terms included), 2.4 kB without
    8 terms of a library of 10: 1.7 kB
    6 terms of a library of 10: 1.6 kB
    """
    if "bytes" not in model:
        return []
    with_it, without = model["bytes"]["model"], model["bytes"]["none"]
    first = f"the coefficients take {size(with_it)} with the model (terms included), "
    first += f"{size(without)} without"
    if with_it >= without:
        first += ": it is kept for reading only"
    return [
        first,
        *(f"{n} terms of a library of {p}: {size(b)}" for p, n, b in model["tried"]),
    ]


def predictors(prediction: Facts) -> list[str]:
    """List what predicts the coefficients; wavelets code the rest.

    >>> found = {"blocks": 12, "modelled_blocks": 3, "polynomial_orders": [5, 4, 0, 1]}
    >>> print("\\n".join(predictors(found)))
    the model in 3 of 12 time blocks
    polynomials of degree 4, 3, 0 for modes 1, 2, 4
    """
    if not prediction:
        return []
    modelled, blocks = prediction["modelled_blocks"], prediction["blocks"]
    lines = [f"the model in {modelled} of {blocks} time blocks"] if modelled else []
    orders = {k: order for k, order in enumerate(prediction["polynomial_orders"], 1) if order}
    if orders:
        degrees = ", ".join(str(order - 1) for order in orders.values())
        lines.append(f"polynomials of degree {degrees} for modes {', '.join(map(str, orders))}")
    return lines


def continued(name: str, lines: Iterable[str]) -> list[tuple[str, str]]:
    """Make the rows of a fact with several lines."""
    return [("" if i else name, line) for i, line in enumerate(lines)]


def energies(shares: Sequence[float], most: int = 6) -> str:
    """Format the shares of the leading modes in per cent."""
    leading = ", ".join(f"{100 * share:.3g}" for share in shares[:most])
    return f"{leading}{' ...' if len(shares) > most else ''} %" if shares else "none"


def plain(value: Any) -> str:
    """Format a fact of any shape in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def ratio(value: float) -> str:
    """Format a compression ratio.

    >>> ratio(39.52), ratio(1341.2)
    ('39.5', '1,341')
    """
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def age(seconds: float | None) -> str:
    """Format elapsed time in a suitable unit.

    >>> age(30), age(5400), age(3 * 86400), age(None)
    ('30 s', '90 min', '3 d', '-')
    """
    if seconds is None:
        return "-"
    for unit, length, most in (("s", 1, 120), ("min", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
