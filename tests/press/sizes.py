"""How large and how dense the modules are: `make check` prints it."""

import ast
import io
import tokenize
from pathlib import Path

from book.reader.modules import code_lines, modules
from tests.press.lint_library import MAX_MODULE_LINES, formatted

TOKENS_A_LINE = 10  # what the whole should keep to


def tokens(source: str, lines: set[int]) -> int:
    """Count the tokens on `lines`: names, numbers, strings and operators."""
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    found = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type not in silent and token.start[0] in lines for token in found)


def sizes(root: Path) -> list[tuple[str, int, float]]:
    """Return for each module its formatted lines of code, and tokens a line as it is written."""
    rows = []
    for module in modules(root):
        code = formatted(module.source)
        written = code_lines(module.source, module.tree)
        dense = tokens(module.source, written) / max(1, len(written))
        rows.append((module.name, len(code_lines(code, ast.parse(code))), dense))
    return rows


def report(root: Path) -> str:
    """Print a line for each module; return the summary."""
    rows = sizes(root)
    for name, lines, dense in rows:
        mark = "  over" if lines > MAX_MODULE_LINES or dense > TOKENS_A_LINE else ""
        print(f"{name:24} {lines:4} formatted lines {dense:5.1f} tokens a line{mark}")
    lines = sum(row[1] for row in rows)
    dense = sum(row[2] for row in rows) / max(1, len(rows))
    return f"{len(rows)} modules, {lines} formatted lines, {dense:.1f} tokens a line on average"
