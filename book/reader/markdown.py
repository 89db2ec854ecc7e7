"""Markdown: its links, its anchors, and its parts by kind."""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin

from book.reader.notebooks import Cell, notebooks

# As the website reads it (CommonMark, with mathematics), and with the bare addresses that GitHub
# makes links of.
PARSER = MarkdownIt("commonmark", {"linkify": True}).enable(["table", "linkify"])
PARSER.linkify.set({"fuzzy_link": False, "fuzzy_email": False})
PARSER.use(dollarmath_plugin).use(anchors_plugin, max_level=6)


@lru_cache(maxsize=4096)
def tokens(text: str) -> tuple[Token, ...]:
    """The parts of a Markdown text in their order, those within a line included."""
    return tuple(
        token for outer in PARSER.parse(text) for token in (outer, *(outer.children or ()))
    )


def _tags(text: str) -> Iterator[dict[str, str]]:
    """The attributes of each HTML tag in a Markdown text."""
    for token in tokens(text):
        if token.type in ("html_block", "html_inline") and "=" in token.content:
            yield from (tag.attrs for tag in BeautifulSoup(token.content, "html.parser").find_all())


def links(text: str) -> list[str]:
    """Where the links and pictures of a Markdown text point."""
    attributes = [*(token.attrs for token in tokens(text)), *_tags(text)]
    return [
        str(found[key]) for found in attributes for key in ("href", "src") if found.get(key, "")
    ]


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown text: its headings, and explicit ids."""
    attributes = [*(token.attrs for token in tokens(text)), *_tags(text)]
    return {str(found["id"]) for found in attributes if "id" in found}


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


# --- parts by kind, where they stand --------------------------------------------------------------

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
