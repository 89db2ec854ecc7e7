"""_toc.yml: which pages the book has, and their order."""

from collections.abc import Iterator
from pathlib import Path

from sphinx_external_toc.api import Document, FileItem, GlobItem, SiteMap
from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml


def contents(root: Path) -> list[str]:
    """The pages that _toc.yml names, in reading order: `book/intro`, `nbs/01_matmul`.

    Of a pattern, the notebooks that it fits.

    Raises:
        ValueError: it does not have its form.
    """
    try:
        site = parse_toc_yaml(root / "_toc.yml")
    except MalformedError as error:
        raise ValueError(f"_toc.yml: {error}") from error
    return list(_pages(root, site, site.root))


def _pages(root: Path, site: SiteMap, page: Document) -> Iterator[str]:
    yield page.docname
    for tree in page.subtrees:
        for item in tree.items:
            if isinstance(item, FileItem):
                yield from _pages(root, site, site[item])
            elif isinstance(item, GlobItem):
                found = sorted(root.glob(f"{item}.ipynb"))
                yield from (p.relative_to(root).with_suffix("").as_posix() for p in found)
