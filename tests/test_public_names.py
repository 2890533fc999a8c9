"""The operations are functions of `romzarr`, in whatever order they are first used."""

import subprocess
import sys

import pytest

OPERATIONS = (
    "Codec",
    "NumcodecsCodec",
    "StreamCompressor",
    "append",
    "compress",
    "verify",
    "reconstruct",
    "info",
    "equations",
    "groups",
    "field_model",
    "forecast",
    "identify",
    "right_hand_side",
    "integrate",
    "open",
)


@pytest.mark.parametrize("first", OPERATIONS)
def test_every_operation_can_be_called_after_any_other(first):
    # A submodule that is imported hides a function of the same name in its package.
    script = (
        f"import romzarr; romzarr.{first}\n"
        f"for name in {OPERATIONS}: assert callable(getattr(romzarr, name)), name\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
