"""Rules about Markdown and words.

They check measured numbers, marks, citations, links, portable syntax, and spelling.
"""

import io
import re
import tokenize
from pathlib import Path
from urllib.parse import unquote

from book.reader import contents as reader
from book.reader.markdown import MARK, anchors, links, masked, pieces, texts
from book.reader.modules import docstrings
from book.reader.notebooks import Cell, Finding, notebooks, read
from book.reader.papers import UnknownPaperError, bibliography
from tests.press.exercises import FOLDS, Card, cards

NUMBER = r"(?<![\w$.,])(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?[*_]*"
UNIT = "|".join(
    (
        r"\s?(?:%|percent\b|‰)",
        r"×(?![\w(]|\s?\d)",
        r"\s×(?=\s*(?:faster|slower|as\b|more|less|the speed|[.,;:)|]|$))",
        r"x (?:faster|slower|as\b|more|less|smaller|larger)",
        (
            r" times (?:faster|slower|longer|larger|smaller|cheaper"
            r"|as (?:fast|slow|long|much|many|large)|more|less|fewer)"
        ),
        r"\s?(?:ns|µs|μs|us|ms|nanoseconds?|microseconds?|milliseconds?|secs?|seconds?)\b",
        r"\ss\b",
        r"(?<=\.\d)s\b",
        r"(?<=\.\d\d)s\b",
        r"\s?(?:[kKMGT]i?B|[kMGTP]?FLOPS?|[kMG]?Hz)\b",
        r"\s?(?:images|samples|tokens|steps|it)/s\b",
    )
)
MEASURED = re.compile(rf"{NUMBER}(?:{UNIT})", re.M)
MEASURED_MATH = re.compile(
    r"\d\s*(?:\\%|\\times\s*\$|\\?[,; ]?\\(?:text|mathrm)\{\s*[nmµμ]?s\}"
    r"|\\?[,; ]?\\(?:text|mathrm)\{\s*[kMGT]i?B\})"
)
MEND = (
    "mark it: `<!-- v name:format -->…<!-- /v -->` with quote(name=…) for what this book "
    "measured, `<!-- c KEY -->…<!-- /c -->` for a figure from a source; or say it without a "
    "number"
)


def measured_numbers(root: Path) -> list[Finding]:
    """No measured number stands in prose by hand."""
    found = []
    for cell in texts(root):
        found += [
            cell.finding(f"an unmarked number with a unit, '{m[0].strip()}'", MEND)
            for m in MEASURED.finditer(masked(cell.source))
        ]
        found += [
            cell.finding(
                f"a number with a unit in mathematics, '{m[0]}'", "write it in the text: " + MEND
            )
            for m in pieces(cell.source, "math")
            if MEASURED_MATH.search(m[0])
        ]
    for cell in (c for n in notebooks(root) for c in n.code):
        said = [d for d in cell.directives if d.startswith("fig-")]
        found += [
            cell.finding(
                f"a measured number in '#| {d}'",
                "say what the figure shows without it: captions are not rewritten by make sync",
            )
            for d in said
            if MEASURED.search(d)
        ]
    return found


def marks(root: Path) -> list[Finding]:
    """Comments in Markdown are number marks, and whole.

    They stand only where every Markdown viewer hides them.
    """
    known, found = bibliography(root), []
    for cell in texts(root):
        text = masked(cell.source, "fence", "code")
        if cell.number is None:  # a page of the website, part of which is generated
            text = re.sub(r"^<!-- generated -->$", "", text, flags=re.M)
        found += [
            cell.finding(
                f"a mark at the start of a line, '{m[0].strip()[:40]}'",
                "put a word before it: there CommonMark reads raw HTML",
            )
            for m in re.finditer(r"^(?:[ \t]|>|[-*+][ \t]+|\d+[.)][ \t]+)*<!--.*", text, re.M)
        ]
        found += [
            cell.finding(
                f"the comment '{m[0][:40]}' is no number mark",
                (
                    "write `<!-- v name:format -->…<!-- /v -->` or `<!-- c KEY -->…<!-- /c -->`, "
                    "or remove it"
                ),
            )
            for m in pieces(text, "comment")
        ]
        found += [
            cell.finding(
                f"a mark inside mathematics, '{m[0][:40]}'", "end the mathematics before the mark"
            )
            for m in pieces(text, "math")
            if "<!--" in m[0]
        ]
        found += [
            cell.finding("a mark inside <summary>", "move the number into the body of the fold")
            for _ in re.finditer(r"<summary>(?:(?!</summary>).)*<!--", text, re.S)
        ]
        found += [
            cell.finding(
                f"a number mark inside code, '{m[0][:40]}'",
                "take it out of the code; in an example write ? between the marks",
            )
            for kind in ("code", "fence")
            for part in pieces(cell.source, kind)
            for m in re.finditer(MARK, part[0], re.S)
            if re.search(r"\d", m["literal"])
        ]
        found += [
            cell.finding(
                f"the mark names {m['key']!r}, which is no entry of book/references.bib",
                "add the entry, or mend the key",
            )
            for m in pieces(text, "mark")
            if m["letter"] == "c" and m["key"] not in known
        ]
    return found


