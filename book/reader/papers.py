"""The papers of `references.bib`, and which of them a link points to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

ARXIV = re.compile(
    r"^https?://(?:www\.)?arxiv\.org/(?:abs|pdf|html)/"
    r"([\w.-]+?/?\d+(?:\.\d+)?)(?:v\d+)?(?:\.pdf)?/?(?:#.*)?$",
    re.I,
)
DOI = re.compile(r"^https?://(?:dx\.)?doi\.org/(.+?)/?$", re.I)


class UnknownPaperError(LookupError):
    """A link to arXiv or a DOI that no entry of `references.bib` has."""


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, and c`."""
    return " and ".join(items) if len(items) < 3 else ", ".join(items[:-1]) + f", and {items[-1]}"


def plain(latex: str) -> str:
    """LaTeX text as ordinary text, without its braces."""
    return str(Text.from_latex(latex)).replace("--", "\N{EN DASH}")


@dataclass(frozen=True)
class Paper:
    """One entry of the bibliography, its fields as a reader sees them."""

    key: str
    authors: tuple[str, ...]
    surnames: tuple[str, ...]
    title: str
    year: str
    venue: str
    note: str
    links: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, key: str, entry: Entry) -> "Paper":
        """Read a paper from an entry of the bibliography."""
        people = entry.persons.get("author", [])
        field = {k.lower(): plain(v) for k, v in entry.fields.items()}
        venue = field.get("booktitle") or field.get("journal") or field.get("howpublished", "")
        if field.get("volume") and field.get("journal"):
            venue += f" {field['volume']}" + (f"({field['number']})" if field.get("number") else "")
        if field.get("pages"):
            venue += (
                f", pages {field['pages']}"
                if "\N{EN DASH}" in field["pages"]
                else f", {field['pages']}"
            )
        raw = entry.fields  # addresses keep their underscores and percent signs
        links = []
        if raw.get("eprint"):
            links.append((f"arXiv:{raw['eprint']}", f"https://arxiv.org/abs/{raw['eprint']}"))
        if raw.get("doi"):
            links.append((f"doi:{raw['doi']}", f"https://doi.org/{raw['doi']}"))
        if raw.get("url"):
            links.append((re.sub(r"^https?://(www\.)?([^/]+).*$", r"\2", raw["url"]), raw["url"]))
        return cls(
            key,
            tuple(
                plain(" ".join([*p.first_names, *p.middle_names, *p.prelast_names, *p.last_names]))
                for p in people
            ),
            tuple(plain(" ".join([*p.prelast_names, *p.last_names])) for p in people),
            field.get("title", ""),
            field.get("year", ""),
            venue,
            field.get("note", ""),
            tuple(links),
        )

    @property
    def short(self) -> str:
        """`He et al., 2015`, as it stands in a sentence."""
        names = self.surnames
        who = f"{names[0]} et al." if len(names) > 2 or "others" in names else " and ".join(names)
        return f"{who}, {self.year}"

    @property
    def people(self) -> str:
        """All authors, as a sentence lists them."""
        return listed(self.authors)

    @property
    def imprint(self) -> str:
        """Where and when it appeared."""
        return f"{self.venue}, {self.year}" if self.venue else self.year


class Bibliography(dict[str, Paper]):
    """Papers by key; `find` looks one up by its address.

    Attributes:
        problems: what is wrong with the file, one sentence each.
    """

    def __init__(self, path: Path) -> None:
        entries = parse_file(str(path)).entries if path.is_file() else {}
        super().__init__({key: Paper.of(key, entry) for key, entry in entries.items()})
        self.problems = [
            f"{paper.key} lacks an author, a title or a year"
            for paper in self.values()
            if not (paper.authors and paper.title and paper.year)
        ]
        self._by_address: dict[str, Paper] = {}
        for paper in self.values():
            for _, url in paper.links:
                if (other := self._by_address.setdefault(address(url), paper)) is not paper:
                    self.problems.append(
                        f"{other.key} and {paper.key} are one paper, {url}; keep one entry"
                    )

    def find(self, url: str) -> Paper | None:
        """The paper a link points to, or None for a link that is no citation.

        Raises:
            UnknownPaperError: the link is one to arXiv or a DOI, and no entry has it.
        """
        paper = self._by_address.get(address(url))
        if paper is None and (ARXIV.match(url) or DOI.match(url)):
            raise UnknownPaperError(
                f"{url} is cited, and no entry of book/references.bib has that eprint or "
                "doi; add the entry or mend the link"
            )
        return paper


def address(url: str) -> str:
    """One form for all addresses of the same paper."""
    if match := ARXIV.match(url):
        return f"arxiv:{match[1].lower()}"
    if match := DOI.match(url):
        return f"doi:{match[1].lower()}"
    return re.sub(r"^https?://(www\.)?|[#?].*$|\.pdf$|\.html?$|/$", "", url.lower())


@lru_cache(maxsize=8)
def _read(path: Path, stamp: tuple[int, int]) -> Bibliography:
    return Bibliography(path)


def bibliography(root: Path) -> Bibliography:
    """The bibliography of a tree, empty where it has none; read again only if it has changed."""
    path = root / "book" / "references.bib"
    facts = path.stat() if path.is_file() else None
    return _read(path, (facts.st_mtime_ns, facts.st_size) if facts else (0, 0))
