"""The site for machines: each page as Markdown, an `llms.txt`, papers and symbols as JSON."""

import json
import posixpath
import re
import shutil
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

from . import pages
from .book import Book
from .links import SCHEMES, target
from .notebook import PICTURES, shown

OURS = re.compile(rf"\]\(((?:{'|'.join(SCHEMES)}):[^)\s]+)\)")
NOTEBOOK = re.compile(r"\]\(([\w./-]+)\.ipynb(#[^)]*)?\)")


def note_images(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Remember which image files each cell shows.

    Sphinx names them only when it writes the page.
    """
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") == "cell_code":
            app.cell_images[docname, cell["cell_index"]] = [
                i["uri"] for i in cell.findall(nodes.image)
            ]


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the Markdown twins, the notebooks to download, and the indexes for machines."""
    if error or app.builder.format != "html":
        return
    out, book = Path(app.outdir), app.book
    for docname in sorted(app.env.found_docs):
        path = out / f"{docname}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_twin(app, docname), encoding="utf-8")
        if docname in book.chapters:  # the download: the notebook as it is in the repository
            shutil.copy(book.root / f"{docname}.ipynb", path.with_suffix(".ipynb"))
    (out / "llms.txt").write_text(_llms(app), encoding="utf-8")
    _dump(out / "papers.json", _papers(book))
    _dump(out / "symbols.json", _symbols(book))


def _dump(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _twin(app: Sphinx, docname: str) -> str:
    book: Book = app.book
    if docname in book.chapters:
        text = _chapter(app, docname)
    else:
        text = pages.filled(
            Path(app.env.doc2path(docname)).read_text(encoding="utf-8"), docname, book
        )
    here = posixpath.dirname(docname)

    def ours(match: re.Match) -> str:
        page, anchor = target(match[1], book)
        return f"]({posixpath.relpath(page, here)}.md" + (f"#{anchor})" if anchor else ")")

    return NOTEBOOK.sub(lambda m: f"]({m[1]}.md{m[2] or ''})", OURS.sub(ours, text))


def _chapter(app: Sphinx, docname: str) -> str:
    pieces = []
    for index, cell in enumerate(shown(docname, app.book)["cells"]):
        if cell["cell_type"] == "code":
            pieces.append(f"```python\n{cell['source']}\n```")
            pieces += _outputs(app, docname, index, cell)
        else:
            pieces.append(cell["source"])
    return "\n\n".join(pieces) + "\n"


def _outputs(app: Sphinx, docname: str, index: int, cell: dict) -> list[str]:
    words = cell["metadata"].get("mystnb", {})
    alt = words.get("image", {}).get("alt", "")
    found = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        if any(kind in data for kind in PICTURES):
            continue
        if "text/markdown" in data:
            found.append("".join(data["text/markdown"]))
        else:
            text = "".join(output.get("text") or data.get("text/plain", ""))
            found.append(f"```text\n{text.rstrip()}\n```")
    up = posixpath.relpath("_images", posixpath.dirname(docname))
    found += [
        f"![{alt}]({up}/{app.builder.images[uri]})"
        for uri in app.cell_images.get((docname, index), ())
    ]
    return found + ([f"*{words['figure']['caption']}*"] if "figure" in words else [])


def _llms(app: Sphinx) -> str:
    """The index of the site in the form that llmstxt.org describes."""
    book: Book = app.book
    s = book.settings
    chapters = [f"- [{c.named}]({d}.md)" for d, c in book.chapters.items()]
    modules = [
        f"- [{m}]({book.api_page(m)}.md): {', '.join(x.name for x in c.symbols)}"
        for m, c in book.by_module().items()
    ]
    return "\n".join(
        [
            f"# {s['title']}",
            "",
            f"> {s['description']}.",
            "",
            "## Chapters",
            "",
            *chapters,
            "",
            "## Package",
            "",
            *modules,
            "",
            "## Reference",
            "",
            "- [Papers](book/papers.md)",
            "- [Results](book/results.md)",
            "- [papers.json](papers.json)",
            "- [symbols.json](symbols.json)",
            "",
        ]
    )


def _papers(book: Book) -> list[dict]:
    return [
        {
            "key": p.key,
            "authors": p.authors,
            "title": p.title,
            "year": p.year,
            "venue": p.venue,
            "links": [url for _, url in p.links],
            **_said(book.claims.get(p.key, "")),
            "cited_in": [c.docname for c in book.citing(p.key)],
            "implemented_by": [s.full for s, _ in book.implements(p.key)],
        }
        for p in book.papers.values()
    ]


def _said(claim: str) -> dict[str, str]:
    """The parts of a claim by name: what the paper says, our figure, what differs."""
    parts = re.split(r"\*\*(Says|Here|Differs)\*\*:? ", re.sub(r"<!--.*?-->", "", claim))
    return {name.lower(): text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _symbols(book: Book) -> list[dict]:
    return [
        {
            "name": s.full,
            "kind": s.kind,
            "signature": s.signature,
            "summary": s.summary,
            "sources": s.sources,
            "defined_in": f"{s.docname}.html#def-{s.name}",
            "page": "{}.html#{}".format(*target(f"symbol:{s.full}", book)),
        }
        for s in book.symbols.values()
    ]