def prose_figures(root: Path) -> list[Finding]:
    """The figures in the text are the stored ones. Imports the package."""
    from fromfound.record import fill_marks, stored_quotes

    found, every = [], {}
    for notebook in notebooks(root):
        try:
            every |= {
                f"{notebook.path.stem}.{k}": v for k, v in stored_quotes(notebook.path).items()
            }
        except ValueError as error:
            found.append(Finding(notebook.file, None, str(error), "rename one of them"))
    for cell in texts(root):
        stem = Path(cell.file).stem
        own = (
            {k.removeprefix(f"{stem}."): v for k, v in every.items() if k.startswith(f"{stem}.")}
            if cell.number
            else {}
        )
        try:
            fresh = fill_marks(cell.source, every | own, "")
        except (LookupError, ValueError, TypeError) as error:
            found.append(
                cell.finding(
                    str(error.args[0]).removeprefix(": "),
                    "quote the value in a cell, or mend the name or the format of the mark",
                )
            )
            continue
        stale = [
            (a, b)
            for a, b in zip(
                re.findall(MARK, cell.source, re.S), re.findall(MARK, fresh, re.S), strict=False
            )
            if a != b
        ]
        found += [
            cell.finding(
                f"the text says {a[2]!r} for {a[1]!r}, the stored output gives {b[2]!r}",
                "run make sync",
            )
            for a, b in stale
        ]
    return found


# --- citations and links --------------------------------------------------------------------------

BIBLIOGRAPHY = "book/references.bib"


def citations(root: Path) -> list[Finding]:
    """Each link to arXiv or a DOI belongs to an entry of references.bib."""
    papers = bibliography(root)
    if not papers:
        cure = "put the entries of the cited papers there"
        return [Finding(BIBLIOGRAPHY, None, "the bibliography is missing or empty", cure)]
    found = [
        Finding(BIBLIOGRAPHY, None, problem, "complete or merge the entries")
        for problem in papers.problems
    ]
    cure = "add the paper there, with its eprint or doi, or mend the link"
    for cell in texts(root):
        for link in links(cell.source):
            try:
                papers.find(link)
            except UnknownPaperError:
                found.append(
                    cell.finding(f"the link {link} belongs to no entry of {BIBLIOGRAPHY}", cure)
                )
    return found


def internal_links(root: Path) -> list[Finding]:
    """Links within the repository lead to a file and a heading that exist."""
    found, known = [], {}
    for cell in texts(root):
        here = (root / cell.file).parent
        for link in links(cell.source):
            path, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z][a-z+.-]*:|//", link) or not link:
                continue
            target = (here / path).resolve() if path else root / cell.file
            if not target.exists() or not target.resolve().is_relative_to(root.resolve()):
                found.append(
                    cell.finding(
                        f"a dead link, '{link}'", "mend it: there is no such file in the repository"
                    )
                )
            elif anchor and target.suffix in (".ipynb", ".md"):
                if target not in known:
                    known[target] = _anchors_of(root, target)
                if anchor not in known[target]:
                    near = [a for a in sorted(known[target]) if a[:4] == anchor[:4].lower()]
                    found.append(
                        cell.finding(
                            f"a dead link, '{link}': no heading gives that anchor",
                            (
                                "use one of: "
                                f"{', '.join(near or sorted(known[target])) or 'none there'}"
                            ),
                        )
                    )
    return found


def _anchors_of(root: Path, target: Path) -> set[str]:
    if target.suffix == ".md":
        return anchors(target.read_text(encoding="utf-8"))
    return anchors("\n\n".join(cell.source for cell in read(target).markdown))


