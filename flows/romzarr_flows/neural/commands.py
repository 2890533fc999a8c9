"""The commands ``romzarr neural``: each runs an operation and writes a page and a picture."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from romzarr.errors import ConfigError, LibraryError, PipelineError
from romzarr.neural.systems import SystemName, made
from romzarr.numerics.dynamics.networks import (
    MAX_OPERATORS,
    Operator,
    read_operators,
    shipped_operators,
)
from romzarr_flows.commands import extras

if TYPE_CHECKING:
    from romzarr.neural.runs import Problem

SHORTEST_RECORD = 100  # samples


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
    from romzarr.neural.operations import OPERATIONS, operations, own_operation

    if options.epochs < 100 or options.seeds < 1:
        raise ConfigError("--epochs must be 100 or more and --seeds 1 or more")
    own = tuple(own_operation(text, options.reach) for text in options.operator)
    names = options.operators
    if names is None:
        names = [] if own else [each.name for each in OPERATIONS]
    wanted = (*operations(tuple(names)), *own)
    copied = _copied([each.name for each in wanted]) if own else ()
    with extras("neural"):
        from romzarr.neural.files import save_curves, save_operators
        from romzarr.neural.training import train
        from romzarr_flows.neural.pages import training_page
        from romzarr_flows.neural.pictures import draw_curves
    where = folder(options)
    trained = train(
        wanted,
        epochs=options.epochs,
        seeds=options.seeds,
        seed=options.seed,
        finish=not options.unfinished,
    )
    command = _training_command(options)
    save_operators(where / "operators.safetensors", (*copied, *trained.operators), command)
    save_curves(where / "curves.safetensors", trained, command)
    draw_curves(trained, where / "training.png")
    write(where / "training.md", training_page(trained, command, "training.png"))
    return 0


def _copied(trained: Sequence[str]) -> tuple[Operator, ...]:
    """Shipped operators that a file with operators of a user's own holds besides."""
    copied = tuple(each for each in shipped_operators() if each.name not in trained)
    if len(set(trained)) < len(trained):
        raise ConfigError(f"operators need different names, got {', '.join(trained)}")
    if len(copied) + len(trained) > MAX_OPERATORS:
        raise ConfigError(
            f"--operator was given too often: a library has at most {MAX_OPERATORS} operators, "
            f"of which {len(copied)} ship with romzarr"
        )
    return copied


def _training_command(options: Namespace) -> str:
    """The command that trains the same operators again."""
    command = f"romzarr neural train --epochs {options.epochs} --seeds {options.seeds}"
    command += f" --seed {options.seed}" if options.seed else ""
    command += " --unfinished" if options.unfinished else ""
    for text in options.operator:
        command += f" --operator {shlex.quote(text)}"
    if options.operator:
        command += f" --reach {options.reach:g}"
    return command


def run(options: Namespace) -> int:
    """Do one run on a system; write a page and a picture."""
    with extras("neural"):
        from romzarr.neural.runs import RUNS, cures, named
        from romzarr_flows.neural.pages import cures_page, run_page
        from romzarr_flows.neural.pictures import draw_cures, draw_run
    problem = _problem(options)
    where, name = folder(options), f"run-{options.which}"
    with extras("neural"):
        if options.which == "cures":
            found = cures(problem)
            draw_cures(found, where / f"{name}.png")
            write(where / f"{name}.md", cures_page(found, f"{name}.png"))
        else:
            result = RUNS[options.which](problem)
            if options.system != SystemName.OSCILLATOR.value:
                name = f"{name}-{options.system}"
                result = named(result, problem.system)
            draw_run(result, where / f"{name}.png")
            write(where / f"{name}.md", run_page(result, f"{name}.png"))
    return 0


def _problem(options: Namespace) -> Problem:
    """The records that the options ask for."""
    from romzarr.neural.runs import Problem

    noise = options.sigma if options.noise is None else options.noise
    if options.seeds < 1 or not noise >= 0:
        raise ConfigError("--seeds must be 1 or more, --sigma and --noise 0 or more")
    # The weak form of runs by routers needs some windows.
    if options.length is not None and options.length < SHORTEST_RECORD:
        raise ConfigError(f"--length must be {SHORTEST_RECORD} or more, got {options.length}")
    if options.dt is not None and not options.dt > 0:
        raise ConfigError(f"--dt must be above 0, got {options.dt}")
    system = made(
        SystemName(options.system),
        k=options.k,
        c=options.c,
        x0=options.x0,
        step=options.dt,
        samples=options.length,
    )
    make = Problem.absolute if options.noise is None else Problem.relative
    seeds = range(options.seed, options.seed + options.seeds)
    return make(system, noise, seeds, _operators(options.weights))


def _operators(weights: str | None) -> tuple[Operator, ...]:
    """Operators of a file, or those that ship."""
    if not weights:
        return shipped_operators()
    try:
        return read_operators(Path(weights).read_bytes())
    except LibraryError as error:
        raise LibraryError(f"{weights}: {error}") from error
    except OSError as error:
        raise ConfigError(f"{weights}: cannot be read: {error.strerror}") from error


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
    from romzarr_flows.neural.pages import distilled_page

    found = [distill(operator) for operator in _operators(options.weights)]
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
