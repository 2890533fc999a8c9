"""The stretches of a long record that equations are looked for in."""

from __future__ import annotations

import numpy as np

# Samples that are looked at: of more, stretches of the record.
MOST_SAMPLES, STRETCHES = 4000, 4


def stretches(samples: int) -> list[slice]:
    """Stretches of a record, evenly spread."""
    if samples <= MOST_SAMPLES:
        return [slice(samples)]
    length = MOST_SAMPLES // STRETCHES
    starts = np.linspace(0, samples - length, STRETCHES).astype(int).tolist()
    return [slice(start, start + length) for start in starts]
