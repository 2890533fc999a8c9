"""Expressions that users write in a config file, checked node by node and never executed.

``parse`` walks Python's syntax tree and keeps only what it knows: numbers, the announced
names, ``+ - * / **``, unary minus and calls of a few functions. What it keeps is a nest of
plain tuples that is evaluated with numpy, printed, or differentiated by way of SymPy.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from romzarr.errors import LibraryError

if TYPE_CHECKING:
    import sympy

MAX_LENGTH = 400
MAX_DEPTH = 24
MAX_DEGREE = 64  # of any power, and of powers of powers taken together
MAX_NUMBER = 1e15

_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "cosh": np.cosh,
    "sinh": np.sinh,
    "abs": np.abs,
}
_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
}
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "**": 4}

# ("number", value) | ("name", name) | ("neg", node) | (operator, left, right) | (function, node)
Node = tuple[Any, ...]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Expression:
    """A checked expression; build it with `parse`."""

    text: str
    names: tuple[str, ...]
    tree: Node

    def evaluate(self, values: Mapping[str, Values]) -> Values:
        """Value with each name replaced by its array (broadcast against one another).

        Numbers outside a function's domain give NaN or inf, without a warning.
        """
        with np.errstate(all="ignore"):
            return np.asarray(_evaluate(self.tree, values), dtype=np.float64)

    def derivative(self, name: str) -> Expression:
        """Derivative with respect to `name`, found by SymPy."""
        import sympy

        symbols = {n: sympy.Symbol(n, real=True) for n in self.names}
        slope = sympy.diff(_to_sympy(self.tree, symbols), symbols[name])
        tree = _from_sympy(slope, self.text)
        return Expression(_text(tree), self.names, tree)

    def latex(self, latex_names: Mapping[str, str] | None = None) -> str:
        """LaTeX of the expression; `latex_names` says how to print its names."""
        return _latex(self.tree, latex_names or {})


def parse(text: str, names: Collection[str]) -> Expression:
    """Check and parse `text`, in which only `names` may appear as variables.

    Raises
    ------
    LibraryError
        Naming the piece that is not allowed, and what is.
    """
    allowed = tuple(names)
    if not isinstance(text, str):
        raise LibraryError(f"an expression must be text, got {text!r}")
    if len(text) > MAX_LENGTH:
        raise LibraryError(f"expression has {len(text)} characters, at most {MAX_LENGTH} allowed")
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LibraryError(f"cannot read expression {text!r}: {error}") from error
    tree = _checked(body, text, allowed, depth=0)
    if _degree(tree) > MAX_DEGREE:
        raise LibraryError(
            f"expression {text!r} has powers of degree {_degree(tree):g}, "
            f"at most {MAX_DEGREE} allowed"
        )
    return Expression(_text(tree), allowed, tree)


def _checked(node: ast.expr, text: str, names: tuple[str, ...], depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise LibraryError(f"expression {text!r} is nested deeper than {MAX_DEPTH} levels")

    def below(child: ast.expr) -> Node:
        return _checked(child, text, names, depth + 1)

    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as value):
            if not abs(value) <= MAX_NUMBER:
                raise LibraryError(f"number {value!r} in {text!r} is above {MAX_NUMBER:g}")
            return ("number", float(value))
        case ast.Name(id=name) if name in names:
            return ("name", name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _folded(("neg", below(operand)), text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return below(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            symbol = _OPERATORS[type(op)]
            tree = _folded((symbol, below(left), below(right)), text)
            if symbol == "**":
                _check_power(tree, text)
            return tree
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if (
            name in _FUNCTIONS and not isinstance(argument, ast.Starred)
        ):
            return _folded((name, below(argument)), text)
    piece = ast.get_source_segment(text.strip(), node) or text
    raise LibraryError(
        f"{piece!r} is not allowed in expression {text!r}: use numbers, "
        f"{', '.join(names) or 'no names'}, + - * / **, and {' '.join(sorted(_FUNCTIONS))} "
        f"of one argument"
    )


def _folded(tree: Node, text: str) -> Node:
    """`tree`, as one number if no name is in it; such a number must be finite and modest."""
    if any(child[0] != "number" for child in tree[1:]):
        return tree
    with np.errstate(all="ignore"):
        try:
            value = float(_evaluate(tree, {})) + 0.0  # never -0.0: 1 / -(0) is 1 / 0
        except (OverflowError, ZeroDivisionError):
            value = math.inf
    if not abs(value) <= MAX_NUMBER:
        raise LibraryError(
            f"{_text(tree)} in expression {text!r} is not a number of size below {MAX_NUMBER:g}"
        )
    return ("number", value)


def _check_power(tree: Node, text: str) -> None:
    if tree[0] != "**":
        return  # folded
    exponent = tree[2]
    if exponent[0] != "number" or abs(exponent[1]) > MAX_DEGREE:
        raise LibraryError(
            f"exponent {_text(exponent)!r} in expression {text!r}: "
            f"only numbers up to {MAX_DEGREE} are allowed"
        )


def _degree(tree: Node) -> float:
    """Bound on the polynomial degree, so that powers of powers cannot grow without limit."""
    match tree:
        case ("number", _):
            return 0.0
        case ("name", _):
            return 1.0
        case ("**", base, ("number", exponent)):
            return max(1.0, abs(exponent)) * max(1.0, _degree(base))
        case ("*" | "/", left, right):
            return _degree(left) + _degree(right)
        case (_, *children):
            return max(1.0, *(_degree(child) for child in children))
    raise AssertionError(tree)


def _evaluate(tree: Node, values: Mapping[str, Values]) -> Any:
    match tree:
        case ("number", value):
            return np.float64(value)
        case ("name", name):
            return values[name]
        case ("neg", operand):
            return -_evaluate(operand, values)
        case ("+", left, right):
            return _evaluate(left, values) + _evaluate(right, values)
        case ("-", left, right):
            return _evaluate(left, values) - _evaluate(right, values)
        case ("*", left, right):
            return _evaluate(left, values) * _evaluate(right, values)
        case ("/", left, right):
            return _evaluate(left, values) / _evaluate(right, values)
        case ("**", base, ("number", exponent)):
            return _power(_evaluate(base, values), exponent)
        case ("**", base, exponent):
            return _evaluate(base, values) ** _evaluate(exponent, values)
        case ("sign", operand):
            return np.sign(_evaluate(operand, values))
        case (name, operand):
            return _FUNCTIONS[name](_evaluate(operand, values))
    raise AssertionError(tree)


def _power(base: Any, exponent: float) -> Any:
    if exponent == int(exponent) and exponent >= 0:
        result: Any = np.float64(1.0)  # numpy's pow is ten times slower than products
        bits, square = int(exponent), base
        while bits:
            result = result * square if bits & 1 else result
            bits >>= 1
            square = square * square if bits else square
        return result
    return base**exponent


def _to_sympy(tree: Node, symbols: Mapping[str, sympy.Symbol]) -> Any:
    """SymPy tree with exact numbers, which SymPy keeps symbolic inside functions."""
    import sympy

    children = [_to_sympy(child, symbols) for child in tree[1:] if isinstance(child, tuple)]
    match tree[0]:
        case "number":
            return sympy.Rational(repr(tree[1]))
        case "name":
            return symbols[tree[1]]
        case "neg":
            return -children[0]
        case "+":
            return children[0] + children[1]
        case "-":
            return children[0] - children[1]
        case "*":
            return children[0] * children[1]
        case "/":
            return children[0] / children[1]
        case "**":
            return children[0] ** children[1]
        case "abs":
            return sympy.Abs(children[0])
        case name:
            return getattr(sympy, name)(children[0])


def _from_sympy(expression: Any, text: str) -> Node:
    import sympy

    def below(child: Any) -> Node:
        return _from_sympy(child, text)

    if expression.is_number:
        return ("number", float(expression))
    if expression.is_Symbol:
        return ("name", expression.name)
    if expression.is_Add or expression.is_Mul:
        operator = "+" if expression.is_Add else "*"
        tree, *rest = (below(child) for child in expression.args)
        for child in rest:
            tree = (operator, tree, child)
        return tree
    if expression.is_Pow and expression.exp.is_number:
        return ("**", below(expression.base), ("number", float(expression.exp)))
    name = {"Abs": "abs"}.get(type(expression).__name__, type(expression).__name__)
    if name in _FUNCTIONS or name == "sign":
        return (name, below(expression.args[0]))
    raise LibraryError(f"the derivative of {text!r} has a part {sympy.sstr(expression)!r}")


def _number_text(value: float) -> str:
    return f"{int(value)}" if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _text(tree: Node, parent: int = 0) -> str:
    match tree:
        case ("number", value):
            return f"({_number_text(value)})" if value < 0 and parent else _number_text(value)
        case ("name", name):
            return str(name)
        case ("neg", operand):
            inner = f"-{_text(operand, 3)}"
        case ("+" | "-" | "*" | "/" | "**" as operator, left, right):
            level = _PRECEDENCE[operator]
            # The right side of - and /, and the left of **, need brackets at equal rank.
            sides = (level + 1, level) if operator == "**" else (level, level + 1)
            gap = "" if operator == "**" else " "
            inner = f"{_text(left, sides[0])}{gap}{operator}{gap}{_text(right, sides[1])}"
        case (name, operand):
            return f"{name}({_text(operand)})"
    return f"({inner})" if _PRECEDENCE[tree[0]] < parent else inner


def _latex(tree: Node, names: Mapping[str, str], parent: int = 0) -> str:
    match tree:
        case ("number", value):
            text = _number_text(value)
            return rf"\left({text}\right)" if value < 0 and parent else text
        case ("name", name):
            return names.get(name, name)
        case ("abs", operand):
            return rf"\left|{_latex(operand, names)}\right|"
        case ("sqrt", operand):
            return rf"\sqrt{{{_latex(operand, names)}}}"
        case ("/", left, right):
            return rf"\frac{{{_latex(left, names)}}}{{{_latex(right, names)}}}"
        case ("neg", operand):
            inner = f"-{_latex(operand, names, 3)}"
        case ("**", base, exponent):
            inner = f"{_latex(base, names, 5)}^{{{_latex(exponent, names)}}}"
        case ("+" | "-" | "*" as operator, left, right):
            level = _PRECEDENCE[operator]
            sign = r"\," if operator == "*" else f" {operator} "
            inner = f"{_latex(left, names, level)}{sign}{_latex(right, names, level + 1)}"
        case (name, operand):
            return rf"\{name}\left({_latex(operand, names)}\right)"
    return rf"\left({inner}\right)" if _PRECEDENCE[tree[0]] < parent else inner