def contents(root: Path) -> list[Finding]:
    """_toc.yml and the chapters name each other."""
    try:
        listed = reader.contents(root)
    except ValueError as error:
        return [Finding("_toc.yml", None, str(error), "mend its form")]
    every = {n.file.removesuffix(".ipynb"): n for n in notebooks(root)}
    chapters = [name for name, notebook in every.items() if notebook.is_chapter]
    front = (root / "book" / "intro.md").read_text(encoding="utf-8")
    absent = [
        c
        for c in chapters
        if f"{Path(c).name}.ipynb" not in front and not Path(c).name.startswith("00_")
    ]
    return (
        [
            Finding(
                "book/intro.md",
                None,
                f"the front page does not name {c}",
                "enter it in the list of chapters",
            )
            for c in absent
        ]
        + [
            Finding(
                f"{c}.ipynb",
                None,
                "the chapter is not in _toc.yml",
                "list it there, or no reader of the website will find it",
            )
            for c in chapters
            if c not in listed
        ]
        + [
            Finding(
                "_toc.yml",
                None,
                f"lists {name}, which does not exist",
                "write the chapter or take it out",
            )
            for name in listed
            if name.startswith("nbs/") and name not in every
        ]
    )


# --- words ----------------------------------------------------------------------------------------

SITE_ONLY = (
    (r"^[ \t>]*:{3,}", "a colon fence"),
    (r"^\([\w-]+\)=\s*$", "a label"),
    (r"\{\{.*?\}\}", "a substitution"),
)


def portable_markdown(root: Path) -> list[Finding]:
    """Chapters hold nothing that only Jupyter Book understands, and no list by accident."""
    cure = "write portable Markdown: an ordinary link, a block quote, <details>"
    found = []
    for cell in (c for n in notebooks(root) for c in n.markdown):
        roles = [
            re.search(r"\{[a-zA-Z][\w:+-]*\}$", cell.source[: m.start()])
            for m in pieces(cell.source, "code")
        ]
        fences = [
            re.match(r"[ \t>]*(?:`{3,}|~{3,})\{[^\n]*", m[0]) for m in pieces(cell.source, "fence")
        ]
        others = [
            (what, m)
            for pattern, what in SITE_ONLY
            for m in re.finditer(pattern, masked(cell.source, "fence", "code", "math"), re.M)
        ]
        for what, m in (
            [("a role", m) for m in roles] + [("a directive", m) for m in fences] + others
        ):
            if m:
                found.append(
                    cell.finding(
                        f"{what} that only Jupyter Book understands, '{m[0].strip()}'", cure
                    )
                )
        found += [
            cell.finding(
                f"a paragraph that becomes item {m[1]} of a list, '{m[0].strip()}'",
                "begin it with a word",
            )
            for m in re.finditer(r"(?:\A|\n[ \t]*\n)(\d+)[.)] .{,30}", masked(cell.source, "fence"))
            if int(m[1]) > 1
        ]
    return found


def tables(root: Path) -> list[Finding]:
    """Every row of a table has as many cells as its head.

    A bare | inside code ends the cell there.
    """
    found = []
    for cell in texts(root):
        text = masked(cell.source, "fence")
        for table in re.finditer(r"^\|.*\|[ \t]*\n\|[ :|-]+\|[ \t]*\n(?:\|.*\n?)*", text, re.M):
            rows = [re.sub(r"\\\|", "", row) for row in table[0].splitlines()]
            found += [
                cell.finding(
                    (
                        f"a table row of {row.count('|') - 1} cells under a head of "
                        f"{rows[0].count('|') - 1}, '{row[:60]}'"
                    ),
                    "write \\| for a bar that is part of a cell, inside code as well",
                )
                for row in rows
                if row.count("|") != rows[0].count("|")
            ]
    return found


EMOJI = re.compile(
    "[\U0001f000-\U0001faff\u2600-\u26ff\u2705\u2728\u274c\u274e\u2753-\u2757\u2764"
    "\u2795-\u2797\u2b50\u2b55\ufe0f]"
)


def _spoken(root: Path) -> list[tuple[Cell, str]]:
    """Everything written for readers: prose, and the docstrings and comments of code cells."""
    said = [(c, masked(c.source)) for c in texts(root)]
    for cell in (c for n in notebooks(root) for c in n.code):
        if cell.tree is None:
            continue
        code_free = [re.sub(r"`[^`]*`", "", text) for _, text in docstrings(cell.tree)]
        comments = [t.string for t in _tokens(cell.source) if t.type == tokenize.COMMENT]
        said.append((cell, "\n".join(code_free + comments)))
    return said


def _tokens(source: str) -> list[tokenize.TokenInfo]:
    try:
        return list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, IndentationError):  # a cell with magics
        return []


BETTER = {  # habits of the early chapters, and what the field says instead
    r"(?:no|some)body": "say who, or turn the sentence: 'no one' at most",
    r"trainings": "training runs",
    r"anew": "again",
    r"mend(?:s|ed|ing)?": "fix",
    r"dearer": "more expensive",
    r"in every bit": "bitwise identical",
    r"(?:cannot|can't|can not) be had": "is not available",
    r"(?:silent|deaf) units?": "dead units",
    r"learned by heart": "overfitted, memorized",
}


