"""Rules about what a chapter asks of a reader: time, open code, dense lines.

What chapters may still break is in to_rewrite.py.
"""

import ast
from pathlib import Path

from book.reader.notebooks import Finding, notebooks
from book.reader.folds import MOST_OPEN_LINES
from book.reader.reading import open_lines
from tests.press.reading import MAX_MINUTES, density, reading
from tests.press.sizes import TOKENS_A_LINE
from tests.press.to_rewrite import chapter_of, unlisted

PLAIN = "write one thing on a line, as ruff's formatter lays it out"


def main_track(root: Path) -> list[Finding]:
    """The main track of a chapter reads in an hour, in short open cells and lines that breathe."""
    broken, found = [], []
    for notebook in (n for n in notebooks(root) if n.is_chapter):
        measured, chapter = reading(notebook), chapter_of(notebook.file)
        found += [
            cell.finding(
                f"{open_lines(cell)} open lines of code; expected at most {MOST_OPEN_LINES}",
                "split the cell, or fold it: `#| fold`",
            )
            for cell in measured.long
        ]
        if round(measured.minutes) > MAX_MINUTES:
            what = f"its main track takes {measured.minutes:.0f} minutes to read"
            cure = f"keep to {MAX_MINUTES}: fold what is aside, or give it a companion chapter"
            broken.append((chapter, "minutes", Finding(notebook.file, None, what, cure)))
        if round(measured.dense, 1) > TOKENS_A_LINE:
            what = f"{measured.dense:.1f} tokens a line of code; expected at most {TOKENS_A_LINE}"
            broken.append((chapter, "tokens", Finding(notebook.file, None, what, PLAIN)))
    return found + unlisted(root, "minutes|tokens", broken)


def dense_code(root: Path) -> list[Finding]:
    """Over all notebooks together, a line of code holds few tokens on average."""
    measured = [density(notebook) for notebook in notebooks(root)]
    many, lines = (sum(each) for each in zip(*measured, strict=True))
    if many <= TOKENS_A_LINE * lines:
        return []
    what = f"{many / lines:.1f} tokens a line over all notebooks; at most {TOKENS_A_LINE}"
    return [Finding("nbs", None, what, PLAIN)]


def plain_expressions(root: Path) -> list[Finding]:
    """No conditional expression stands inside another, in chapters and in tools."""
    cure = "write if and else, or a small function that returns"
    broken, found = [], []
    for notebook in notebooks(root):
        for cell in (c for c in notebook.code if c.tree and _nested(c.tree)):
            what = f"line {_nested(cell.tree)[0]}: a conditional expression inside another"
            broken.append((chapter_of(notebook.file), "nested", cell.finding(what, cure)))
    for folder in ("tests/press", "book", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            found += [
                Finding(
                    path.relative_to(root).as_posix(),
                    None,
                    f"line {line}: a conditional expression inside another",
                    cure,
                )
                for line in _nested(ast.parse(path.read_text(encoding="utf-8")))
            ]
    return found + unlisted(root, "nested", broken)


def _nested(tree: ast.AST) -> list[int]:
    """The lines of the conditional expressions that hold another."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.IfExp)
        and any(isinstance(inner, ast.IfExp) for inner in ast.walk(node) if inner is not node)
    ]


RULES = (main_track, dense_code, plain_expressions)
