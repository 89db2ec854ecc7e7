"""How long the main track of a chapter takes to read: the card shows it, the lint limits it.

A cell is a dictionary as in a notebook file, its source one string.
"""

import re

from .folds import caption, written
from .symbols import directives

WORDS_A_MINUTE = 200
SECONDS_A_LINE = 4  # of open code

FOLDED = re.compile(r"<details>.*?</details>", re.S)
HEADING = re.compile(r"^(#+) +(.*)", re.M)


def open_lines(source: str) -> int:
    """Count the lines of a code cell that stand open."""
    marks, code = directives(source)
    return 0 if "hide" in marks or caption(marks, code) else len(written(code))


def words(text: str) -> int:
    """Count the words of a Markdown cell outside its folds, each formula as one."""
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)", " ", FOLDED.sub(" ", text))
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", " formula ", text, flags=re.S)
    return len(re.findall(r"\w[\w'’.,-]*", text))


def main_track(cells: list[dict]) -> list[dict]:
    """Return the cells of a chapter outside its exercises."""
    found, level = [], 0  # the level of the exercise heading that we are under, 0 outside
    for cell in cells:
        if cell["cell_type"] == "markdown":
            for marks, title in HEADING.findall(cell["source"]):
                if level == 0 or len(marks) <= level:
                    level = len(marks) if title.startswith("Exercise") else 0
        if level == 0:
            found.append(cell)
    return found


def read(cells: list[dict]) -> tuple[int, int]:
    """Return the words and the open lines of code on the main track of a chapter."""
    track = [(cell["cell_type"], cell["source"]) for cell in main_track(cells)]
    return (
        sum(words(source) for kind, source in track if kind == "markdown"),
        sum(open_lines(source) for kind, source in track if kind == "code"),
    )


def minutes(cells: list[dict]) -> float:
    """Return how long the main track of a chapter takes to read."""
    text, code = read(cells)
    return text / WORDS_A_MINUTE + code * SECONDS_A_LINE / 60
