"""What the book's rules read: notebooks, Markdown with its code and mathematics, Python.

Every function takes the root of a repository, so that the rules run over the real tree and over
trees with planted faults alike.
"""

import ast
import configparser
import io
import re
import tokenize
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import nbformat


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
        lines = self.source.splitlines() if self.kind == "code" else []
        top = next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))
        return [line[2:].strip() for line in lines[:top]]

    @property
    def exported(self) -> bool:
        """Whether the cell is part of the package."""
        return "export" in self.directives

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
    kernel: str | None

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
    def is_exercises(self) -> bool:
        """Whether it holds the checks of exercises."""
        return self.path.parent.name == "exercises"

    @property
    def is_lesson(self) -> bool:
        """Whether it is a chapter from 01 on."""
        return not self.is_exercises and self.order[0] >= 1


def order(stem: str) -> tuple[int, str, str]:
    """The place of a notebook in the book: `04a_dataloader` gives (4, 'a', '04a_dataloader')."""
    number = re.match(r"(\d+)([a-z]?)_", stem)
    return (int(number[1]), number[2], stem) if number else (999, "", stem)


@lru_cache(maxsize=256)
def _read(path: Path, file: str, stamp: tuple[int, int]) -> Notebook:
    raw = nbformat.read(path, as_version=4)
    cells = tuple(
        Cell(file, i, c.cell_type, c.get("id", ""), c.source, tuple(c.get("outputs", ())))
        for i, c in enumerate(raw.cells, 1)
    )
    return Notebook(file, path, cells, raw.metadata.get("kernelspec", {}).get("name"))


def notebooks(root: Path) -> list[Notebook]:
    """Every chapter and every exercise notebook, in the order of the book."""
    nbs = root / "nbs"
    paths = [*nbs.glob("*.ipynb"), *nbs.glob("exercises/*.ipynb")]
    read = [
        _read(p, p.relative_to(root).as_posix(), ((s := p.stat()).st_mtime_ns, s.st_size))
        for p in paths
    ]
    return sorted(read, key=lambda n: (n.order, n.is_exercises))


def pages(root: Path) -> list[Path]:
    """The Markdown pages written by hand: the website's and the README."""
    book = root / "book"
    written = [
        p
        for p in sorted(book.rglob("*.md"))
        if not any(part.startswith("_") for part in p.relative_to(book).parts)
    ]
    return [p for p in (*written, root / "README.md") if p.is_file()]


def texts(root: Path) -> list[Cell]:
    """All Markdown of the book: notebook cells, and each page as one cell without a number."""
    return [c for n in notebooks(root) for c in n.markdown] + [
        Cell(
            p.relative_to(root).as_posix(), None, "markdown", "", p.read_text(encoding="utf-8"), ()
        )
        for p in pages(root)
    ]


def git_url(root: Path) -> str:
    """The address of the repository, from the one place that names the owner."""
    settings = configparser.ConfigParser()
    settings.read(root / "settings.ini")
    return settings["DEFAULT"]["git_url"]


# --- Markdown -------------------------------------------------------------------------------------

MARK = r"<!-- (?P<letter>[vc]) (?P<key>[^>]*?) -->(?P<literal>.*?)<!-- /(?P=letter) -->"
_TOKENS = re.compile(
    r"(?P<fence>^[ \t>]*(?P<ticks>`{3,}|~{3,})[^\n]*"
    r"(?:\n.*?(?:^[ \t>]*(?P=ticks)[`~]*[ \t]*$|\Z)|\Z))"
    r"|(?P<code>(?<!`)(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`))"
    r"|(?P<math>\$\$.+?\$\$|(?<![\\\w$])\$(?=[^\s$])[^$\n]*?(?<=[^\s\\])\$(?!\d))"
    rf"|(?P<mark>{MARK})"
    r"|(?P<comment><!--.*?-->)"
    r"|(?P<target>(?<=\])\((?:[^()\n]|\([^()\n]*\))*\)|<https?:[^>\n]+>|https?://[^\s)>\]]+)"
    r"|(?P<tag></?[a-zA-Z][^<>]*>)",
    re.S | re.M,
)


def pieces(text: str, kind: str) -> list[re.Match]:
    """The parts of a Markdown text of one kind: fence, code, math, mark, comment, target or tag."""
    return [m for m in _TOKENS.finditer(text) if m[kind] is not None]


def masked(text: str, *kinds: str) -> str:
    """The text with its parts of these kinds blanked; by default of all kinds: words remain.

    Line breaks stay, so that positions do.
    """
    kinds = kinds or ("fence", "code", "math", "mark", "comment", "target", "tag")

    def blank(m: re.Match) -> str:
        return re.sub(r"[^\n]", " ", m[0]) if any(m[k] is not None for k in kinds) else m[0]

    return _TOKENS.sub(blank, text)


