"""A store before it counts, as its readers will see it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import Region
from pipeline.store.layout import Root
from pipeline.store.reader import open_draft


@dataclass(frozen=True)
class Draft:
    """What `pipeline.store.writer.StoreWriter.draft` completed; works in any process."""

    url: str
    root: Root

    def predict(
        self, variable: str, time_axis: int, region: Region, shaking: float = 0.0
    ) -> NDArray[np.float64]:
        """Values of a region, dims in the variable's order, before residuals and rounding.

        Parameters
        ----------
        variable : str
        time_axis : int
        region : tuple of slice
        shaking : float
            Relative error to put into samples of a(t), to see how much a model amplifies it.
        """
        store = replace(open_draft(self.url, self.root), shaking=shaking)
        space = region[:time_axis] + region[time_axis + 1 :]
        return store.predict(variable, region[time_axis], space)
