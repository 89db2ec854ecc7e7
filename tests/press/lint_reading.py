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

TOKENS_OF_A_PAGE = 14  # TOKENS_A_LINE is for the average over the book
FEW_LINES = 20  # of code: shorter pages count in the average alone


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
    return found + unlisted(root, "minutes", broken)


def dense_code(root: Path) -> list[Finding]:
    """Lines of code hold few tokens: on average over the book, and no chapter far more."""
    cure = "write one thing on a line, as ruff's formatter lays it out"
    measured = {notebook.file: density(notebook) for notebook in notebooks(root)}
    found = []
    for file, (many, lines) in measured.items():
        if lines >= FEW_LINES and many > TOKENS_OF_A_PAGE * lines:
            what = f"{many / lines:.1f} tokens a line of code; expected at most {TOKENS_OF_A_PAGE}"
            found.append(Finding(file, None, what, cure))
    many, lines = (sum(each) for each in zip(*measured.values(), strict=True))
    if many > TOKENS_A_LINE * lines:
        what = f"{many / lines:.1f} tokens a line over all notebooks; at most {TOKENS_A_LINE}"
        found.append(Finding("nbs", None, what, cure))
    return found


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
