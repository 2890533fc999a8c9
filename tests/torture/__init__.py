"""The machine that looks for what the tests do not know yet: ``make torture``.

A *campaign* makes cases out of a seed, as many as there is time for, and says of each what came of
it. What is wrong is saved as a case that replays.
"""
