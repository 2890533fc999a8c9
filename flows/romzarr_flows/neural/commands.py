"""The commands ``romzarr neural``: each runs an operation and writes a page and a picture."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from romzarr.errors import ConfigError, LibraryError, PipelineError
from romzarr_flows.commands import extras


def folder(options: Namespace) -> Path:
    found = Path(options.directory)
    found.mkdir(parents=True, exist_ok=True)
    return found


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {path}", file=sys.stderr)


def train(options: Namespace) -> int:
    """Train operators; write weights, curves, a page and a picture."""
    with extras("neural"):
        from romzarr.neural.files import save_curves, save_operators
        from romzarr.neural.operations import operations
        from romzarr.neural.training import train
        from romzarr_flows.neural.pages import training_page
        from romzarr_flows.neural.pictures import draw_curves
    if options.epochs < 100 or options.seeds < 1:
        raise ConfigError("--epochs must be 100 or more and --seeds 1 or more")
    where = folder(options)
    trained = train(
        operations(tuple(options.operators)),
        epochs=options.epochs,
        seeds=options.seeds,
        seed=options.seed,
        finish=not options.unfinished,
    )
    command = f"romzarr neural train --epochs {options.epochs} --seeds {options.seeds}"
    command += f" --seed {options.seed}" if options.seed else ""
    command += " --unfinished" if options.unfinished else ""
    save_operators(where / "operators.safetensors", trained.operators, command)
    save_curves(where / "curves.safetensors", trained, command)
    draw_curves(trained, where / "training.png")
    write(where / "training.md", training_page(trained, command, "training.png"))
    return 0


def run(options: Namespace) -> int:
    """Do one run on the reference problem; write a page and a picture."""
    with extras("neural"):
        from romzarr.neural.runs import RUNS, Problem, cures
        from romzarr_flows.neural.pages import cures_page, run_page
        from romzarr_flows.neural.pictures import draw_cures, draw_run
    if options.seeds < 1 or not options.sigma >= 0:
        raise ConfigError("--seeds must be 1 or more and --sigma 0 or more")
    where, name = folder(options), f"run-{options.which}"
    problem = Problem.reference(options.sigma, options.seeds)
    with extras("neural"):
        if options.which == "cures":
            found = cures(problem)
            draw_cures(found, where / f"{name}.png")
            write(where / f"{name}.md", cures_page(found, f"{name}.png"))
        else:
            result = RUNS[options.which](problem)
            draw_run(result, where / f"{name}.png")
            write(where / f"{name}.md", run_page(result, f"{name}.png"))
    return 0


def beyond(options: Namespace) -> int:
    """Run the default method on other systems; write a page and a picture for each."""
    with extras("neural"):
        from romzarr_flows.neural.pages import run_page
        from romzarr_flows.neural.pictures import draw_run
    from romzarr.neural.runs import beyond
    from romzarr.neural.systems import BEYOND

    where = folder(options)
    for system in BEYOND:
        _, result = beyond(system, options.noise, options.seeds)
        name = system.name.lower().replace(" ", "-")
        draw_run(result, where / f"{name}.png")
        write(where / f"{name}.md", run_page(result, f"{name}.png"))
    return 0


def distill(options: Namespace) -> int:
    """Print the formulas of trained operators."""
    from romzarr.neural.distill import distill
    from romzarr.numerics.dynamics.networks import read_operators, shipped_operators
    from romzarr_flows.neural.pages import distilled_page

    operators = shipped_operators()
    if options.weights:
        try:
            operators = read_operators(Path(options.weights).read_bytes())
        except LibraryError as error:
            raise LibraryError(f"{options.weights}: {error}") from error
    found = [distill(operator) for operator in operators]
    print(distilled_page(found))
    return 0 if all(each.found for each in found) else 1


def diagnose(options: Namespace) -> int:
    """Print collinear terms of a store's library, evaluated on its coefficients."""
    from romzarr.contracts import BlockSpan
    from romzarr.neural.collinearity import diagnose
    from romzarr.store.layout import JsonObject
    from romzarr.store.models import models_from_facts
    from romzarr.store.reading.reader import open_store

    last = open_store(options.store).last
    found = models_from_facts(JsonObject(last.facts, options.store).object("model"))
    if found is None:
        raise PipelineError(f"{options.store}: the store has no model, and so no library")
    latent, library = last.latent, found.library
    a = latent.span(BlockSpan(0, latent.snapshots))[:, : library.states]
    print(diagnose(library, a).words())
    return 0
