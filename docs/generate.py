"""Pages and pictures that are made from the project itself, so that they cannot drift.

The page of all commands comes from their own help, the picture of the rooms from the imports,
and the pages that live beside the code (benchmarks, deployment, changelog) are copied with links
that lead to other pages here, or name the file.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Files of the repository that are pages here, and the pages.
COPIED = {
    "deploy/README.md": "generated/deploy.md",
    "CONTRIBUTING.md": "generated/contributing.md",
    "CHANGELOG.md": "generated/changelog.md",
    "tests/benchmarks/COMPRESSION.md": "generated/benchmarks/compression.md",
    "tests/benchmarks/CODEC.md": "generated/benchmarks/codec.md",
    "pipeline/romzarr/store/FORMAT.md": "generated/format.md",
    "pipeline/romzarr/coding/FORMAT.md": "generated/coding_format.md",
    "pipeline/romzarr/codecs/FORMAT.md": "generated/codec_format.md",
    "tests/benchmarks/ROUGH.md": "generated/benchmarks/rough.md",
    "tests/benchmarks/ANSWERS.md": "generated/benchmarks/answers.md",
    "tests/benchmarks/READING.md": "generated/benchmarks/reading.md",
    "tests/benchmarks/RESULTS.md": "generated/benchmarks/results.md",
    "tests/benchmarks/IDENTIFICATION.md": "generated/benchmarks/identification.md",
    "tests/benchmarks/STREAMING.md": "generated/benchmarks/streaming.md",
    "tests/benchmarks/STREAMING_PEERS.md": "generated/benchmarks/streaming_peers.md",
    "tests/benchmarks/NIGHTLY.md": "generated/benchmarks/nightly.md",
    "tests/benchmarks/SCALE.md": "generated/benchmarks/scale.md",
    "tests/benchmarks/NEURAL.md": "generated/benchmarks/neural.md",
    "tests/benchmarks/LATENTS.md": "generated/benchmarks/latents.md",
    "tests/benchmarks/ACTIVATIONS.md": "generated/benchmarks/activations.md",
    "tests/torture/RESULTS.md": "generated/benchmarks/torture.md",
}
PAGES = {
    **COPIED,
    "config.yaml": "settings.md",
    "README.md": "index.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def pages(out: Path) -> None:
    """Write all that is generated into `out`; files that stay as they are are not touched."""
    _write(out / "commands.md", commands_page())
    for source, target in COPIED.items():
        _write(out.parent / target, copied(ROOT / source, out.parent / target))
    found = imports()
    _write(out / "rooms.md", rooms_table(found))
    draw_rooms(found, out / "rooms.svg")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


# --- pages that live beside the code ------------------------------------------------------


def copied(source: Path, target: Path) -> str:
    """The text of `source` with links that hold at `target`; pictures are copied there."""
    target.parent.mkdir(parents=True, exist_ok=True)

    def relinked(match: re.Match[str]) -> str:
        picture, text, link = match.groups()
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        file, _, anchor = link.partition("#")
        path = (source.parent / file).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{source}: the link {link} leads nowhere")
        if picture:
            shutil.copy(path, target.parent)
            return f"![{text}]({path.name})"
        name = path.relative_to(ROOT).as_posix()
        if name in PAGES:
            place = os.path.relpath(ROOT / "docs" / PAGES[name], target.parent)
            return f"[{text}]({place}{'#' + anchor if anchor else ''})"
        return f"`{name}`" if text in name else f"{text} (`{name}`)"

    return LINK.sub(relinked, source.read_text(encoding="utf-8"))


# --- commands -----------------------------------------------------------------------------


def commands_page() -> str:
    """Help of every command, in the order in which ``romzarr --help`` has them."""
    from romzarr_flows.arguments import parser

    lines = [
        "# Every command\n",
        "This page has the help of every command, as `--help` prints it; it is generated when",
        "the documentation is built.\n",
    ]
    for depth, name, command in walked("romzarr", parser()):
        lines += [
            f"{'#' * (depth + 2)} {name}\n",
            "```text",
            command.format_help().rstrip(),
            "```\n",
        ]
    return "\n".join(lines)


def walked(
    name: str, parser: argparse.ArgumentParser, depth: int = 0
) -> Iterator[tuple[int, str, argparse.ArgumentParser]]:
    """Every command below `parser`, with its depth and full name; `parser` first."""
    yield min(depth, 2), name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from walked(f"{name} {word}", command, depth + 1)


# --- rooms --------------------------------------------------------------------------------


def room(module: str) -> str:
    """The folder or single file, at most two below the top, that a module belongs to."""
    parts = module.split(".")
    if parts[0] == "romzarr_flows":
        return "romzarr_flows"
    if len(parts) > 2 and parts[1] in ("numerics", "store") and parts[2] in TWO_DEEP:
        return ".".join(parts[1:3])
    return parts[1] if len(parts) > 1 else "romzarr"


TWO_DEEP = ("pod", "dynamics", "reading", "writing")


def modules() -> dict[str, Path]:
    """Every module of ours by name."""
    found = {}
    for source in ("pipeline", "flows"):
        for path in sorted((ROOT / source).rglob("*.py")):
            parts = path.relative_to(ROOT / source).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """For each room the others that its modules import, wherever the statement stands."""
    every = modules()
    found: dict[str, set[str]] = {room(name): set() for name in every}
    for name, path in every.items():
        for imported in _imported(path):
            while imported and imported not in every:
                imported = imported.rpartition(".")[0]
            if imported:
                found[room(name)].add(room(imported))
    return {name: others - {name} for name, others in found.items()}


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floors(found: Mapping[str, set[str]]) -> dict[str, int]:
    """Height of every room: one above the highest that it imports."""
    heights: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in heights:
            heights[name] = 1 + max((height(other) for other in found[name]), default=-1)
        return heights[name]

    for name in found:
        height(name)
    return heights


def needed(found: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The imports that are not implied by others: what remains is enough to see the order."""
    below: dict[str, set[str]] = {}
    heights = floors(found)
    for name in sorted(found, key=lambda each: heights[each]):
        below[name] = found[name].union(*(below[other] for other in found[name]))
    return {
        name: {o for o in others if not any(o in below[p] for p in others)}
        for name, others in found.items()
    }


