"""The generated pages: papers, symbols, results.

They are Markdown, with our own links (see `links.py`).
"""

import math
import re
import statistics
import textwrap

from book.reader.papers import Paper, listed

from .book import Book, Chapter
from .symbols import PAPER_KEY, SOURCE, Symbol

HEADED = re.compile(
    r"^(Args|Arguments|Attributes|Returns|Yields|Raises|Example|Examples):[ \t]*(.*)$", re.M
)
TITLES = {"Args": "Arguments"}


def reference(paper: Paper) -> str:
    """Authors, place and year, with links to the paper itself."""
    outward = " · ".join(f"[{text}]({url})" for text, url in paper.links)
    return f"{paper.people}. {paper.imprint}." + (f" {outward}" if outward else "")


def papers(book: Book) -> str:
    """Each cited paper, what it claims, where it is cited and what implements it.

    Papers that are not cited yet come last.
    """
    cited = [p for p in book.papers.values() if book.citing(p.key) or book.implements(p.key)]
    lines = ["## Cited so far", ""]
    for paper in sorted(cited, key=lambda p: (p.year, p.surnames)):
        lines += [f"### {paper.title}", "", reference(paper), ""]
        if paper.note:
            lines += [f"{paper.note}.", ""]
        lines += [book.claims.get(paper.key, ""), ""]
        places = [f"[{c.title}](cite:{c.docname}/{paper.key})" for c in book.citing(paper.key)]
        if places:
            lines += [f"Cited in {listed(places)}.", ""]
        code = [
            f"[`{s.name}`](symbol:{s.full})" + (f" ({place})" if place else "")
            for s, place in book.implements(paper.key)
        ]
        if code:
            lines += [f"Implemented by {listed(code)}.", ""]
    waiting = [p for p in book.papers.values() if p not in cited]
    lines += [
        "## Still to come",
        "",
        "Later chapters of the plan rest on these; no chapter cites them yet.",
        "",
    ]
    lines += [
        f"- {p.short}. *{p.title}.* {p.imprint}."
        + (f" [{p.links[0][0]}]({p.links[0][1]})" if p.links else "")
        for p in sorted(waiting, key=lambda p: (p.year, p.surnames))
    ]
    return "\n".join(lines) + "\n"


def api_index(book: Book) -> str:
    """The modules and what each exports, one line a name."""
    lines = []
    for module, chapter in book.by_module().items():
        lines += [
            f"## [`{module}`](page:{book.api_page(module)})",
            "",
            f"Built in [{chapter.title}](page:{chapter.docname}).",
            "",
        ]
        lines += [
            f"- [`{s.name}`](symbol:{s.full})" + (f": {s.summary}" if s.summary else "")
            for s in chapter.symbols
        ]
        lines.append("")
    return "\n".join(lines)


def api_page(book: Book, chapter: Chapter) -> str:
    """One module: every public name with its signature, its docstring and its defining cell."""
    lines = [f"# {chapter.module}", "", f"Built in [{chapter.title}](page:{chapter.docname}).", ""]
    for symbol in chapter.symbols:
        lines += [
            f"## `{symbol.name}`",
            "",
            *_signature(symbol),
            docstring(symbol, book),
            f"[Defined in {chapter.title}](cell:{symbol.full})",
            "",
        ]
        for method in symbol.methods:
            lines += [f"### `{method.name}`", "", *_signature(method), docstring(method, book), ""]
    return "\n".join(lines)


def _signature(symbol: Symbol) -> list[str]:
    bases = [f"Extends {listed([f'`{b}`' for b in symbol.bases])}.", ""] if symbol.bases else []
    return ["```python", symbol.signature, "```", "", *bases]


