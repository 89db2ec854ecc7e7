"""How long the main track of a chapter takes to read, and how much code stands open in it.

`python -m tests.press.reading 02` prints the open cells that are too long, then the sum.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from book.reader.folds import MOST_OPEN_LINES, caption, written
from book.reader.modules import code_lines
from book.reader.notebooks import Cell, Notebook, notebooks
from tests.press.sizes import tokens

WORDS_A_MINUTE = 200
SECONDS_A_LINE = 4  # of open code
MAX_MINUTES = 60
MAX_COLUMNS = 100

FOLDED = re.compile(r"<details>.*?</details>", re.S)
HEADING = re.compile(r"^(#+) +(.*)", re.M)


def is_open(cell: Cell) -> bool:
    """Whether the site shows the code of a cell without a click."""
    return "hide" not in cell.marks and not caption(cell.marks, cell.code)


def words(cell: Cell) -> int:
    """Count the words of a Markdown cell outside its folds, each formula as one."""
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)", " ", FOLDED.sub(" ", cell.source))
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", " formula ", text, flags=re.S)
    return len(re.findall(r"\w[\w'’.,-]*", text))


def main_track(notebook: Notebook) -> list[Cell]:
    """Return the cells of a chapter outside its exercises."""
    found, level = [], 0  # the level of the exercise heading that we are under, 0 outside
    for cell in notebook.cells:
        if cell.kind == "markdown":
            for marks, title in HEADING.findall(cell.source):
                if level == 0 or len(marks) <= level:
                    level = len(marks) if title.startswith("Exercise") else 0
        if level == 0:
            found.append(cell)
    return found


@dataclass(frozen=True)
class Reading:
    """What the main track of a chapter asks of a reader."""

    words: int
    lines: int  # of open code
    wide: int  # lines over MAX_COLUMNS, exercises and folds included
    dense: float  # tokens a line, over all code of the chapter
    long: tuple[Cell, ...]  # open cells with too many lines

    @property
    def minutes(self) -> float:
        """Minutes for words and open code."""
        return self.words / WORDS_A_MINUTE + self.lines * SECONDS_A_LINE / 60


def reading(notebook: Notebook) -> Reading:
    """Measure the main track of a chapter."""
    track = main_track(notebook)
    shown = [cell for cell in track if cell.kind == "code" and is_open(cell)]
    counted = [(cell, code_lines(cell.source, cell.tree)) for cell in notebook.code if cell.tree]
    many = sum(tokens(cell.source, lines) for cell, lines in counted)
    return Reading(
        words=sum(words(cell) for cell in track if cell.kind == "markdown"),
        lines=sum(len(written(cell.code)) for cell in shown),
        wide=sum(len(line) > MAX_COLUMNS for cell, _ in counted for line in cell.code.splitlines()),
        dense=many / max(1, sum(len(lines) for _, lines in counted)),
        long=tuple(cell for cell in shown if len(written(cell.code)) > MOST_OPEN_LINES),
    )


def main() -> None:
    """Print the measure of each chapter whose name starts with the argument."""
    chosen = sys.argv[1] if len(sys.argv) > 1 else ""
    for notebook in notebooks(Path.cwd()):
        if not notebook.is_chapter or not notebook.path.stem.startswith(chosen):
            continue
        found = reading(notebook)
        for cell in found.long if chosen else ():
            print(f"  cell {cell.number}: {len(written(cell.code))} open lines")
        print(
            f"{notebook.path.stem:16} {found.minutes:4.0f} minutes: {found.words:6} words, "
            f"{found.lines:4} open lines of code; {len(found.long):2} cells over "
            f"{MOST_OPEN_LINES} lines, {found.wide:3} lines over {MAX_COLUMNS} columns, "
            f"{found.dense:4.1f} tokens a line"
        )


if __name__ == "__main__":
    main()
