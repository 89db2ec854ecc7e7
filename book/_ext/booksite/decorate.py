"""What the site adds to a parsed page: anchors, cards, citations, previews."""

import posixpath
import re
from html import escape, unescape
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

from book.reader.folds import joined
from book.reader.papers import Paper, UnknownPaperError

from .book import Book, Chapter
from .links import SCHEMES, target
from .pages import duration, memory
from .symbols import Symbol

log = logging.getLogger(__name__)


class Structure(SphinxTransform):
    """A transform before the table of contents is gathered.

    It makes stable anchors, exercise cards, and a place for the references.
    """

    default_priority = 500

    def apply(self, **kwargs: object) -> None:
        """Change the doctree of one page."""
        book: Book = self.app.book
        docname = self.env.docname
        for section in self.document.findall(nodes.section):
            title = section.next_node(nodes.title)
            if docname.startswith("book/api/") and isinstance(section.parent, nodes.section):
                section["ids"] = [title.astext()]
            if title.astext().startswith("Exercise "):
                section["classes"].append("exercise")
                facts = next((n for n in section.children if isinstance(n, nodes.paragraph)), None)
                if facts is not None:
                    facts["classes"].append("facts")
        for paragraph in self.document.findall(nodes.paragraph):
            if [type(child) for child in paragraph.children if child.astext()] == [nodes.strong]:
                paragraph["classes"].append("label")
        if docname == "book/papers":
            by_title = {p.title: p.key for p in book.papers.values()}
            for section in self.document.findall(nodes.section):
                if key := by_title.get(section.next_node(nodes.title).astext()):
                    section["ids"].insert(0, key)
        chapter = book.chapters.get(docname)
        if chapter and chapter.cited:
            self._references(chapter)

    def _references(self, chapter: Chapter) -> None:
        section = nodes.section(ids=["references"], classes=["references"])
        section += [
            nodes.title("", "References"),
            nodes.bullet_list("", *[self._entry(self.app.book.papers[k]) for k in chapter.cited]),
        ]
        self.document.next_node(nodes.section).append(section)

    def _entry(self, paper: Paper) -> nodes.list_item:
        line = nodes.paragraph("", f"{paper.people}. ")
        line += [
            nodes.reference("", paper.title, refuri=f"paper:{paper.key}", classes=["title"]),
            nodes.Text(f". {paper.imprint}."),
        ]
        for text, url in paper.links:
            line += [nodes.Text(" "), nodes.reference("", text, refuri=url, classes=["outward"])]
        return nodes.list_item("", line, ids=[f"ref-{paper.key}"])


class Page:
    """One page on its way to HTML: turns our links into real ones and adds what hangs on them."""

    def __init__(self, app: Sphinx, doctree: nodes.document, docname: str) -> None:
        self.app, self.doctree, self.docname, self.book = app, doctree, docname, app.book
        self.previews: dict[str, str] = {}
        self.anchored: set[str] = set()

    def href(self, uri: str) -> str:
        """The address of one of our links, as seen from this page."""
        page, anchor = target(uri, self.book)
        here = "" if page == self.docname else self.app.builder.get_relative_uri(self.docname, page)
        return f"{here}#{anchor}" if anchor else here

    def dress(self) -> None:
        """Decorate symbols, links, cells and the card of the chapter."""
        for literal in list(self.doctree.findall(nodes.literal)):
            self._symbol(literal)
        for reference in list(self.doctree.findall(nodes.reference)):
            self._reference(reference)
        chapter = self.book.chapters.get(self.docname)
        if chapter:
            for cell in self.doctree.findall(
                lambda n: isinstance(n, nodes.container) and n.get("nb_element") == "cell_code"
            ):
                self._cell(cell)
            self._join_folds()
            self._card(chapter)
        if self.previews:
            html = "".join(
                f'<template id="preview-{k}">{v}</template>' for k, v in self.previews.items()
            )
            self.doctree.next_node(nodes.section).append(nodes.raw("", html, format="html"))

    def _reference(self, node: nodes.reference) -> None:
        uri = node.get("refuri", "")
        if uri.partition(":")[0] in SCHEMES:
            self._replace(node, uri, "")
        elif (
            self.docname != "book/papers"
            and not self.docname.startswith("book/api")
            and "outward" not in node["classes"]
        ):
            try:
                paper = self.book.papers.find(uri) if uri.startswith("http") else None
            except UnknownPaperError as error:
                log.warning(str(error), location=node)
                return
            if paper:
                key = paper.key
                anchor = "" if key in self.anchored else f' id="cite-{key}"'
                self.anchored.add(key)
                self._replace(node, f"paper:{key}", anchor)

    def _replace(self, node: nodes.reference, uri: str, extra: str) -> None:
        """A link of ours as HTML, with its preview."""
        scheme, _, name = uri.partition(":")
        kind = {"paper": "cite", "symbol": "symbol", "cell": "cell"}.get(scheme, "")
        if scheme == "paper" and self.docname != "book/papers":
            self.previews[name] = paper_preview(self.book.papers[name])
        elif (
            scheme == "symbol"
            and name in self.book.symbols
            and not self.docname.startswith("book/api")
        ):
            self.previews[name] = symbol_preview(self.book.symbols[name])
        preview = f' data-preview="{name}"' if name in self.previews else ""
        node["classes"], node["ids"] = [], []  # docutils would wrap the opening tag alone in them
        opening = nodes.raw(
            "",
            (
                f'<a class="{kind} reference internal" '
                f'href="{escape(self.href(uri))}"{preview}{extra}>'
            ),
            format="html",
        )
        node.replace_self([opening, *node.children, nodes.raw("", "</a>", format="html")])

    def _symbol(self, literal: nodes.literal) -> None:
        """Inline code that names one of our symbols becomes a link to it."""
        symbol = self.book.named(literal.astext().removesuffix("()"), self.docname)
        outside = self.docname in self.book.chapters or self.docname == "book/intro"
        parent = literal.parent
        while parent is not None and outside:
            outside = not isinstance(parent, (nodes.title, nodes.reference))
            parent = parent.parent
        if symbol and outside:
            literal.replace_self(
                nodes.reference("", "", literal.deepcopy(), refuri=f"symbol:{symbol.full}")
            )

    def _cell(self, cell: nodes.container) -> None:
        """Tag an exported cell with its module, and make an anchor for each name.

        A cell folds where a fold is asked for.
        """
        facts = cell["cell_metadata"]["book"]
        if facts["alt"]:
            cell.insert(
                1,
                nodes.raw(
                    "", f'<div role="group" aria-label="{escape(facts["alt"])}">', format="html"
                ),
            )
            cell.append(nodes.raw("", "</div>", format="html"))
        if facts["kind"]:
            cell.append(nodes.raw("", f'<p class="kind">{facts["kind"]}</p>', format="html"))
        if facts["fold"]:
            cell.insert(
                0, nodes.raw("", f"<details><summary>{facts['fold']}</summary>", format="html")
            )
            cell.insert(2, nodes.raw("", "</details>", format="html"))
        if "module" in facts:
            anchors = "".join(f'<span id="def-{n}"></span>' for n in facts["names"])
            to = self.href(
                f"symbol:{facts['module']}.{facts['names'][0]}"
                if facts["names"]
                else f"page:{self.book.api_page(facts['module'])}"
            )
            cell.insert(
                0,
                nodes.raw(
                    "",
                    (
                        f'{anchors}<a class="export" href="{to}" title="This cell is part of the '
                        f'package">{facts["module"]}</a>'
                    ),
                    format="html",
                ),
            )

    def _join_folds(self) -> None:
        """Make one fold of folded cells in a row; what the last of them shows stays below it.

        A folded cell is the opening of the fold, its code, the end of the fold, and its outputs.
        """
        first, captions = None, []
        for cell in list(self.doctree.findall(nodes.container)):
            facts = cell.get("cell_metadata", {}).get("book")
            if facts is None:  # the input or an output of a cell
                continue
            follows = first is not None and first.next_node(siblings=True, descend=False) is cell
            foldable = facts["fold"] and "module" not in facts
            if foldable and follows and first.children[-1].astext() == "</details>":
                captions.append(facts["fold"])
                opening = f"<details><summary>{joined(captions)}</summary>"
                first.children[0].replace_self(nodes.raw("", opening, format="html"))
                self._move(cell, first)
            else:
                first, captions = (cell, [facts["fold"]]) if foldable else (None, [])

    @staticmethod
    def _move(cell: nodes.container, first: nodes.container) -> None:
        """Move the code of a folded cell into the fold before it, and its outputs behind that."""
        _, code, _, *outputs = cell.children
        cell.clear()
        first.insert(len(first.children) - 1, code)
        first.extend(outputs)
        cell.parent.remove(cell)

    def _card(self, chapter: Chapter) -> None:
        """The card stands after the title and its promise, before the first code or section."""
        section = self.doctree.next_node(nodes.section)
        first = next(
            (
                i
                for i, n in enumerate(section.children)
                if isinstance(n, (nodes.section, nodes.container, nodes.raw))
            ),
            len(section),
        )
        section.insert(first, nodes.raw("", self._card_html(chapter), format="html"))

    def _card_html(self, chapter: Chapter) -> str:
        time = "1 minute" if chapter.minutes == 1 else f"{chapter.minutes} minutes"
        rows = [("To read", f"{time}, exercises not counted")]
        if measured := self.book.measured.get(chapter.stem if not chapter.is_experiments else ""):
            rows.append(
                (
                    "To run",
                    (
                        f"{duration(measured['seconds'])} on one CPU core, "
                        f"{memory(measured['peak_mb'])} of memory"
                    ),
                )
            )
        if chapter.cited:
            papers = [
                self._link(f"paper:{k}", "cite", escape(self.book.papers[k].short))
                for k in chapter.cited
            ]
            self.previews.update({k: paper_preview(self.book.papers[k]) for k in chapter.cited})
            rows.append(("Papers", "; ".join(papers)))
        if chapter.symbols:
            names = [
                self._link(f"symbol:{s.full}", "symbol", f"<code>{s.name}</code>")
                for s in chapter.symbols
            ]
            self.previews.update({s.full: symbol_preview(s) for s in chapter.symbols})
            rows.append(
                (
                    "Exports",
                    ", ".join(names)
                    + f' <span class="from">from <code>{chapter.module}</code></span>',
                )
            )
        facts = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in rows)
        s = self.book.settings
        path = self.book.source(chapter.docname)
        colab = (
            "https://colab.research.google.com/github/"
            f"{s['user']}/{s['repo']}/blob/{s['branch']}/{path}"
        )
        name = posixpath.basename(path)
        return (
            '<aside class="card" aria-label="About this chapter">'
            f"<dl>{facts}</dl>"
            f'<p class="ways"><a href="{colab}">Open in Colab</a>'
            f'<a href="{name}" download>Download notebook</a></p></aside>'
        )

    def _link(self, uri: str, kind: str, html: str) -> str:
        return (
            f'<a class="{kind}" href="{escape(self.href(uri))}" '
            f'data-preview="{uri.partition(":")[2]}">{html}</a>'
        )


PYTHON = re.compile(
    r'(<div class="highlight-python[^>]*><div class="highlight"><pre>)'
    r"(?:<span></span>)?(.*?)(</pre>)",
    re.DOTALL,
)


COLUMNS = 82  # characters of code beside each other on a desktop
MATH = re.compile(r'(<span class="math notranslate nohighlight">[^<]*</span>)([,.;:!?)]+)')


def hanging(body: str) -> str:
    """Each line of code in an element that knows its indentation.

    So the style can wrap a long line below itself.
    """

    def line(html: str) -> str:
        text = unescape(re.sub("<[^>]*>", "", html))
        # A comment that stands far to the right comes nearer before it wraps.
        if len(text) > COLUMNS:
            html = re.sub(r'   +(?=<span class="c1">)', "  ", html)
        return (
            '<span class="line" style="--indent: '
            f'{len(text) - len(text.lstrip(" "))}ch">{html}</span>'
        )

    return PYTHON.sub(
        lambda m: m[1] + "".join(map(line, m[2].splitlines(keepends=True))) + m[3], body
    )


def kept_together(body: str) -> str:
    """Inline mathematics and the punctuation behind it, on one line."""
    return MATH.sub(r'<span class="together">\1\2</span>', body)


def paper_preview(paper: Paper) -> str:
    """The HTML that a link to a paper shows on hover."""
    return (
        f"<strong>{escape(paper.title)}</strong><br>{escape(paper.people)}"
        f"<br><em>{escape(paper.imprint)}</em>"
    )


def symbol_preview(symbol: Symbol) -> str:
    """The HTML that a link to a symbol shows on hover."""
    return f"<pre>{escape(symbol.signature)}</pre>{escape(symbol.summary)}"


def report_link(book: Book, docname: str, title: str) -> str:
    """A new issue, with the page and the commit already filled in."""
    source = book.source(docname) or docname
    body = (
        f"Page: {source}\n"
        f"Commit: {book.commit or 'unknown'}\n\n"
        "What it says, and what you expected:\n"
    )
    return (
        f"{book.settings['git_url']}/issues/new"
        f"?title={quote(f'Mistake in {title}')}&body={quote(body)}"
    )
