"""What of a chapter stands open, and how long its main track takes to read.

The site folds by it and the card shows it; the lint asks the same functions. A cell is a dictionary
as in a notebook file, its source one string.
"""

import re

from .bib import listed
from .symbols import defined, directives, only_imports

WORDS_A_MINUTE = 200
SECONDS_A_LINE = 4  # of open code
MAX_OPEN_LINES = 25  # a longer exported cell folds by itself

FOLDED = re.compile(r"<details>.*?</details>", re.S)
HEADING = re.compile(r"^(#+) +(.*)", re.M)


def written(code: str) -> int:
    """Count the lines of code that a reader sees: no blank ones."""
    return sum(bool(line.strip()) for line in code.splitlines())


def fold(marks: dict[str, str], code: str) -> str:
    """What the fold of a code cell is called; nothing where the cell stands open."""
    if "fold" not in marks and "export" not in marks:
        return ""
    names = defined(code)
    drawing = names and all(name.startswith("_draw") for name in names)  # the figure matters
    if "fold" in marks or drawing or written(code) > MAX_OPEN_LINES:
        told = [name for name in names if not name.startswith("_")] or names
        return "The code of " + listed([f"<code>{name}</code>" for name in told] or ["this cell"])
    return "The imports of this module" if only_imports(code) else ""


def hidden(marks: dict[str, str]) -> bool:
    """Whether the site leaves a code cell out."""
    return "hide" in marks or "default_exp" in marks


def open_lines(source: str) -> int:
    """Count the lines of a code cell that stand open."""
    marks, code = directives(source)
    return 0 if hidden(marks) or fold(marks, code) else written(code)


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
