"""Which code the site folds, and what it calls the fold: the main track of a chapter stays open."""

import ast

from book.reader.modules import defined, only_imports
from book.reader.papers import listed

MOST_OPEN_LINES = 25  # of an exported cell


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
        rest = "this picture" if "fig-alt" in marks else "this cell"
        return "The code of " + listed([f"<code>{name}</code>" for name in names] or [rest])
    return "" if exported else _machinery(statements)


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
