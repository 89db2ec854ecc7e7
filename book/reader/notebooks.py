"""The notebooks of the book: cells, directives, and the place of each."""

import ast
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import nbformat.reader

ROOMS = ("exercises", "experiments")  # folders of nbs/ with notebooks that belong to chapters
QUOTE = "application/vnd.fromfound.quote+json"  # as `fromfound.record` writes it


@dataclass(frozen=True)
class Finding:
    """One broken rule: where, what was found, what to do about it."""

    file: str
    cell: int | None  # counted from 1, Markdown cells included
    found: str
    do: str

    def __str__(self) -> str:
        place = self.file if self.cell is None else f"{self.file}, cell {self.cell}"
        return f"{place}: {self.found}. {self.do[0].upper()}{self.do[1:]}."


def split(source: str) -> tuple[list[str], str]:
    """The directives at the top of a code cell, without their `#|`, and the rest of the cell."""
    lines = source.splitlines()
    top = next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))
    return [line[2:].strip() for line in lines[:top]], "\n".join(lines[top:]).lstrip("\n")


def named(directives: list[str]) -> dict[str, str]:
    """Directives by name: `tolerance: 0.02` gives {"tolerance": "0.02"}."""
    parts = (re.match(r"([\w-]*)\s*:?\s*(.*)", line) for line in directives)
    return {part[1]: part[2] for part in parts}


def directives(source: str) -> tuple[dict[str, str], str]:
    """The directives of a code cell by name, and the rest of the cell."""
    lines, code = split(source)
    return named(lines), code


@dataclass(frozen=True)
class Cell:
    """A notebook cell with its place."""

    file: str
    number: int
    kind: str  # "code" or "markdown"
    id: str
    source: str
    outputs: tuple

    def finding(self, found: str, do: str) -> Finding:
        """A finding about this cell: what is wrong, and what to do."""
        return Finding(self.file, self.number, found, do)

    @cached_property
    def directives(self) -> list[str]:
        """The `#|` lines at the top, without their `#|`; empty for Markdown."""
        return split(self.source)[0] if self.kind == "code" else []

    @property
    def marks(self) -> dict[str, str]:
        """The directives by name, each with its value; empty for Markdown."""
        return named(self.directives)

    @property
    def code(self) -> str:
        """The source without its directives."""
        return split(self.source)[1]

    @property
    def exported(self) -> bool:
        """Whether the cell is part of the package."""
        return "export" in self.directives

    @property
    def shows_quote(self) -> bool:
        """Whether its stored outputs hold quoted values."""
        return any(QUOTE in output.get("data", {}) for output in self.outputs)

    @cached_property
    def tree(self) -> ast.Module | None:
        """The syntax tree, magics and `name?` left out; None where the cell is not Python."""
        lines = [
            ""
            if re.match(r"\s*[%!]|.*\?\s*$", line) and not line.lstrip().startswith("#")
            else line
            for line in self.source.splitlines()
        ]
        try:
            return ast.parse("\n".join(lines))
        except SyntaxError:
            return None


@dataclass(frozen=True)
class Notebook:
    """A notebook of the book; `file` is its path within the repository."""

    file: str
    path: Path
    cells: tuple[Cell, ...]
    node: nbformat.NotebookNode = field(repr=False, compare=False)

    @property
    def kernel(self) -> str | None:
        """The name of its kernel."""
        return self.node.metadata.get("kernelspec", {}).get("name")

    @property
    def code(self) -> list[Cell]:
        """The code cells."""
        return [c for c in self.cells if c.kind == "code"]

    @property
    def markdown(self) -> list[Cell]:
        """The Markdown cells."""
        return [c for c in self.cells if c.kind == "markdown"]

    @property
    def order(self) -> tuple[int, str, str]:
        """Its place among the notebooks, as a key to sort by."""
        return order(self.path.stem)

    @property
    def room(self) -> str:
        """What it holds for its chapter: "exercises" or "experiments"; "" for a chapter."""
        folder = self.path.parent.name
        return folder if folder in ROOMS else ""

    @property
    def is_chapter(self) -> bool:
        """Whether it is a chapter itself."""
        return not self.room

    @property
    def is_exercises(self) -> bool:
        """Whether it holds the checks of exercises."""
        return self.room == "exercises"

    @property
    def is_lesson(self) -> bool:
        """Whether it is a chapter from 01 on."""
        return self.is_chapter and self.order[0] >= 1


def order(stem: str) -> tuple[int, str, str]:
    """The place of a notebook in the book: `04a_dataloader` gives (4, 'a', '04a_dataloader')."""
    number = re.match(r"(\d+)([a-z]?)_", stem)
    return (int(number[1]), number[2], stem) if number else (999, "", stem)


def node_of(path: Path) -> nbformat.NotebookNode:
    """One notebook as nbformat reads it, for a caller that changes it.

    Raises:
        ValueError: it is not a notebook; says which file.
    """
    try:
        node = nbformat.reader.reads(path.read_text(encoding="utf-8"))
        for cell in node.cells:
            cell.cell_type.strip(), cell.source.strip()
        return node
    except OSError:
        raise
    except Exception as error:  # a broken notebook makes its reader raise anything
        said = f"not a notebook ({type(error).__name__}: {str(error)[:200]})"
        raise ValueError(f"{path}: {said}: is it in the middle of a merge?") from error


@lru_cache(maxsize=256)
def _read(path: Path, file: str, stamp: tuple[int, int]) -> Notebook:
    node = node_of(path)
    cells = tuple(
        Cell(file, i, c.cell_type, c.get("id", ""), c.source, tuple(c.get("outputs", ())))
        for i, c in enumerate(node.cells, 1)
    )
    return Notebook(file, path, cells, node)


def read(path: Path, root: Path | None = None) -> Notebook:
    """One notebook, named by its path within `root`; it is read again only if it has changed."""
    facts = path.stat()
    file = path.relative_to(root).as_posix() if root else path.name
    return _read(path, file, (facts.st_mtime_ns, facts.st_size))


def notebooks(root: Path) -> list[Notebook]:
    """Every chapter, and what belongs to it, in the order of the book."""
    paths = [path for room in ("", *ROOMS) for path in (root / "nbs" / room).glob("*.ipynb")]
    return sorted((read(p, root) for p in paths), key=lambda n: (n.order, n.room))
