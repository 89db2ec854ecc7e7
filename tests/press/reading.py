"""How long the main track of a chapter takes to read, and how much code stands open in it.

`python -m tests.press.reading 02` prints the open cells that are too long, then the sum.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from book import env
from tests.press.book import Cell, Notebook, code_lines, notebooks
from tests.press.sizes import tokens

sys.path.append(str(env.EXTENSIONS))
from booksite.folds import MOST_OPEN_LINES  # noqa: E402
from booksite.reading import minutes, open_lines, read  # noqa: E402

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


def reading(notebook: Notebook) -> Reading:
    """Measure the main track of a chapter."""
    cells = [{"cell_type": cell.kind, "source": cell.source} for cell in notebook.cells]
    code = [cell for cell in notebook.code if cell.tree is not None]
    counted = [(cell.source, code_lines(cell.source, cell.tree)) for cell in code]
    lines = [line for cell in code for line in cell.source.splitlines()]
    text, shown = read(cells)
    return Reading(
        minutes=minutes(cells),
        words=text,
        lines=shown,
        wide=sum(len(line) > MAX_COLUMNS for line in lines if not line.startswith("#|")),
        dense=sum(tokens(*one) for one in counted) / max(1, sum(len(n) for _, n in counted)),
        long=tuple(cell for cell in notebook.code if open_lines(cell.source) > MOST_OPEN_LINES),
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
    for notebook in (n for n in notebooks(root) if not n.is_exercises):
        found = reading(notebook)
        print(row(notebook, found))
        total += found.minutes
        over += round(found.minutes) > MAX_MINUTES
    return f"{total / 60:.0f} hours to read, {over} chapters over {MAX_MINUTES} minutes"


def main() -> None:
    """Print the measure of each chapter whose name starts with the argument."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    for notebook in notebooks(Path.cwd()):
        if notebook.is_exercises or not notebook.path.stem.startswith(chosen):
            continue
        found = reading(notebook)
        for cell in found.long if chosen else ():
            print(f"  cell {cell.number}: {open_lines(cell.source)} open lines")
        print(row(notebook, found))


if __name__ == "__main__":
    main()