def rooms_table(found: Mapping[str, set[str]]) -> str:
    heights = floors(found)
    lines = ["| component | imports |", "|---|---|"]
    for name in sorted(found, key=lambda each: (-heights[each], each)):
        others = sorted(found[name], key=lambda each: (-heights[each], each))
        lines.append(f"| `{name}` | {', '.join(f'`{o}`' for o in others) or 'nothing of ours'} |")
    arrows = sum(map(len, found.values()))
    layers = max(heights.values()) + 1
    closing = f"\n{len(found)} components in {layers} layers, {arrows} arrows, no cycle.\n"
    return "\n".join(lines) + "\n" + closing


def draw_rooms(found: Mapping[str, set[str]], path: Path) -> None:
    """Draw the rooms by floors, with the imports that no others imply."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch

    heights = floors(found)
    levels = [
        [n for n in sorted(found) if heights[n] == h] for h in range(max(heights.values()) + 1)
    ]
    places = placed(levels, needed(found))
    figure = Figure(figsize=(11, 0.95 * len(levels)), layout="constrained")
    FigureCanvasSVG(figure)
    ax = figure.subplots()
    ax.set_axis_off()
    boxes = {name: draw_box(ax, name, places[name]) for name in found}
    ax.set(xlim=(-0.3, 5.3), ylim=(-0.5, len(levels) - 0.5))
    figure.canvas.draw()
    for name, others in needed(found).items():
        for other in others:
            patches = {"patchA": boxes[name], "patchB": boxes[other]}
            look = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 0.8, "color": "#888"}
            ax.add_patch(FancyArrowPatch(places[name], places[other], **look, **patches))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def draw_box(ax: Any, name: str, place: tuple[float, float]) -> Any:
    colour = COLOURS.get(name.split(".")[0], "#f2f2f2")
    look = {"boxstyle": "round,pad=0.35", "fc": colour, "ec": "#555"}
    text = ax.text(*place, name, ha="center", va="center", fontsize=10, zorder=3, bbox=look)
    return text.get_bbox_patch()


COLOURS = {
    "romzarr_flows": "#dfe8f5",
    "romzarr": "#dfe8f5",
    "operations": "#fde9d0",
    "streams": "#fde9d0",
    "views": "#fde9d0",
    "compression": "#fde9d0",
    "comparison": "#fde9d0",
    "reconstruction": "#fde9d0",
    "numerics": "#ddf0dd",
    "coding": "#ddf0dd",
    "chunked": "#ddf0dd",
    "neural": "#ddf0dd",
}


def placed(
    levels: list[list[str]], arrows: Mapping[str, set[str]]
) -> dict[str, tuple[float, float]]:
    """Centre of each box: even over its floor, in the order of what it is joined to."""
    places: dict[str, tuple[float, float]] = {}

    def spread(level: list[str], height: int) -> None:
        for number, name in enumerate(level):
            # Floors are shifted by turns: arrows that skip one then pass beside its boxes.
            aside = 0.3 * (-1) ** height
            places[name] = (5 * (number + 0.5) / len(level) + aside, float(height))

    for height, level in enumerate(levels):
        spread(level, height)
    joined = {name: {*arrows[name], *(o for o in arrows if name in arrows[o])} for name in arrows}
    for _ in range(8):
        for height, level in enumerate(levels):
            level.sort(
                key=lambda name: sum(places[o][0] for o in joined[name]) / max(len(joined[name]), 1)
            )
            spread(level, height)
    return places
