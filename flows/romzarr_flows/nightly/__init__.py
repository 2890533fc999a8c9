"""Keeping an archive of many datasets compressed, unattended: ``romzarr nightly``, ``status``.

`plan` says what is to be done and why; `run` does it one dataset after another under a `lock`;
`catalogue` remembers what became of each. What the stores say about themselves counts more than
the catalogue: if that is lost, it is made again from them.
"""

from __future__ import annotations

from romzarr.errors import PipelineError


class CannotRunError(PipelineError):
    """Nothing can be done for any dataset: a place is unreachable, or another run is at work."""
