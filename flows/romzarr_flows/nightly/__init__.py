"""Unattended compression of an archive of many datasets: ``romzarr nightly``, ``romzarr status``.

`plan` decides what to do, `run` does it under a `lock`, and `catalogue` records the outcomes. The
stores take precedence over the catalogue, which is rebuilt from them if it is lost.
"""

from __future__ import annotations

from romzarr.errors import PipelineError


class CannotRunError(PipelineError):
    """The run cannot start: a location is unreachable, or another run holds the lock."""
