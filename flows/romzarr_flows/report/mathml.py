"""Translates equations from LaTeX to MathML, which browsers typeset.

Libraries use a small subset of LaTeX for their terms (`Library.latex`): numbers, ``a_{1}``, powers,
functions, fractions, roots and brackets.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from html import escape

import numpy as np

from romzarr.operations.describe import Equations, Regime

# Equations typeset, and the largest terms of each: a few screens.
EQUATIONS, TERMS = 12, 40
MINUS = "\N{MINUS SIGN}"

_TOKEN = re.compile(
    r"""\\mathrm\{(?P<name>(?:\\_|[^{}])*)\}
    |\\left(?P<open>.)|\\right(?P<close>.)|\\(?P<command>[a-zA-Z]+)
    |(?P<number>\d+\.?\d*(?:e[+-]?\d+)?)|(?P<letter>[a-zA-Z])
    |(?P<script>[_^])|(?P<begin>\{)|(?P<end>\})
    |(?P<blank>\\,|\s+)|(?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)


class _Reader:
    """A recursive-descent parser; every piece of a term becomes one MathML element."""

    def __init__(self, latex: str) -> None:
        found = (
            (match.lastgroup or "", match[match.lastgroup or 0]) for match in _TOKEN.finditer(latex)
        )
        self.tokens = deque(token for token in found if token[0] != "blank")

    def row(self, end: str = "") -> str:
        """Parse up to and including a closing token."""
        found: list[str] = []
        while self.tokens:
            kind, text = self.tokens.popleft()
            if kind == end:
                break
            found.append(self._with_scripts(self._piece(kind, text)))
        return found[0] if len(found) == 1 else f"<mrow>{''.join(found)}</mrow>"

    def _piece(self, kind: str, text: str) -> str:
        match kind, text:
            case "open", _:
                closing = {"(": ")"}.get(text, text)
                return f"<mrow>{_operator(text)}{self.row('close')}{_operator(closing)}</mrow>"
            case "command", "frac":
                return f"<mfrac>{self._argument()}{self._argument()}</mfrac>"
            case "command", "sqrt":
                return f"<msqrt>{self._argument()}</msqrt>"
            case "begin", _:
                return self.row("end")
            case "name" | "command", _:
                return f'<mi mathvariant="normal">{escape(text.replace(chr(92), ""))}</mi>'
            case "number", _:
                return f"<mn>{text}</mn>"
            case "letter", _:
                return f"<mi>{text}</mi>"
        return _operator(text)

    def _argument(self) -> str:
        return self._piece(*self.tokens.popleft()) if self.tokens else "<mrow></mrow>"

    def _with_scripts(self, base: str) -> str:
        scripts: dict[str, str] = {}
        while self.tokens and self.tokens[0][0] == "script":
            _, which = self.tokens.popleft()
            scripts[which] = self._argument()
        match scripts:
            case {"_": below, "^": above}:
                return f"<msubsup>{base}{below}{above}</msubsup>"
            case {"_": below}:
                return f"<msub>{base}{below}</msub>"
            case {"^": above}:
                return f"<msup>{base}{above}</msup>"
        return base


def _operator(sign: str) -> str:
    return f"<mo>{escape(MINUS if sign == '-' else sign)}</mo>"


def term(latex: str) -> str:
    """Translate one term of a library.

    >>> term("a_{1}^{2}")
    '<msubsup><mi>a</mi><mn>1</mn><mn>2</mn></msubsup>'
    """
    return _Reader(latex).row()


def typeset(equations: Equations, regime: Regime) -> Iterator[tuple[str, list[str], int, float]]:
    """Translate the leading equations of a regime, except those that explain nothing.

    Yields the left side and a list of terms in MathML (lines break only between these), the number
    of omitted terms, and the residual.
    """
    leading = range(min(EQUATIONS, regime.coefficients.shape[1]))
    for k in (k for k in leading if k not in regime.unexplained):
        column = regime.coefficients[:, k]
        used = np.flatnonzero(column)
        largest = np.sort(used[np.argsort(-np.abs(column[used]))[:TERMS]])
        terms = [
            _signed(float(column[p]), equations.symbols[p], i == 0) for i, p in enumerate(largest)
        ]
        left = _math("<mover><mi>a</mi><mo>˙</mo></mover>", k + 1)
        nothing = ["<math><mn>0</mn></math>"]
        yield left, terms or nothing, len(used) - len(largest), regime.residual[k]


def _math(letter: str, number: int) -> str:
    return f"<math><msub>{letter}<mn>{number}</mn></msub><mo>=</mo></math>"


def _signed(value: float, latex: str, first: bool) -> str:
    sign = MINUS if value < 0 else "" if first else "+"
    mantissa, _, exponent = f"{abs(value):.4g}".partition("e")
    number = f"<mn>{mantissa}</mn>"
    if exponent:
        number += f"<mo>·</mo><msup><mn>10</mn><mn>{int(exponent)}</mn></msup>"
    shown = number if latex == "1" else f"{number}<mspace width='0.17em'/>{term(latex)}"
    return f"<math><mo form='infix'>{sign}</mo>{shown}</math>" if sign else f"<math>{shown}</math>"
