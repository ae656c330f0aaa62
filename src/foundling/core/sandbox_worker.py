"""The sandbox's worker: checks one expression against a list of what is allowed, then evaluates it on inputs.

Runs as a process of its own (`python -I -S sandbox_worker.py`), with nothing but the standard library. Every operation
that could grow without bound goes through a guard, and every iteration is counted, so that what is too much is refused
at the same place on every machine; limits on CPU time and memory, kept by the parent, are the net below.
"""

from __future__ import annotations

import ast
import json
import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_SOURCE = 2000  # characters of an expression
MAX_NESTING = 40
MAX_STEPS = 100_000  # iterations and elements made, in one evaluation
MAX_SIZE = 100_000  # elements or characters of one value
MAX_BITS = 4096  # of an integer
MAX_OUTPUT = 20_000  # characters of an encoded value


class NotAllowed(Exception):
    """The expression uses something outside the grammar."""


class TooMuch(Exception):
    """The evaluation would take more steps or room than it may."""


_STR = (
    *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdigit", "islower"),
    *("isspace", "istitle", "isupper", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind"),
    *("rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title"),
    "upper",
)
_GROWING = ("center", "join", "ljust", "replace", "rjust", "zfill")
_SET = ("difference", "intersection", "isdisjoint", "issubset", "issuperset", "symmetric_difference", "union", "copy")
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(_STR + _GROWING),
    list: frozenset({"count", "index", "copy"}),
    tuple: frozenset({"count", "index"}),
    dict: frozenset({"get", "items", "keys", "values", "copy"}),
    set: frozenset(_SET),
    int: frozenset({"bit_length"}),
}
_ALL_METHODS = frozenset().union(*METHODS.values())
_UNBOUND = {"str": frozenset(_STR)}  # `key=str.lower`: methods that cannot grow

_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Store, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Starred,
    ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.Invert, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv,
    ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr, ast.BitXor, ast.BoolOp, ast.And, ast.Or, ast.Compare, ast.Eq, ast.NotEq,
    ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn, ast.IfExp, ast.Call, ast.keyword,
    ast.Attribute, ast.Subscript, ast.Slice, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
    ast.comprehension, ast.JoinedStr, ast.FormattedValue, ast.Lambda, ast.arguments, ast.arg,
)  # fmt: skip


class Budget:
    """Steps of one evaluation."""

    def __init__(self) -> None:
        self.left = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Count steps. Raises TooMuch when there are none left."""
        self.left -= steps
        if self.left < 0:
            raise TooMuch("too many steps")

    def keep(self, value: Any) -> Any:
        """Pay for a value that was just made."""
        if isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                raise TooMuch("integer too large")
        elif isinstance(value, (str, list, tuple, dict, set)):
            if len(value) > MAX_SIZE:
                raise TooMuch("value too large")
            self.spend(len(value) // 8)
        return value

    def iterate(self, values: Iterable[Any]) -> Iterator[Any]:
        """The values, one step each."""
        for value in values:
            self.spend(1)
            yield value


BUDGET = Budget()  # of the evaluation in progress; a worker does one at a time


def _sized(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 1


def _add(a: Any, b: Any) -> Any:
    return BUDGET.keep(a + b)


def _multiply(a: Any, b: Any) -> Any:
    for sequence, times in ((a, b), (b, a)):
        if isinstance(sequence, (str, list, tuple)) and isinstance(times, int) and len(sequence) * times > MAX_SIZE:
            raise TooMuch("value too large")
    return BUDGET.keep(a * b)


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int) and b > 0 and a.bit_length() * b > MAX_BITS:
        raise TooMuch("integer too large")
    return BUDGET.keep(a**b)


def _modulo(a: Any, b: Any) -> Any:
    if isinstance(a, str):
        raise NotAllowed("formatting with %")
    return a % b


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _add,
    ast.Mult: _multiply,
    ast.Pow: _power,
    ast.Mod: _modulo,
}


def _method(value: Any, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    if name not in METHODS.get(type(value), ()):
        raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
    if name in _GROWING:
        arguments = tuple(list(BUDGET.iterate(a)) if name == "join" else a for a in arguments)
        _check_growth(value, name, arguments)
    return BUDGET.keep(getattr(value, name)(*arguments, **named))


def _check_growth(value: str, name: str, arguments: tuple[Any, ...]) -> None:
    if name == "replace":
        longest = max((_sized(a) for a in arguments), default=0)
        size = (len(value) + 1) * (longest + 1)
    elif name == "join":
        size = sum(_sized(item) + len(value) for item in arguments[0]) if arguments else 0
    else:
        size = max((a for a in arguments if isinstance(a, int)), default=0)
    if size > MAX_SIZE:
        raise TooMuch("value too large")


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that pays for what it reads and what it makes."""

    def call(*arguments: Any, **named: Any) -> Any:
        return BUDGET.keep(function(*[_metered(a) for a in arguments], **named))

    return call


