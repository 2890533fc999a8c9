"""Many cases of one kind: ``python -m tests.strange KIND FIRST COUNT``; faults are told at once."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
import tempfile
import traceback
from collections import Counter

kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
run_case = importlib.import_module(f"tests.strange.{kind}").run_case
if os.access("/dev/shm", os.W_OK):
    tempfile.tempdir = "/dev/shm"
found: Counter[str] = Counter()
for seed in range(first, first + count):
    # What hangs in C answers no signal.
    faulthandler.dump_traceback_later(120, exit=True)
    try:
        found[run_case(seed)] += 1
    except Exception as error:
        found[f"WRONG {type(error).__name__}"] += 1
        print(f"--- {kind} {seed}\n{traceback.format_exc()}", flush=True)
faulthandler.cancel_dump_traceback_later()
for outcome, times in sorted(found.items()):
    print(times, outcome)
