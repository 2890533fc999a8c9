"""What strangers give: archives, settings and arguments that are changed at random.

Each module has a ``run_case(seed)`` for `tests.torture.generated`, and runs many cases by itself::

    python -m tests.strange archives 0 1000
"""
