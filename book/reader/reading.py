"""How long the main track of a chapter takes to read: the card shows it, the lint limits it."""

import re

from book.reader.folds import caption, written
from book.reader.notebooks import Cell, Notebook

WORDS_A_MINUTE = 200
SECONDS_A_LINE = 4  # of open code

FOLDED = re.compile(r"<details>.*?</details>", re.S)
HEADING = re.compile(r"^(#+) +(.*)", re.M)


def open_lines(cell: Cell) -> int:
    """Count the lines of a code cell that the site shows without a click."""
    if "hide" in cell.marks or caption(cell.marks, cell.code):
        return 0
    return len(written(cell.code))


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


def load(notebook: Notebook) -> tuple[int, int]:
    """Return the words and the open lines of code on the main track of a chapter."""
    track = main_track(notebook)
    return (
        sum(words(cell) for cell in track if cell.kind == "markdown"),
        sum(open_lines(cell) for cell in track if cell.kind == "code"),
    )


def minutes(notebook: Notebook) -> float:
    """Return how long the main track of a chapter takes to read."""
    text, code = load(notebook)
    return text / WORDS_A_MINUTE + code * SECONDS_A_LINE / 60
