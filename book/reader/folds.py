"""Which code the site folds, and what it calls the fold: the main track of a chapter stays open."""

import ast

from book.reader.modules import defined, only_imports
from book.reader.papers import listed

MOST_OPEN_LINES = 25  # of an exported cell
MOST_NAMES = 5  # in a caption
SETS = (ast.Assign, ast.AugAssign)


def written(code: str) -> list[str]:
    """The lines of a cell that a reader sees, blank ones aside."""
    return [line for line in code.splitlines() if line.strip()]


def caption(marks: dict[str, str], code: str) -> str:
    """What the fold of a code cell is called; empty where the code stands open.

    Folded are cells marked `fold`, imports, cells that only assert or quote, drawing code of the
    package and what it exports in more than MOST_OPEN_LINES lines.
    """
    try:
        statements = ast.parse(code).body
    except SyntaxError:  # a magic
        return ""
    exported = "export" in marks
    if statements and only_imports(code):
        return "The imports of this module" if exported else "Imports"
    names = defined(code)
    drawing = exported and names and all(name.startswith("_draw") for name in names)
    if "fold" in marks or drawing or (exported and len(written(code)) > MOST_OPEN_LINES):
        return _named(names, statements, "fig-alt" in marks)
    return "" if exported else _machinery(statements)


def _named(names: list[str], statements: list[ast.stmt], drawn: bool) -> str:
    """What is in a fold: what its code defines, draws, prints or sets."""
    if names:
        return "The code of " + _code(names)
    checks = _machinery([node for node in statements if not isinstance(node, SETS)])
    if checks:
        return checks
    if drawn:
        return "The code of this picture"
    if any(_prints(statement) for statement in statements):
        return "The code of this output"
    names = _assigned(statements)
    return f"The setup of {_code(names)}" if names else "The code of this cell"


def joined(captions: list[str]) -> str:
    """What one fold of several cells is called, from the captions of each.

    `The code of a`, `The check of this claim`, `The code of b and c` gives `The code of a, b, and
    c; the check of this claim`.
    """
    start = "The code of "
    codes = [caption.removeprefix(start) for caption in captions if caption.startswith(start)]
    code = _merged(start, codes) if codes else ""
    first, *rest = dict.fromkeys(code if c.startswith(start) else c for c in captions)
    return "; ".join([first, *(caption[0].lower() + caption[1:] for caption in rest)])


def _merged(start: str, parts: list[str]) -> str:
    """One list of what is in several folds of code, with this picture or output at its end."""
    text = ", ".join(parts).replace(" and more", "").replace(", and ", ", ").replace(" and ", ", ")
    names = list(dict.fromkeys(text.split(", ")))
    last = names[-1:] if names[-1].startswith("this ") else []
    named = names[: len(names) - len(last)]
    if len(named) > MOST_NAMES:
        return start + ", ".join([*named[:MOST_NAMES], *last]) + " and more"
    return start + listed([*named, *last])


def _code(names: list[str]) -> str:
    """`a`, `b` and `c`, and no more than MOST_NAMES of them."""
    shown = [f"<code>{name}</code>" for name in names[:MOST_NAMES]]
    return listed(shown) if len(names) <= MOST_NAMES else ", ".join(shown) + " and more"


def _prints(statement: ast.stmt) -> bool:
    """Whether a statement calls print."""
    calls = (node.func for node in ast.walk(statement) if isinstance(node, ast.Call))
    return any(isinstance(func, ast.Name) and func.id == "print" for func in calls)


def _assigned(statements: list[ast.stmt]) -> list[str]:
    """The names that statements set, in their order."""
    targets = [target for s in statements if isinstance(s, ast.Assign) for target in s.targets]
    found = [node.id for target in targets for node in ast.walk(target) if _is_set(node)]
    return list(dict.fromkeys(found))


def _is_set(node: ast.AST) -> bool:
    """Whether a node is a name that is set."""
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _machinery(statements: list[ast.stmt]) -> str:
    """The caption of a cell that only asserts or quotes; empty for any other."""
    kinds = [kind for statement in statements for kind in _kinds(statement)]
    if not kinds or not set(kinds) <= {"assert", "quote"}:
        return ""
    if "quote" not in kinds:
        return "The check of this claim" if len(kinds) == 1 else "The checks of these claims"
    return "The checks, and the values quoted" if "assert" in kinds else "The values quoted"


def _kinds(statement: ast.stmt) -> list[str]:
    """What a statement does: "assert" or "quote" for each one within, or "other"."""
    match statement:
        case ast.Assert():
            return ["assert"]
        case ast.Expr(value=ast.Call(func=ast.Name(id="quote"))):
            return ["quote"]
        case ast.If(orelse=[]) | ast.For(orelse=[]):
            return [kind for inner in statement.body for kind in _kinds(inner)]
    return ["other"]
