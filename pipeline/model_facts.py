"""What a store says of a model: of one that decodes, or of one whose equations are to be read.

Most models do not pay for the bytes that decoding with them takes. Their equations still say
something about the flow, so the leading ones stay as far as they take few bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.contracts import SparseModel
from pipeline.identify import LatentModel
from pipeline.numerics.library import Library
from pipeline.store.layout import compact_json
from pipeline.store.models import models_to_facts

# Equations that do not decode may take up this share of the bytes of all else, but no less
# than the one number and no more than the other.
EQUATION_SHARE, EQUATION_BYTES = 0.05, (256, 800)
# Terms that cannot be told apart from others, in words.
DEPENDENT = 8


def model_facts(model: LatentModel) -> dict[str, Any]:
    """Facts of a model, and how many terms it has."""
    tried = {
        "bytes": {"model": model.nbytes, "none": model.plain_bytes},
        "tried": [list(each) for each in model.tried],
    }
    library, first = model.systems.library, model.models[0]
    if not model.decodes:
        most = float(np.clip(EQUATION_SHARE * model.coded_bytes, *EQUATION_BYTES))
        noted = equation_facts(library, first, int(most))
        return noted | {"model": noted["model"] | tried}
    plan, states = model.systems.plan, library.states
    return {
        "nonzero_terms": model.nonzero_terms,
        "model": {
            **models_to_facts(library, model.models, states, decode=True),
            "test_function": plan.test_function.spec(),
            "support": plan.support,
            "stride": plan.stride,
            "windows": model.systems.pooled.windows,
            "threshold": first.threshold,
            "stop_reason": first.stop_reason,
            "dependent": list(first.dependent[:DEPENDENT]),
            **tried,
        },
    }


def equation_facts(
    library: Library, model: SparseModel, most_bytes: int = EQUATION_BYTES[1]
) -> dict[str, Any]:
    """The leading equations of a model that does not decode, as many as fit so many bytes.

    None at all if none of these has a term.
    """
    terms = np.cumsum(np.count_nonzero(model.coefficients, axis=0)).tolist()
    for count in range(len(terms), 0, -1):
        found = models_to_facts(library, [model], count, decode=False)
        if terms[count - 1] and len(compact_json(found)) <= most_bytes:
            return {"nonzero_terms": terms[count - 1], "model": found}
    return {"nonzero_terms": 0, "model": {"decodes": False}}