def links(text: str) -> list[str]:
    """Where the links and pictures of a Markdown text point."""
    code_free = masked(text, "fence", "code", "math", "comment")
    found = []
    for m in pieces(code_free, "target"):
        target = m[0].strip("()<>") if not m[0].startswith("(") else m[0][1:-1]
        found.append(re.sub(r"\s+[\"'].*$", "", target.strip()).strip("<>"))
    return found + re.findall(r"<(?:a|img)\b[^>]*?\b(?:href|src)=[\"']([^\"']+)", code_free)


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown text: its headings, and explicit ids.

    The headings are spelled as GitHub and the website spell them.
    """
    found = set(re.findall(r"<\w+[^>]*\bid=[\"']([^\"']+)", text))
    for title in re.findall(r"^#{1,6} +(.+?) *#*$", masked(text, "fence"), re.M):
        title = re.sub(MARK, lambda m: m["literal"], title)
        title = (
            re.sub(r"\[([^\]]*)\]\([^)]*\)|\$[^$]*\$", r"\1", title)
            .replace("*", "")
            .replace("`", "")
        )
        slug = re.sub(r"[^\w\- ]", "", title.lower().replace(" ", "-"))
        found.add(slug if slug not in found else f"{slug}-{sum(f.startswith(slug) for f in found)}")
    return found


@dataclass(frozen=True)
class Entry:
    """An entry of references.bib."""

    key: str
    fields: dict[str, str]


def bibliography(root: Path) -> dict[str, Entry]:
    """The entries of book/references.bib by key; empty where the file is missing."""
    path = root / "book" / "references.bib"
    if not path.is_file():
        return {}
    entries = {}
    for body in re.split(r"^(?=@)", path.read_text(encoding="utf-8"), flags=re.M):
        if head := re.match(r"@\w+\{\s*([^,\s]+)\s*,", body):
            fields = re.findall(r"(\w+)\s*=\s*[{\"](.*?)[}\"]\s*(?:,|$|\n)", body, re.S)
            entries[head[1]] = Entry(head[1], {k.lower(): v for k, v in fields})
    return entries


# --- Python ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """An exported module and the notebook it comes from."""

    file: str
    name: str  # "matmul", "exercises.matmul"
    notebook: str  # "01_matmul"
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.source)

    @property
    def order(self) -> tuple[int, str, str]:
        """The place of its notebook, as a key to sort by."""
        return order(self.notebook)

    @property
    def public(self) -> list[str]:
        """The names in `__all__`."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                return ast.literal_eval(node.value)
        return []

    def origin(self, line: int) -> str:
        """Which notebook cell a line comes from, in the words of nbdev's comments."""
        marks = [
            m[1]
            for m in re.finditer(
                r"^# %% \S*?(nbs/\S+ \S+)$", "\n".join(self.source.splitlines()[:line]), re.M
            )
        ]
        return marks[-1].replace(" #", ", cell id ") if marks else f"nbs/{self.notebook}.ipynb"

    def finding(self, line: int, found: str, do: str) -> Finding:
        """A finding about a line of this module: what is wrong, and what to do."""
        return Finding(self.file, None, f"line {line} ({self.origin(line)}): {found}", do)


def modules(root: Path) -> list[Module]:
    """The exported modules of the package in the order of their notebooks."""
    found = []
    for path in sorted((root / "fromfound").rglob("*.py")):
        if path.name in ("__init__.py", "_modidx.py"):
            continue
        source = path.read_text(encoding="utf-8")
        header = re.search(r"File to edit: \S*?([^/\s]+)\.ipynb", source)
        name = path.relative_to(root / "fromfound").with_suffix("").as_posix().replace("/", ".")
        found.append(
            Module(
                path.relative_to(root).as_posix(), name, header[1] if header else path.stem, source
            )
        )
    return sorted(found, key=lambda m: (m.order, m.name))


def docstrings(tree: ast.AST) -> list[tuple[ast.AST, str]]:
    """Modules, classes and functions that have a docstring, with it."""
    nodes = (
        n
        for n in ast.walk(tree)
        if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    )
    return [(n, text) for n in nodes if (text := ast.get_docstring(n)) is not None]


SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@lru_cache(maxsize=None)
def token_lines(source: str) -> tuple[set[int], Counter[int]]:
    """The numbers of the lines on which a token begins or ends, and how many begin on each."""
    lines: set[int] = set()
    begin: Counter[int] = Counter()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in SILENT:
                lines |= {token.start[0], token.end[0]}
                begin[token.start[0]] += 1
    except (tokenize.TokenError, IndentationError):  # no Python: a line counts as one
        lines = {
            i
            for i, line in enumerate(source.splitlines(), 1)
            if line.strip() and not line.lstrip().startswith("#")
        }
        begin = Counter(lines)
    return lines, begin


def code_lines(source: str, tree: ast.AST) -> set[int]:
    """The numbers of the lines that hold code: no blanks, comments or docstrings.

    A string over several lines counts once.
    """
    lines = set(token_lines(source)[0])
    for node, _ in docstrings(tree):
        lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines
