"""The Sphinx extension of this book: it makes the site of notebooks and the bibliography."""

import json
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.project import Project
from sphinx.util import logging

from . import decorate, mathjax, pages, twins
from .book import Book
from .notebook import shown

log = logging.getLogger(__name__)


def read_book(app: Sphinx, config: Config) -> None:
    """Read everything once, and set what depends on settings.ini."""
    app.book = book = Book(Path(app.srcdir))
    app.cell_images = {}  # for the Markdown twins
    s = book.settings
    config.project = config.html_title = s["title"]
    config.author, config.copyright = s["author"], s["copyright"]
    config.html_baseurl = f"{s['doc_host']}{s['doc_baseurl']}/"
    config.html_static_path.append(str(mathjax.copy(Path(app.doctreedir).parent / "static")))


def without_thebe(app: Sphinx, config: Config) -> None:
    """Take out sphinx_thebe, which Jupyter Book always loads.

    It names a remote script on each page and declares it twice.
    """
    for listeners in app.events.listeners.values():
        listeners[:] = [
            one for one in listeners if not one.handler.__module__.startswith("sphinx_thebe")
        ]


class ProjectWithPages(Project):
    """The documents of the source tree, and those we write beside the doctrees."""

    written: dict[str, str] = {}

    def discover(self, *args: object, **kwargs: object) -> set[str]:
        """Find the pages on disk, and add those that are written in memory."""
        found = super().discover(*args, **kwargs)
        self._docname_to_path.update(self.written)
        found.update(self.written)
        return found


def write_api_pages(app: Sphinx) -> None:
    """Write one page per module, shown to Sphinx as if it lay in `book/api/`.

    A build writes nothing into the tree.
    """
    folder = Path(app.doctreedir).parent / "api"
    folder.mkdir(parents=True, exist_ok=True)
    app.project.__class__ = ProjectWithPages
    app.project.written = {}
    for module, chapter in app.book.by_module().items():
        docname = app.book.api_page(module)
        path = folder / f"{docname.split('/')[-1]}.md"
        path.write_text(pages.api_page(app.book, chapter), encoding="utf-8")
        app.project.written[docname] = str(path)


def edit_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Clean a notebook; put the generated part into a page that has a place for it."""
    if docname in app.book.chapters:
        source[0] = json.dumps(shown(docname, app.book))
    else:
        source[0] = pages.filled(source[0], docname, app.book)


def report_problems(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of each problem found while the book was read."""
    for problem in app.book.problems:
        log.warning(problem)


def always_stale(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Rebuild every page, every time.

    Each shows facts of others: citations, symbols, recorded runs.
    """
    return sorted(env.found_docs)


def dress(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Decorate a page, and note its images for its Markdown twin."""
    decorate.Page(app, doctree, docname).dress()
    twins.note_images(app, doctree, docname)


def page_context(
    app: Sphinx, docname: str, template: str, context: dict, doctree: nodes.document | None
) -> None:
    """What the footer of each page needs."""
    context["css_files"] = [css for css in context["css_files"] if "thebe" not in str(css.filename)]
    context["book_settings"], context["book_commit"] = app.book.settings, app.book.commit
    if doctree is not None:
        context["body"] = decorate.kept_together(decorate.hanging(context["body"]))
        context["report_url"] = decorate.report_link(app.book, docname, context["title"])
        context["twin"] = docname.split("/")[-1] + ".md"
        context["metatags"] += (
            f'<link rel="alternate" type="text/markdown" href="{context["twin"]}" />'
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension to Sphinx."""
    app.connect("config-inited", without_thebe)
    app.connect("config-inited", read_book)
    app.connect("builder-inited", write_api_pages)
    app.connect("env-get-outdated", always_stale)
    app.connect("source-read", edit_source, priority=100)
    app.connect("env-updated", report_problems)
    app.connect("doctree-resolved", dress)
    app.connect("html-page-context", page_context)
    app.connect("build-finished", twins.write)
    app.add_transform(decorate.Structure)
    return {"parallel_read_safe": False, "parallel_write_safe": False}