def words(root: Path) -> list[Finding]:
    """No filler, no exclamation marks, no emoji, and the field's terms."""
    found = []
    for cell, text in _spoken(root):
        found += [
            cell.finding(f"'{m[0]}'", "leave the word out: what is simple shows it")
            for m in re.finditer(r"\bsimply\b", text, re.I)
        ]
        found += [
            cell.finding(f"'{m[0]}'", f"write: {better}")
            for pattern, better in BETTER.items()
            for m in re.finditer(rf"\b{pattern}\b", text, re.I)
        ]
        found += [
            cell.finding("an exclamation mark", "end the sentence with a period")
            for _ in re.finditer(r"(?<=[\w)\"'’”*_])!(?![=\[\w])", text)
        ]
        found += [
            cell.finding(f"an emoji, {m[0]!r}", "say it in words") for m in EMOJI.finditer(text)
        ]
    return found


# --- the shape of a lesson ------------------------------------------------------------------------

PARTS = ("From the papers", "What goes wrong", "Exercises", "What we built")


def lesson_shape(root: Path) -> list[Finding]:
    """A lesson opens with a promise and has the parts that CHAPTER.md lists."""
    found = []
    for notebook in (n for n in notebooks(root) if not n.is_exercises):
        first = notebook.cells[0] if notebook.cells else None
        if (
            first is None
            or first.kind != "markdown"
            or not re.match(r"# \S[^\n]*\n+(?!#)[^\n]{20,}", first.source)
        ):
            found.append(
                Finding(
                    notebook.file,
                    1,
                    "it does not open with a title and a promise",
                    "begin with `# Title` and two or three sentences: what stands at the end",
                )
            )
        headings = re.findall(
            r"^#{2,3} +(.+)$", "\n".join(masked(c.source, "fence") for c in notebook.markdown), re.M
        )
        for part in PARTS if notebook.is_lesson else ():
            if not any(part.lower() in h.lower() for h in headings):
                found.append(
                    Finding(
                        notebook.file,
                        None,
                        f"no section '{part}'",
                        f"write one: a heading with the words '{part}'",
                    )
                )
    return found


def exercise_cards(root: Path) -> list[Finding]:
    """A lesson has four to eight exercises, each on a complete card, one of them a mutant hunt."""
    found = []
    for notebook in (n for n in notebooks(root) if n.is_lesson):
        deck = cards(notebook)
        if not 4 <= len(deck) <= 8:
            found.append(
                Finding(
                    notebook.file,
                    None,
                    f"{len(deck)} exercise cards; expected 4 to 8",
                    "write cards that begin `### Exercise 1.3 · Title`",
                )
            )
        if deck and not any("mutant" in (c.facts or {}).get("kind", "") for c in deck):
            found.append(
                Finding(
                    notebook.file,
                    None,
                    "no exercise of the kind 'kill the mutants'",
                    "let the reader write a check once",
                )
            )
        chapter = f"{notebook.order[0]}{notebook.order[1]}"
        if (numbers := [c.number for c in deck]) != (
            expected := [f"{chapter}.{i}" for i in range(1, len(deck) + 1)]
        ):
            found.append(
                Finding(
                    notebook.file,
                    None,
                    f"exercises numbered {', '.join(numbers)}",
                    f"number them {', '.join(expected)}",
                )
            )
        found += [problem for card in deck for problem in _card_problems(card)]
    return found


def _card_problems(card: Card) -> list[Finding]:
    at, problems = card.statement, []
    if card.facts is None:
        problems.append(
            at.finding(
                "the line of facts does not have its form",
                (
                    "write *kind: complete · difficulty 2/5 · importance 4/5 · 10 minutes · "
                    "needs: broadcasting*"
                ),
            )
        )
    if card.stub is None or not card.stub.source.rstrip().splitlines()[-1].startswith(
        f"check.{card.check}("
    ):
        problems.append(
            at.finding(
                f"no stub that ends with check.{card.check}(…)",
                "follow the statement with a code cell that runs and gives a wrong answer",
            )
        )
    if tuple(card.folds) != FOLDS:
        problems.append(
            at.finding(
                f"its folds are {list(card.folds)}",
                f"give it these five, in this order: {', '.join(FOLDS)}",
            )
        )
    if len(card.solutions) != 1:
        problems.append(
            at.finding(
                f"{len(card.solutions)} Python blocks in the fold 'The solution'",
                "put exactly one fenced ```python block there: tests run it",
            )
        )
    return problems


RULES = (
    measured_numbers,
    marks,
    prose_figures,
    citations,
    internal_links,
    contents,
    portable_markdown,
    tables,
    words,
    lesson_shape,
    exercise_cards,
)