def docstring(symbol: Symbol, book: Book) -> str:
    """A docstring in Markdown: sections as lists, its sources as links."""
    text = SOURCE.sub("", symbol.docstring)
    pieces = HEADED.split(text)
    lines = [pieces[0].strip(), ""]
    for title, first, block in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        indented, rest = _block(block)
        body = textwrap.dedent(indented).strip() or first
        if title.startswith("Example"):
            shown = ["```python", body, "```"]
        elif title in ("Returns", "Yields"):
            shown = [" ".join(body.split())]
        else:
            shown = [f"- {_item(item)}" for item in re.split(r"\n(?=\S)", body)]
        lines += [f"**{TITLES.get(title, title)}**", "", *shown, "", rest.strip(), ""]
    if symbol.sources:
        lines += ["**Source** " + "; ".join(_source(s, book) for s in symbol.sources), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _block(text: str) -> tuple[str, str]:
    """What is indented after a heading, and what follows it."""
    lines = text.strip("\n").splitlines()
    count = next(
        (i for i, line in enumerate(lines) if line.strip() and not line.startswith(" ")), len(lines)
    )
    return "\n".join(lines[:count]), "\n".join(lines[count:])


def _item(item: str) -> str:
    """`name: meaning`, the name as code."""
    name, colon, meaning = " ".join(item.split()).partition(": ")
    if not colon:
        return name
    return ", ".join(f"`{n.strip().strip('`')}`" for n in name.split(",")) + f": {meaning}"


def _source(source: str, book: Book) -> str:
    match = PAPER_KEY.match(source)
    if not match or match[1] not in book.papers:
        return f"`{source}`"
    return f"[{book.papers[match[1]].short}](paper:{match[1]})" + (
        f", {match[2]}" if match[2] else ""
    )


def results(book: Book) -> str:
    """What each chapter costs to run, and every recorded run with its provenance."""
    lines = ["## What each chapter costs", ""]
    chapters = [c for c in book.chapters.values() if not c.is_experiments]
    costs = [(c, book.measured[c.stem]) for c in chapters if c.stem in book.measured]
    if costs:
        lines += ["| chapter | time | peak memory |", "|:--|--:|--:|"]
        lines += [
            f"| [{c.named}](page:{c.docname}) | {duration(m['seconds'])} | {memory(m['peak_mb'])} |"
            for c, m in costs
        ]
    else:
        lines.append("No chapter has been timed yet.")
    lines += ["", "## Recorded runs", ""]
    if not book.runs:
        lines.append("No run has been recorded yet.")
    for run in book.runs:
        lines += _run(run, book)
    return "\n".join([*lines, *_mutants(book.mutants)]) + "\n"


def _mutants(found: dict) -> list[str]:
    """How many planted mistakes the tests noticed, and why the others live."""
    if not found:
        return []
    modules = found["modules"]
    tried, killed = (sum(m[key] for m in modules.values()) for key in ("tried", "killed"))
    lines = [
        "",
        "## Mutants",
        "",
        "A mutant is the library with one small mistake in it: a sign, an axis, a condition, "
        "a forgotten `detach`. "
        f"`make mutants` plants a sample of them and runs the tests on each. Of {tried} they "
        f"noticed {killed}, {killed / tried:.1%}.",
        "",
        "| module | tried | noticed |",
        "|:--|--:|--:|",
    ]
    lines += [f"| `{name}` | {m['tried']} | {m['killed']} |" for name, m in sorted(modules.items())]
    if found["survivors"]:
        lines += ["", "Those that live, and why:", ""]
        lines += [
            (
                f"- `{s['module']}`, {s['mistake']} in ``{s['line']}``: "
                f"{s['reason'] or 'not explained yet'}"
            )
            for s in found["survivors"]
        ]
    return lines


def _run(run: dict, book: Book) -> list[str]:
    """A recorded run in the words of `fromfound.record`, with each seed and more of its origin."""
    module, _, name = run["name"].rpartition(".")
    home = book.symbols.get(f"{book.settings['lib_name']}.experiments.{module}.{name}")
    lines = [f"### `{run['name']}`", ""]
    if home:
        lines += [f"Defined in [{book.chapters[home.docname].title}](cell:{home.full}).", ""]
    lines += [
        "| value | mean ± standard deviation | target | each seed |",
        "|:--|:--|:--|:--|",
    ]
    for name, value in run["figures"].items():
        each = ", ".join(f"{v:.4g}" for v in value["per_seed"])
        said = verdict(value["per_seed"], run["marks"].get(name))
        lines.append(f"| {name} | {spread(value['per_seed'])} | {said} | {each} |")
    facts = [
        f"`{run['command']}`",
        f"commit {run['commit']}",
        run["device"],
        f"torch {run['versions']['torch']}",
        f"{run['seconds']:.0f} seconds",
        f"{run['peak_mb']} MiB",
        *([f"the code of commit {p['commit']} {p['how']}"] if (p := run.get("proved")) else []),
        f"Python {run['versions']['python']}",
        f"code {run['code']}",
    ]
    if run["data"]:
        sources = (
            f"{name}: {'stand-in' if source == 'stand-in' else 'real, checksums in the record'}"
            for name, source in run["data"].items()
        )
        facts.append(f"data {'; '.join(sources)}")
    return [*lines, "", " · ".join(facts), ""]


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds, as `fromfound.check.Spread` prints them."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.4g} (one run)"
    sd = statistics.stdev(values)
    decimals = max(0, 1 - math.floor(math.log10(sd))) if sd > 0 else 4
    return f"{mean:.{decimals}f} ± {sd:.{decimals}f} (n={len(values)})"


def verdict(values: list[float], target: str | None) -> str:
    """Whether a recorded value kept its target, in words."""
    if target is None:
        return "–"
    sign, bound = target.split()
    mean = statistics.fmean(values)
    ahead = mean - float(bound) if sign == ">=" else float(bound) - mean
    said = "met" if ahead >= 0 else "MISSED"
    if len(values) > 1 and abs(ahead) < 2 * statistics.stdev(values) / len(values) ** 0.5:
        said += ", by less than its uncertainty"
    return f"{'≥' if sign == '>=' else '≤'} {bound}: {said}"


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    if seconds < 1:
        return "under a second"
    if seconds < 90:
        return f"{seconds:.0f} seconds" if round(seconds) != 1 else "1 second"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def memory(mib: float) -> str:
    """MiB as a reader says them."""
    return f"{mib:.0f} MiB" if mib < 950 else f"{mib / 1024:.1f} GiB"


GENERATED = {"book/papers": papers, "book/api": api_index, "book/results": results}


def filled(text: str, docname: str, book: Book) -> str:
    """A page with its generated part in place of `<!-- generated -->`.

    Any other page stays as it is.
    """
    return (
        text.replace("<!-- generated -->", GENERATED[docname](book))
        if docname in GENERATED
        else text
    )
