"""What a store says of a model: of one that decodes, or of one whose equations are to be read.

Most models do not pay for the bytes that decoding with them takes. Their equations still say
something about the flow, so the leading ones stay as far as they take few bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from romzarr.compression.model import LatentModel
from romzarr.contracts import SparseModel
from romzarr.numerics.dynamics.library import Library
from romzarr.numerics.pod.roughness import runs
from romzarr.store.layout import compact_json
from romzarr.store.models import models_to_facts

# Equations that do not decode may take up this share of the bytes of all else, but no less
# than the one number and no more than the other.
EQUATION_SHARE, EQUATION_BYTES = 0.05, (500, 900)
# Terms that cannot be told apart from others, in words.
DEPENDENT = 8


def model_facts(model: LatentModel) -> dict[str, Any]:
    """Facts of a model, and how many terms it has."""
    tried = {
        "bytes": {"model": model.nbytes, "none": model.plain.nbytes},
        "tried": [list(each) for each in model.tried],
    }
    library, models = model.systems.library, model.models
    if not model.pays:
        most = float(np.clip(EQUATION_SHARE * model.coded_bytes, *EQUATION_BYTES))
        found = equation_facts(library, models, int(most))
        spans = {"spans": _spans(model)} if found["nonzero_terms"] and len(models) > 1 else {}
        return found | {"model": found["model"] | spans | tried}
    dependent = list(models[0].dependent[:DEPENDENT])
    return {
        "nonzero_terms": model.nonzero_terms,
        "model": {
            **models_to_facts(library, models, library.states, decode=True),
            "support": model.systems.plan.support,
            "windows": model.systems.pooled.windows,
            **({"dependent": dependent} if dependent else {}),
            **tried,
        },
    }


def _spans(model: LatentModel) -> list[list[list[int]]]:
    """First and last snapshot of each stretch of time that each of several models would serve."""
    code = model.latent.format
    count = int(code.index[-1]) + 1
    steps = code.block_steps
    return [
        [[steps * a, min(steps * b, count) - 1] for a, b in runs(code.block_model == number)]
        for number in range(len(model.models))
    ]


def equation_facts(
    library: Library, models: Sequence[SparseModel], most_bytes: int = EQUATION_BYTES[1]
) -> dict[str, Any]:
    """The leading equations of models that do not decode, as many as fit so many bytes.

    None at all if none of these has a term.
    """
    for count in range(models[0].coefficients.shape[1], 0, -1):
        terms = sum(int(np.count_nonzero(each.coefficients[:, :count])) for each in models)
        found = models_to_facts(library, models, count, decode=False)
        if terms and len(compact_json(found)) <= most_bytes:
            return {"nonzero_terms": terms, "model": found}
    return {"nonzero_terms": 0, "model": {"decodes": False}}
