"""The mutants of the modules that mutation.toml names, by cosmic-ray's operators.

A mutant is one small change of one module: an operator, a comparison, a number, a condition. Left
out are changes that say nothing about results: in annotations, in `raise` statements (messages),
and in the settings of `knob(...)` and of `typer.Option(...)` (defaults and their bounds).
"""

import ast
import hashlib
import random
import re
from typing import NamedTuple

PER_PLACE = {
    "ReplaceBinaryOperator": "binary",
    "ReplaceComparisonOperator": "comparison",
    "NumberReplacer": "numbers",
}
# these need arguments, change nothing that a test could see, or are errors of type in every sum
LEFT_OUT = re.compile(
    r"Variable|NoOp|RemoveDecorator|ExceptionReplacer|ReplaceUnaryOperator_\w+_(Not|Invert)"
    r"|ReplaceBinaryOperator_(Add|Sub|Mul|Div|FloorDiv|Mod|Pow)_(Bit|[LR]Shift)"
)
SETTINGS = {"knob", "Option", "Argument"}


class Mutant(NamedTuple):
    """`text[start:end]` of a module becomes `new`. first, last: the lines of its statement."""

    id: str
    group: str
    module: str
    sha: str
    line: int
    first: int
    last: int
    operator: str
    start: int
    end: int
    was: str
    new: str


def is_python(text):
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def silent_spans(tree):
    """[(first line, first column, last line, last column)] of what is not mutated."""
    spans = []
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", None))
        inside = [node] if isinstance(node, ast.Raise) or name in SETTINGS else []
        inside += [getattr(node, key, None) for key in ("annotation", "returns")]
        spans += [
            (n.lineno, n.col_offset, n.end_lineno, n.end_col_offset)
            for n in inside
            if isinstance(n, ast.AST)
        ]
    return spans


def statement_lines(tree, line):
    """(first, last) line of the smallest statement at `line`; of a block, those of its head."""
    best = (line, line)
    size = float("inf")
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        body = getattr(node, "body", None)
        last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
        if node.lineno <= line <= last and last - node.lineno < size:
            best, size = (node.lineno, last), last - node.lineno
    return best


def changed_span(old, new):
    """(start, end, text): what to put in place of old[start:end] to get `new`."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return start, len(old) - end, new[start : len(new) - end]


class Place(NamedTuple):
    """An operator that could act: on the piece of a module's text that begins at `offset`."""

    operator: str
    line: int
    column: int
    piece: str
    offset: int
    number: int

    def change(self):
        """(start, end, replacement) in the module's text; None where nothing changes."""
        from cosmic_ray import plugins
        from cosmic_ray.mutating import mutate_code

        operator = plugins.get_operator(f"core/{self.operator}")()
        code = mutate_code(self.piece, operator, self.number)
        if code is None or code == self.piece:
            return None
        start, end, new = changed_span(self.piece, code)
        return self.offset + start, self.offset + end, new


def places_of(text):
    """Yield every Place of a module's text. Its pieces are functions, classes and statements."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    names = [name.split("/")[1] for name in plugins.operator_names() if name.startswith("core/")]
    operators = {n: plugins.get_operator(f"core/{n}")() for n in names if not LEFT_OUT.search(n)}
    offset = 0
    for child in get_ast(text).children:
        piece, above = child.get_code(), text.count("\n", 0, offset)
        nodes = list(ast_nodes(get_ast(piece)))
        for name, operator in operators.items():
            positions = [p for node in nodes for p in operator.mutation_positions(node)]
            for number, ((line, column), _) in enumerate(positions):
                yield Place(name, above + line, column, piece, offset, number)
        offset += len(piece)


def mutants_of(group, module, text, settings):
    """[Mutant] of one module; what is tried at a place is drawn by the settings' seed."""
    tree = ast.parse(text)
    silent, places = silent_spans(tree), {}
    for place in places_of(text):
        at = (place.line, place.column)
        if not any((a, b) <= at < (c, d) for a, b, c, d in silent):
            kind = next((k for k in PER_PLACE if place.operator.startswith(k)), place.operator)
            places.setdefault((kind, *at), []).append(place)
    mutants, sha = [], digest(text)
    for (kind, line, column), options in places.items():
        draw = random.Random(f"{settings['seed']} {module} {kind} {line} {column}")
        draw.shuffle(options)
        for place in options[: settings.get(PER_PLACE.get(kind), 1)]:
            change = place.change()
            if change is None:
                continue
            start, end, new = change
            if not is_python(text[:start] + new + text[end:]):  # such as the star of parameters
                continue
            first, last = statement_lines(tree, line)
            name = f"{module}:{line}:{column}:{place.operator}"
            at = (line, first, last, place.operator, start, end, text[start:end], new)
            mutants.append(Mutant(name, group, module, sha, *at))
    return mutants


def list_mutants(root, config):
    """[Mutant] of all groups of the configuration, in the order of a draw by its seed."""
    mutants = []
    for group, entry in config["groups"].items():
        modules = sorted({p for pattern in entry["modules"] for p in root.glob(pattern)})
        for path in modules:
            module = path.relative_to(root).as_posix()
            text = path.read_text(encoding="utf-8")
            mutants += mutants_of(group, module, text, config["run"])
    random.Random(config["run"]["seed"]).shuffle(mutants)
    return mutants