def _metered(value: Any) -> Any:
    if isinstance(value, (str, list, tuple, dict, set)):
        BUDGET.spend(len(value) // 8 + 1)
        return value
    return BUDGET.iterate(value) if isinstance(value, Iterator) else value


def _range(*arguments: int) -> range:
    made = range(*arguments)
    if len(made) > MAX_STEPS:
        raise TooMuch("range too long")
    BUDGET.spend(len(made) // 8)
    return made


def _sum(values: Any, start: float = 0) -> Any:
    if not isinstance(start, (int, float)):
        raise NotAllowed("a sum of sequences")
    return sum(values, start)


_PLAIN: tuple[Callable[..., Any], ...] = (
    abs, all, any, bool, chr, dict, divmod, enumerate, filter, float, int, len, list, map, max, min, ord, reversed,
    round, set, sorted, str, tuple, zip,
)  # fmt: skip
FUNCTIONS = {f.__name__: _counted(f) for f in _PLAIN} | {"range": _range, "sum": _counted(_sum)}
_TAKES_FUNCTION = frozenset({"map", "filter", "sorted", "max", "min"})


def _step(value: Any) -> Any:
    BUDGET.spend(1)
    return value


def _unbound(name: str) -> Callable[[Any], Any]:
    return operator.methodcaller(name)


def _bound_get(value: Any) -> Callable[..., Any]:
    return lambda *arguments: _method(value, "get", arguments, {})


_NAMES: dict[str, Any] = {
    **FUNCTIONS,
    **{f"_{op.__name__}": guard for op, guard in _OPERATORS.items()},
    "__builtins__": {},
    "_iterate": BUDGET.iterate,
    "_method": _method,
    "_unbound": _unbound,
    "_bound_get": _bound_get,
    "_step": _step,
}


class Guard(ast.NodeTransformer):
    """Refuses what is not in the grammar and sends what can grow through the guards."""

    def __init__(self) -> None:
        self.depth = 0

    def visit(self, node: ast.AST) -> Any:
        """The node with guards. Raises NotAllowed for what is not in the grammar."""
        if not isinstance(node, _NODES):
            raise NotAllowed(type(node).__name__)
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise NotAllowed("nested too deeply")
        try:
            return super().visit(node)
        finally:
            self.depth -= 1

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Plain values of moderate size."""
        if not isinstance(node.value, (str, int, float, bool, type(None))):
            raise NotAllowed(f"a constant of type {type(node.value).__name__}")
        if isinstance(node.value, int) and node.value.bit_length() > MAX_BITS:
            raise NotAllowed("a number this long")
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """No name that begins with an underscore: the guards' own do."""
        if node.id.startswith("_"):
            raise NotAllowed(f"the name {node.id}")
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """The same for a lambda's arguments."""
        if node.arg.startswith("_"):
            raise NotAllowed(f"the name {node.arg}")
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Operations that can make something large go through their guard."""
        left, right = self.visit(node.left), self.visit(node.right)
        self.visit(node.op)
        if type(node.op) in _OPERATORS:
            return _call(f"_{type(node.op).__name__}", left, right)
        return ast.BinOp(left, node.op, right)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        """f-strings without format specifications, which can pad without end."""
        if node.format_spec is not None:
            raise NotAllowed("a format specification")
        return ast.FormattedValue(self.visit(node.value), node.conversion, None)

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        """Every iteration is counted."""
        if node.is_async:
            raise NotAllowed("async")
        made = self.generic_visit(node)
        assert isinstance(made, ast.comprehension)
        made.iter = _call("_iterate", made.iter)
        return made

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """A method that is not called: `key=str.lower`, `key=d.get`."""
        if isinstance(node.value, ast.Name):
            if node.attr in _UNBOUND.get(node.value.id, ()):
                return _call("_unbound", ast.Constant(node.attr))
            if node.attr == "get" and not node.value.id.startswith("_"):
                return _call("_bound_get", node.value)
        raise NotAllowed(f"the attribute {node.attr}")

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Functions and methods by name only, from the lists of what is allowed."""
        named = [ast.keyword(k.arg, self._argument(node, k.value)) for k in node.keywords]
        if any(k.arg is None or k.arg.startswith("_") for k in node.keywords):
            raise NotAllowed("** arguments")
        arguments = [self._argument(node, a) for a in node.args]
        if isinstance(node.func, ast.Attribute):
            if node.func.attr not in _ALL_METHODS:
                raise NotAllowed(f"the method {node.func.attr}")
            values = ast.Tuple(arguments, ast.Load())
            keys: list[ast.expr | None] = [ast.Constant(k.arg) for k in named]
            options = ast.Dict(keys, [k.value for k in named])
            return _call("_method", self.visit(node.func.value), ast.Constant(node.func.attr), values, options)
        if not isinstance(node.func, ast.Name):
            raise NotAllowed("calling a value")
        if node.func.id not in FUNCTIONS:
            raise NotAllowed(f"the function {node.func.id}")
        return ast.Call(node.func, arguments, named)

    def _argument(self, call: ast.Call, node: ast.expr) -> ast.expr:
        """Functions may stand only where a function is expected, so that none can ever call itself."""
        if isinstance(node, ast.Lambda) and not (isinstance(call.func, ast.Name) and call.func.id in _TAKES_FUNCTION):
            raise NotAllowed("lambda")
        if isinstance(node, ast.Lambda):
            arguments, body = self.visit(node.args), self.visit(node.body)
            return ast.Lambda(arguments, _call("_step", body))
        made = self.visit(node)
        assert isinstance(made, ast.expr)
        return made

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """Only where `_argument` finds one."""
        raise NotAllowed("lambda")


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def compile_expression(source: str) -> Any:
    """A code object with the guards in place. Raises SyntaxError or NotAllowed."""
    if len(source) > MAX_SOURCE:
        raise NotAllowed(f"more than {MAX_SOURCE} characters")
    tree = ast.parse(source.strip(), mode="eval")
    return compile(ast.fix_missing_locations(Guard().visit(tree)), "<expression>", "eval")


def evaluate(code: Any, values: dict[str, Any]) -> Any:
    """The value of a compiled expression. Raises whatever the expression raises."""
    BUDGET.left = MAX_STEPS
    return eval(code, _NAMES | values)  # noqa: S307 - of code that Guard has checked, in a process of its own


def encode(value: Any) -> Any:
    """A value as JSON that keeps types apart. Raises NotAllowed for what is no plain value (a generator, say)."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((encode(item) for item in value), key=repr)}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    raise NotAllowed(f"a result of type {type(value).__name__}")


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    return {"tuple": tuple, "set": set}[kind](decode(item) for item in content)


def run(source: str, inputs: list[Any]) -> list[Any]:
    """[reason, message, encoded values]: reason "" if the expression gave a value on every input."""
    try:
        code = compile_expression(source)
        values = [encode(evaluate(code, decode(one))) for one in inputs]
        if len(json.dumps(values)) > MAX_OUTPUT:
            return ["too much", "output too long", None]
    except SyntaxError as error:
        return ["syntax", error.msg, None]
    except NotAllowed as error:
        return ["not allowed", str(error), None]
    except (TooMuch, MemoryError, RecursionError) as error:
        return ["too much", str(error) or type(error).__name__, None]
    except Exception as error:  # whatever the expression itself raises is its result
        return ["error", f"{type(error).__name__}: {str(error)[:200]}", None]
    return ["", "", values]


def limit_memory(bytes_: int) -> None:
    """Limit this process's address space, where the system can."""
    try:
        import resource
    except ImportError:
        return
    try:
        resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError):  # macOS knows the limit and refuses to set it: the parent watches instead
        return


def main() -> None:
    """Read jobs as JSON lines, write one result line for each."""
    limit_memory(int(sys.argv[1]))
    for line in sys.stdin.buffer:
        source, inputs = json.loads(line)
        sys.stdout.write(json.dumps(run(source, inputs)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
