"""How long the main track of a chapter takes to read, and how much code stands open in it.

`python -m tests.press.reading 02` prints the open cells that are too long, then the sum.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from book.reader.folds import MOST_OPEN_LINES
from book.reader.modules import code_lines
from book.reader.notebooks import Cell, Notebook, notebooks
from book.reader.reading import load, minutes, open_lines
from tests.press.sizes import tokens

MAX_MINUTES = 60
MAX_COLUMNS = 100


@dataclass(frozen=True)
class Reading:
    """What the main track of a chapter asks of a reader."""

    minutes: float
    words: int
    lines: int  # of open code
    wide: int  # lines over MAX_COLUMNS, exercises and folds included
    dense: float  # tokens a line, over all code of the chapter
    long: tuple[Cell, ...]  # open cells with too many lines


def density(notebook: Notebook) -> tuple[int, int]:
    """Return the tokens of a notebook and its lines of code."""
    counted = [(cell, code_lines(cell.source, cell.tree)) for cell in notebook.code if cell.tree]
    many = sum(tokens(cell.source, lines) for cell, lines in counted)
    return many, sum(len(lines) for _, lines in counted)


def reading(notebook: Notebook) -> Reading:
    """Measure the main track of a chapter."""
    text, shown = load(notebook)
    many, coded = density(notebook)
    code = [cell for cell in notebook.code if cell.tree]
    return Reading(
        minutes=minutes(notebook),
        words=text,
        lines=shown,
        wide=sum(len(line) > MAX_COLUMNS for cell in code for line in cell.code.splitlines()),
        dense=many / max(1, coded),
        long=tuple(cell for cell in notebook.code if open_lines(cell) > MOST_OPEN_LINES),
    )


def row(notebook: Notebook, found: Reading) -> str:
    """Return the measure of a chapter as a line."""
    return (
        f"{notebook.path.stem:16} {found.minutes:4.0f} minutes: {found.words:6} words, "
        f"{found.lines:4} open lines of code; {found.wide:3} lines over {MAX_COLUMNS} columns, "
        f"{found.dense:4.1f} tokens a line{'  over' if round(found.minutes) > MAX_MINUTES else ''}"
    )


def report(root: Path) -> str:
    """Print a line for each chapter; return the summary."""
    total, over = 0.0, 0
    for notebook in (n for n in notebooks(root) if n.is_chapter):
        found = reading(notebook)
        print(row(notebook, found))
        total += found.minutes
        over += round(found.minutes) > MAX_MINUTES
    return f"{total / 60:.0f} hours to read, {over} chapters over {MAX_MINUTES} minutes"


def main() -> None:
    """Print the measure of each chapter whose name starts with the argument."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    for notebook in notebooks(Path.cwd()):
        if not notebook.is_chapter or not notebook.path.stem.startswith(chosen):
            continue
        found = reading(notebook)
        for cell in found.long if chosen else ():
            print(f"  cell {cell.number}: {open_lines(cell)} open lines")
        print(row(notebook, found))


if __name__ == "__main__":
    main()
