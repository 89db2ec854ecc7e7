"""Where our own links lead: `paper:`, `cite:`, `symbol:`, `cell:` and `page:`.

They are written `paper:KEY`, `cite:PAGE/KEY`, `symbol:NAME`, `cell:NAME`, `page:PAGE`.
"""

from .book import Book

SCHEMES = ("paper", "cite", "symbol", "cell", "page")


def target(uri: str, book: Book) -> tuple[str, str]:
    """The page and the anchor that one of our addresses names."""
    scheme, _, name = uri.partition(":")
    if scheme == "paper":
        return "book/papers", name
    if scheme == "cite":
        docname, _, key = name.rpartition("/")
        return docname, f"cite-{key}"
    if scheme == "page":
        return name, ""
    symbol = owner = book.symbols.get(name)
    if symbol is None:  # a method: its class is the exported name
        owner = book.symbols[name.rpartition(".")[0]]
        symbol = next(m for m in owner.methods if m.full == name)
    if scheme == "cell" or book.chapters[owner.docname].is_experiments:
        return owner.docname, f"def-{owner.name}"
    return book.api_page(owner.module), symbol.name
