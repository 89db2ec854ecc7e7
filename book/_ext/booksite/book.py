"""The whole book as data: settings, chapters, papers, symbols, recorded runs.

Nothing is imported or run to read it.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from book.reader import runs
from book.reader.contents import contents
from book.reader.markdown import links
from book.reader.modules import imports
from book.reader.notebooks import Notebook, read
from book.reader.papers import UnknownPaperError, bibliography
from book.reader.settings import settings

from .symbols import LIBRARY, PAPER_KEY, Symbol, exported

CLAIMS = "book/claims.md"
CLAIM = re.compile(r"^## (\w+)\n(.*?)(?=^## |\Z)", re.M | re.S)
NAMED = re.compile(r"^(\d\d)([a-z]?)_")


@dataclass
class Chapter:
    """A notebook of the book: what it says it is, exports and cites."""

    docname: str
    notebook: Notebook
    title: str = ""
    module: str = ""
    symbols: list[Symbol] = field(default_factory=list)
    imported: set[str] = field(default_factory=set)
    cited: list[str] = field(default_factory=list)

    @property
    def stem(self) -> str:
        """The name of its notebook, as `05_learner`."""
        return self.docname.split("/")[-1]

    @property
    def is_experiments(self) -> bool:
        """Whether it holds the experiments of a chapter."""
        return self.docname.startswith("nbs/experiments/")

    @property
    def number(self) -> str:
        """`1` for 01_matmul, `4a` for 04a_dataloader; nothing for workshop and experiments."""
        match = NAMED.match(self.stem)
        numbered = match and match[1] != "00" and not self.is_experiments
        return f"{int(match[1])}{match[2]}" if numbered else ""

    @property
    def named(self) -> str:
        """Number and title, as the site shows them."""
        return f"{self.number} {self.title}".strip()


class Book:
    """Everything the pages are made from."""

    def __init__(self, root: Path) -> None:
        self.root, self.settings, self.papers = root, settings(root), bibliography(root)
        self.problems = [f"book/references.bib: {p}" for p in self.papers.problems]
        self.chapters = {}
        for docname in contents(root):
            if (path := root / f"{docname}.ipynb").is_file():
                self.chapters[docname] = self._chapter(docname, read(path, root))
        self.symbols = {s.full: s for c in self.chapters.values() for s in c.symbols}
        self.claims = {
            key: text.strip()
            for key, text in CLAIM.findall((root / CLAIMS).read_text(encoding="utf-8"))
        }
        for symbol in self._with_methods():
            self._check_sources(symbol)
        self._check_claims()

    def _chapter(self, docname: str, notebook: Notebook) -> Chapter:
        chapter, private, library = Chapter(docname, notebook), {}, self.settings["lib_name"]
        for cell in notebook.markdown:
            if not chapter.title and (heading := re.search(r"^# (.+)$", cell.source, re.M)):
                chapter.title = heading[1].strip()
            self._note_citations(chapter, cell.source)
        for cell in notebook.code:
            for _, module, names in imports(cell.tree) if cell.tree else ():
                chapter.imported |= {f"{library}.{module}.{name}" for name in names}
            if "default_exp" in cell.marks:
                chapter.module = f"{library}.{cell.marks['default_exp']}"
            elif cell.exported:
                chapter.symbols += exported(cell.code, chapter.module, docname, private)
        return chapter

    def _note_citations(self, chapter: Chapter, text: str) -> None:
        for url in links(text):
            try:
                paper = self.papers.find(url)
            except UnknownPaperError:
                continue  # reported where the page is written, with its line
            if paper and paper.key not in chapter.cited:
                chapter.cited.append(paper.key)

    def _with_methods(self) -> Iterator[Symbol]:
        for symbol in self.symbols.values():
            yield symbol
            yield from symbol.methods

    def _check_sources(self, symbol: Symbol) -> None:
        for source in symbol.sources:
            key = PAPER_KEY.match(source)
            if not (key and key[1] in self.papers) and not LIBRARY.match(source):
                self.problems.append(
                    f"{symbol.docname}: the docstring of {symbol.full} says 'Source: "
                    f"{source}'; expected a key of book/references.bib and a place (as "
                    "'He2015Delving §2.2'), or a name (as 'torch.matmul')"
                )

    def _check_claims(self) -> None:
        met = {key for key in self.papers if self.citing(key) or self.implements(key)}
        self.problems += [
            f"{CLAIMS} does not say what {key} claims, which {where} cites"
            for key in sorted(met - self.claims.keys())
            for where in self._met_in(key)[:1]
        ]
        self.problems += [
            f"{CLAIMS} speaks of {key}, which "
            + ("nobody cites" if key in self.papers else "is no key of book/references.bib")
            for key in sorted(self.claims.keys() - met)
        ]

        self.problems += [
            f"{CLAIMS}: the section {key} lacks a paragraph that begins with **{part}**"
            for key, text in self.claims.items()
            for part in ("Says", "Here")
            if f"**{part}**" not in text
        ]

    def _met_in(self, key: str) -> list[str]:
        return [c.docname for c in self.citing(key)] + [s.full for s, _ in self.implements(key)]

    def implements(self, key: str) -> list[tuple[Symbol, str]]:
        """The symbols whose docstring names a paper as source, and the place in the paper."""
        return [(s, place) for s in self._with_methods() for k, place in s.cited() if k == key]

    def citing(self, key: str) -> list[Chapter]:
        """The chapters that cite a paper."""
        return [c for c in self.chapters.values() if key in c.cited]

    def by_module(self) -> dict[str, Chapter]:
        """The chapter that defines each module of the library; experiments are not part of it."""
        found = (c for c in self.chapters.values() if c.module and not c.is_experiments)
        return {c.module: c for c in found}

    def api_page(self, module: str) -> str:
        """The page of a module; for experiments it is the one that holds their code."""
        for chapter in self.chapters.values():
            if chapter.module == module and chapter.is_experiments:
                return chapter.docname
        return f"book/api/{module.removeprefix(self.settings['lib_name'] + '.')}"

    def named(self, name: str, docname: str) -> Symbol | None:
        """The symbol that a bit of inline code means on a page.

        A plain word means a symbol only where the page defines or imports it (`label` is a common
        word); a name with an underscore, or with its module, means it everywhere.
        """
        if name in self.symbols:
            return self.symbols[name]
        found = [s for s in self.symbols.values() if s.name == name]
        if len(found) != 1:
            return None
        chapter = self.chapters.get(docname)
        known = chapter and (found[0].docname == docname or found[0].full in chapter.imported)
        return found[0] if known or "_" in name else None

    @cached_property
    def runs(self) -> list[dict]:
        """Recorded runs, by name."""
        return runs.runs(self.root)

    @cached_property
    def measured(self) -> dict[str, dict]:
        """Time and memory of each chapter, by the stem of its file name."""
        return runs.costs(self.root)

    @cached_property
    def mutants(self) -> dict:
        """What became of the mistakes planted in the library; empty before the first run."""
        path = self.root / "tests" / "mutants.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @cached_property
    def commit(self) -> str:
        """The commit the site is built from; empty outside a git checkout."""
        try:
            git = subprocess.run(
                ["git", "rev-parse", "--short=12", "HEAD"],
                cwd=self.root,
                capture_output=True,
                text=True,
            )
        except FileNotFoundError:
            return ""
        return git.stdout.strip()

    def source(self, docname: str) -> str:
        """The path of a page's source within the repository; empty for a generated page."""
        return next(
            (f"{docname}{s}" for s in (".ipynb", ".md") if (self.root / f"{docname}{s}").is_file()),
            "",
        )
