"""The website: built once, then read as files and in a browser."""

import json
import re
from itertools import pairwise
import shutil
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import nbformat
import pytest
from pygments.token import STANDARD_TYPES, Token

from book import env
from book.reader import reading
from book.reader.folds import MOST_OPEN_LINES, caption, joined, written
from book.reader.notebooks import QUOTE, Cell, Notebook, notebooks, read
from book.reader.papers import Bibliography, UnknownPaperError
from book.reader.runs import run_files
from book.reader.settings import settings
from fromfound.record import Run
from tests.press.browser import Browser, find

sys.path.append(str(env.EXTENSIONS))
from booksite import build as site  # noqa: E402
from booksite import pages, symbols  # noqa: E402
from booksite.book import Book  # noqa: E402

pytestmark = pytest.mark.xdist_group("site")  # one process builds it

LOCAL = ("file:", "data:", "blob:", "about:")
SECONDS_A_CHAPTER = 10
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The whole website, built as `make book` builds it, and the seconds it took."""
    started = time.perf_counter()
    return site.build(out=tmp_path_factory.mktemp("site")), time.perf_counter() - started


@pytest.fixture(scope="session")
def html(built: tuple[Path, float]) -> Path:
    return built[0]


@pytest.fixture(scope="session")
def parsed(html: Path) -> site.Site:
    """Its pages, parsed once."""
    return site.Site(html)


@pytest.fixture(scope="module")  # its event loop would be in the way of others
def browser() -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.skip(
            "no Chromium on this machine: the files of the site were checked, how a browser "
            "shows them was not"
        )
    one = Browser(program)
    yield one
    one.close()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A tree with the real extension and one chapter, into which a test plants its fault."""
    root = tmp_path / "tree"
    left_out = shutil.ignore_patterns("__pycache__", "intro.md", "redirects.yml")
    shutil.copytree(site.ROOT / "book", root / "book", ignore=left_out)
    shutil.copy(site.ROOT / "settings.ini", root)
    (root / "book" / "claims.md").write_text(
        (
            "# Claims\n\n"
            "## He2015Delving\n\n"
            "**Says** that depth wants variance.\n\n"
            "**Here** <!-- v x -->2<!-- /v --> layers.\n"
        ),
        encoding="utf-8",
    )
    (root / "book" / "intro.md").write_text("# A small book\n", encoding="utf-8")
    (root / "_toc.yml").write_text(
        (
            "format: jb-book\n"
            "root: book/intro\n"
            "chapters:\n"
            "- file: nbs/01_small\n"
            "- file: book/papers\n"
            "- file: book/results\n"
            "- file: book/api\n"
            "  sections:\n"
            "  - glob: book/api/*\n"
        ),
        encoding="utf-8",
    )
    write_chapter(
        root,
        "The point is an ordinary citation, [He et al., 2015](https://arxiv.org/abs/1502.01852).",
    )
    return root


def write_chapter(
    root: Path,
    text: str,
    docstring: str = "Twice `x`.\n\n    Source: torch.add",
    alt: str = "#| fig-alt: One dot in the middle of a square\n",
) -> None:
    """A chapter with one exported function and one figure."""
    cell = nbformat.v4
    dot = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
        '<circle cx="4" cy="4" r="2"/></svg>'
    )
    drawn = cell.new_code_cell(
        f"{alt}draw()",
        outputs=[cell.new_output("display_data", {"image/svg+xml": dot, "text/plain": "a dot"})],
    )
    code = (
        f'#| export\ndef double(x: float) -> float:\n    """{docstring}\n    """\n    return 2 * x'
    )
    cells = [
        cell.new_markdown_cell(f"# A small chapter\n\n{text}"),
        cell.new_code_cell("#| default_exp small"),
        cell.new_code_cell(code),
        drawn,
    ]
    path = root / "nbs" / "01_small.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(
        cell.new_notebook(
            cells=cells,
            metadata={
                "kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}
            },
        ),
        path,
    )


# --- the files ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_page_link_image_and_host(html: Path) -> None:
    assert site.check(html) == []


@pytest.mark.slow
def test_build_time(built: tuple[Path, float]) -> None:
    assert built[1] < SECONDS_A_CHAPTER * len(list((site.ROOT / "nbs").glob("*.ipynb")))


@pytest.mark.slow
def test_what_differs_from_machine_to_machine_says_so(parsed: site.Site, html: Path) -> None:
    for path in sorted((site.ROOT / "nbs").glob("*.ipynb")):
        marked = [cell for cell in read(path).code if {"varies", "timing"} & cell.marks.keys()]
        seen = [c for c in marked if any(QUOTE not in o.get("data", {}) for o in c.outputs)]
        page = parsed.pages[html / "nbs" / f"{path.stem}.html"]
        assert len(page.select("div.cell p.kind")) == len(seen), path.name


@pytest.mark.slow
def test_directives_and_machine_outputs_are_not_printed(parsed: site.Site) -> None:
    for path, page in parsed.pages.items():
        code = "\n".join(block.get_text() for block in page.select("div.cell pre"))
        assert not re.search(r"^#\|", code, re.M), f"{path.name} prints a directive"
        assert "vnd.fromfound.quote" not in "".join(
            block.get_text() for block in page.select("div.cell_output")
        ), f"{path.name} prints a quote"


@pytest.mark.slow
def test_imports_and_drawing_helpers_are_folded(html: Path) -> None:
    folds = {
        f
        for page in (html / "nbs").glob("0*.html")
        for f in re.findall(
            r"<details><summary>(The (?:imports|code).*?)</summary>",
            page.read_text(encoding="utf-8"),
        )
    }
    assert {"The imports of this module", "The code of <code>_draw_table</code>"} <= folds


@pytest.mark.slow
def test_the_card_says_how_long_what_stands_open_takes(parsed: site.Site, html: Path) -> None:
    for notebook in (n for n in notebooks(site.ROOT) if n.is_chapter):
        page = parsed.pages[html / "nbs" / f"{notebook.path.stem}.html"]
        open_code = [
            block for block in page.select("div.cell_input pre") if not block.find_parent("details")
        ]
        assert sum(len(written(block.get_text())) for block in open_code) == sum(
            map(reading.open_lines, notebook.code)
        ), notebook.file
        facts = {row.dt.get_text(): row.dd.get_text() for row in page.select("aside.card dl div")}
        assert facts["To read"].startswith(f"{max(1, round(reading.minutes(notebook)))} minute")


MINUTES = [  # what the main track holds, what it takes
    ("m", "word " * 400, 2),
    ("m", "<details><summary>More</summary>\n\n" + "word " * 400 + "\n</details>", 0),
    ("m", "$a + b + c$ " * 200, 1),
    ("m", "a <!-- v some.value:.1f -->[b](https://a.org/c)<!-- /v --> " * 100, 1),
    ("c", "x = 1\n\n" * 15, 1),
    ("c", "#| fold\n" + "x = 1\n" * 15, 0),
    ("c", "#| hide\n" + "x = 1\n" * 15, 0),
    ("c", "#| export\n" + "x = 1\n" * 15, 1),
    ("c", "#| export\n" + "x = 1\n" * 30, 0),
    ("c", "#| export\n" + "import os\n" * 15, 0),
    ("c", "#| export\n" + "import os\n" * 15 + "_all_ = ['path']", 0),
    ("c", "#| export\nif TYPE_CHECKING:\n" + "    import os\n" * 15, 0),
    ("c", "#| export\ndef _draw_it():\n" + "    x = 1\n" * 14, 0),
]


def chapter_of(*cells: tuple[str, str]) -> Notebook:
    """A notebook of Markdown ("m") and code ("c") cells."""
    kinds = {"m": "markdown", "c": "code"}
    made = (Cell("", i, kinds[kind], "", source, ()) for i, (kind, source) in enumerate(cells, 1))
    return Notebook("", Path(), tuple(made), None)


@pytest.mark.parametrize("kind, source, expected", MINUTES)
def test_minutes_of_the_main_track(kind: str, source: str, expected: int) -> None:
    cell, heading = (kind, source), ("m", "## Exercises")
    assert reading.minutes(chapter_of(cell)) == expected
    assert reading.minutes(chapter_of(heading, cell)) == 0
    again = chapter_of(heading, ("m", "### Exercise 1.1"), ("m", "## Next"), cell)
    assert round(reading.minutes(again)) == expected


LONG = "def long():\n" + "    pass\n" * MOST_OPEN_LINES


@pytest.mark.parametrize(
    ("marks", "code", "expected"),
    [
        ("", "x = 1", ""),
        ("", "%pip install fromfound", ""),
        ("", "import torch", "Imports"),
        ("export", "import torch", "The imports of this module"),
        ("fold", "def f(): pass", "The code of <code>f</code>"),
        ("fold", "x = 1", "The setup of <code>x</code>"),
        ("fold", "a, b = f()", "The setup of <code>a</code> and <code>b</code>"),
        ("fold", "x[0] = 1", "The code of this cell"),
        ("fold", "x = 1\nassert x\nquote(x=x)", "The checks, and the values quoted"),
        ("fold", "for x in y:\n    print(x)", "The code of this output"),
        (
            "fold",
            "a = b = c = d = e = f = 0",
            "The setup of " + ", ".join(f"<code>{x}</code>" for x in "abcde") + " and more",
        ),
        ("fold fig-alt", "show(fig)", "The code of this picture"),
        ("export", "def _draw_box(): pass", "The code of <code>_draw_box</code>"),
        ("export", "def _check(): pass", ""),
        ("export", LONG, "The code of <code>long</code>"),
        ("", LONG, ""),  # the lint asks for less
        ("", "assert x", "The check of this claim"),
        ("", "if real:\n    assert x\n    assert y", "The checks of these claims"),
        ("", "for x in y:\n    assert x\nassert y", "The checks of these claims"),
        ("", "quote(x=x)", "The values quoted"),
        ("", "assert x\nquote(x=x)", "The checks, and the values quoted"),
        ("", "assert x\nprint(x)", ""),
        ("", "for x in y:\n    train(x)\n    assert x", ""),
    ],
)
def test_what_folds(marks: str, code: str, expected: str) -> None:
    assert caption(dict.fromkeys(marks.split(), ""), code) == expected


@pytest.mark.parametrize(
    "captions, expected",
    [
        (["The code of a"], "The code of a"),
        (["The code of a", "The code of b and c"], "The code of a, b, and c"),
        (["The code of a", "The code of this picture"], "The code of a and this picture"),
        (
            ["The code of a, b", "The code of c, d and e", "The code of this output"],
            "The code of a, b, c, d, e, and this output",
        ),
        (
            ["The code of a, b and c", "The code of d, e and f"],
            "The code of a, b, c, d, e and more",
        ),
        (
            ["The setup of x", "The code of this picture"],
            "The setup of x; the code of this picture",
        ),
        (
            ["The code of a", "The check of this claim", "The code of b, c, and d"],
            "The code of a, b, c, and d; the check of this claim",
        ),
        (["Imports", "The check of this claim"], "Imports; the check of this claim"),
    ],
)
def test_folds_in_a_row_have_one_caption(captions: list[str], expected: str) -> None:
    assert joined(captions) == expected


def test_folded_cells_in_a_row_are_one_fold(html: Path) -> None:
    page = (html / "nbs" / "05_learner.html").read_text(encoding="utf-8")
    folds = re.findall(r"<details><summary>(.*?)</summary>(.*?)</details>", page, re.DOTALL)
    assert max(body.count("cell_input") for _, body in folds) > 1
    cells = page.split('<div class="cell docutils container">')[1:]
    for first, second in pairwise(cells):
        folded = [cell.lstrip().startswith("<details>") for cell in (first, second)]
        nothing_shown = first.rpartition("</details>")[2].strip() == "</div>"
        assert not (all(folded) and nothing_shown), "two folds stand in a row"


@pytest.mark.slow
def test_recorded_runs_are_tables(html: Path) -> None:
    page = (html / "nbs" / "00a_data.html").read_text(encoding="utf-8")
    assert re.search(r"<table.*?cnn_real.*?</table>", page, re.DOTALL)
    assert not [
        page.name
        for page in html.rglob("*.html")
        if re.search(r"^(<p>)?\| .* \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]


RUNS = [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in run_files(site.ROOT)]
SEEDS = [
    ([0.5], ">= 0.4"),
    ([0.5], "<= 0.4"),
    ([0.97, 0.99], ">= 0.975"),
    ([0.97, 0.99], "<= 1e-3"),
    ([3.0, 3.0], None),
    ([1234.5, 1300.25, -7.0], ">= -5"),
]


@pytest.mark.parametrize(
    ("name", "record"),
    RUNS
    + [
        (name, record | {"figures": {"x": {"per_seed": values}}, "marks": {"x": target}})
        for name, record in RUNS[:1]
        for values, target in SEEDS
    ],
)
def test_a_run_reads_on_the_site_as_in_a_notebook(name: str, record: dict) -> None:
    """The site has no PyTorch, so it writes the table again: each line begins alike."""
    notebook = [line for line in Run(name, record)._lines() if line[:1] in ("|", "`")]
    page = [line for line in pages._run(record, site_book()) if line[:1] in ("|", "`")]
    head, ruler, *rows = (line.removesuffix("|") for line in notebook[:-1])
    assert len(page) == len(notebook)
    assert set(ruler) <= set("|-")
    assert page[0].startswith(head)
    assert all(there.startswith(here) for there, here in zip(page[2:-1], rows, strict=True))
    assert page[-1].startswith(notebook[-1])


@lru_cache
def site_book() -> Book:
    """The whole book as the site reads it."""
    return Book(site.ROOT)


@pytest.mark.slow
def test_chapter_card_and_addresses_come_from_settings(parsed: site.Site) -> None:
    s = settings(site.ROOT)
    pages = {path: page for path, page in parsed.pages.items() if path.parent.name == "nbs"}
    assert pages
    for path, page in pages.items():
        ways = {a.get_text(): a["href"] for a in page.select("aside.card p.ways a")}
        assert ways["Open in Colab"] == (
            "https://colab.research.google.com/github/"
            f"{s['user']}/{s['repo']}/blob/{s['branch']}/nbs/{path.stem}.ipynb"
        )
        assert (path.parent / ways["Download notebook"]).read_bytes() == (
            site.ROOT / "nbs" / f"{path.stem}.ipynb"
        ).read_bytes()
        report = page.select_one("p.page-footer a")["href"]
        assert report.startswith(f"{s['git_url']}/issues/new?")
        assert path.stem in report
        assert "Commit" in report
    assert f"git clone {s['git_url']}\n" in (site.ROOT / "book" / "intro.md").read_text(
        encoding="utf-8"
    ), "book/intro.md names another repository than settings.ini"


@pytest.mark.slow
def test_symbols_lead_to_their_cell_and_back(html: Path, parsed: site.Site) -> None:
    listed = json.loads((html / "symbols.json").read_text(encoding="utf-8"))
    assert listed
    for symbol in listed:
        for address in (symbol["defined_in"], symbol["page"]):
            path, anchor = address.split("#")
            assert anchor in parsed.anchors[(html / path).resolve()], (
                f"{symbol['name']} is not at {address}"
            )


@pytest.mark.slow
def test_experiments_have_a_page_and_are_not_part_of_the_library(
    html: Path, parsed: site.Site
) -> None:
    results = parsed.pages[(html / "book" / "results.html").resolve()]
    addresses = [a["href"] for a in results.find_all("a", string=re.compile("^Experiments of "))]
    recorded = [p.stem for p in (site.ROOT / "book" / "runs").glob("*.*.json")]
    for name in recorded:
        module, function = name.split(".")
        [address] = [a for a in addresses if a.endswith(f"_{module}.html#def-{function}")]
        page = parsed.pages[(html / "book" / address.partition("#")[0]).resolve()]
        code = "\n".join(block.get_text() for block in page.select("div.cell pre"))
        assert f"def {function}(seed" in code
    assert not list((html / "book" / "api").glob("experiments*"))
    index = (html / "book" / "api.html").read_text(encoding="utf-8")
    assert "one_epoch" not in index
    chapter = parsed.pages[(html / "nbs" / "07_norm.html").resolve()]
    assert chapter.find("a", href=re.compile(r"^experiments/07_norm\.html"))


@pytest.mark.slow
def test_twins_and_index_for_machines(html: Path, parsed: site.Site) -> None:
    pages = [path for path in parsed.pages if path.name not in ("index.html", "search.html")]
    assert all(path.with_suffix(".md").is_file() for path in pages)
    index = (html / "llms.txt").read_text(encoding="utf-8")
    assert index.startswith("# ")
    assert all(
        f"({path.relative_to(html.resolve()).with_suffix('.md').as_posix()})" in index
        for path in pages
        if path.parent.name == "nbs"
    )
    assert {"key", "title", "links", "cited_in", "implemented_by"} <= set(
        json.loads((html / "papers.json").read_text(encoding="utf-8"))[0]
    )


def test_addresses_of_one_paper_are_one(tmp_path: Path) -> None:
    papers = Bibliography(site.ROOT / "book" / "references.bib")
    he = papers["He2015Delving"]
    for url in (
        "https://arxiv.org/abs/1502.01852",
        "http://arxiv.org/pdf/1502.01852v1.pdf",
        "https://www.arxiv.org/abs/1502.01852#page",
    ):
        assert papers.find(url) is he
    assert papers.find("https://DOI.org/10.1038/323533A0") is papers["Rumelhart1986"]
    assert papers.find("https://pytorch.org") is None
    with pytest.raises(UnknownPaperError, match="references.bib"):
        papers.find("https://arxiv.org/abs/0000.00000")
    twice = tmp_path / "twice.bib"
    twice.write_text(
        "".join(
            (
                f"@misc{{{key}, author = {{Doe, Jo}}, title = {{T}}, year = {{2000}}, doi = "
                "{10.1/x}}\n"
            )
            for key in ("A", "B")
        ),
        encoding="utf-8",
    )
    assert Bibliography(twice).problems == [
        "A and B are one paper, https://doi.org/10.1/x; keep one entry"
    ]


def test_signatures_are_read_as_python_reads_them() -> None:
    code = (
        'def f(a, /, b: int = 1, *rest, c: str, d="x", **more) -> None:\n'
        '    "Doc."\n\n'
        "@dataclass\n"
        "class P(Base):\n"
        '    "A point."\n'
        "    x: int\n"
        "    y: int = 0\n\n"
        "    @property\n"
        "    def size(self) -> int:\n"
        '        "How far."\n\n'
        "LIMIT: int = 3\n"
        "_hidden = 1\n\n"
        "class _Half:\n"
        "    def __init__(self, n: int): ...\n"
        "    def go(self): ...\n\n"
        "class Whole(_Half):\n"
        '    "All."'
    )
    f, p, limit, whole = symbols.exported(code, "m", "page", {})
    assert f.signature == "def f(a, /, b: int = 1, *rest, c: str, d='x', **more) -> None"
    assert (p.signature, p.bases, p.methods[0].signature) == (
        "class P(x: int, y: int = 0)",
        ("Base",),
        "size: int",
    )
    assert (limit.signature, limit.kind) == ("LIMIT: int", "data")
    assert (whole.signature, whole.bases, whole.methods[0].name) == (
        "class Whole(n: int)",
        (),
        "Whole.go",
    )


# --- colors ---------------------------------------------------------------------------------------


def palettes() -> dict[str, dict[str, str]]:
    """The named colors of the style sheet, light and dark."""
    text = (site.ROOT / "book" / "_static" / "fromfound.css").read_text(encoding="utf-8")
    blocks = re.findall(r'^html\[data-theme="(light|dark)"\][^{]*\{([^}]*)\}', text, re.M)
    return {
        theme: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", body))
        for theme, body in blocks
        if "--ground" in body
    }


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colors as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return sum(
            w * (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4)
            for w, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True)
        )

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colors_of_text_stand_out(theme: str) -> None:
    colors = palettes()[theme]
    texts = [
        name
        for name in colors
        if name in ("ink", "quiet", "link", "accent") or name.startswith("code-")
    ]
    assert len(texts) == 9
    weak = [
        f"{text} on {ground}: {contrast(colors[text], colors[ground]):.2f}"
        for text in texts
        for ground in ("ground", "surface", "raised")
        if contrast(colors[text], colors[ground]) < 4.5
    ]
    assert weak == []


def test_every_kind_of_token_has_a_color_of_the_palette() -> None:
    """All that Pygments may find in Python, the kinds that no chapter shows yet too."""
    text = (site.ROOT / "book" / "_static" / "fromfound.css").read_text(encoding="utf-8")
    rules = re.findall(r"\.highlight :is\(([^)]*)\) \{ color: var\(--(?:code-\w+|ink)\)", text)
    colored = {name for rule in rules for name in re.findall(r"\.(\w+)", rule)}
    # Of what `Generic` marks (diffs, tracebacks) the book shows prompts and output alone.
    kinds = {
        name for token, name in STANDARD_TYPES.items() if name and token not in Token.Generic
    } | {"gp", "go"}
    assert kinds - colored == {"esc", "err", "x"}  # what is no Python at all


def test_contrast_is_measured_right() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") < 4.5 < contrast("#767676", "#ffffff")


# --- in a browser ---------------------------------------------------------------------------------


def troubles(browser: Browser, page: Path) -> list[str]:
    """Visit a page; what its console said, and what it asked of other hosts."""
    browser.visit(page.as_uri())
    return [f"{page.name}: {c}" for c in browser.complaints] + [
        f"{page.name}: asked for {r}" for r in browser.requests if not r.startswith(LOCAL)
    ]


@pytest.mark.slow
def test_no_console_error_and_no_other_host(parsed: site.Site, browser: Browser) -> None:
    browser.show(1280)
    assert [
        t for page in parsed.pages if page.name != "index.html" for t in troubles(browser, page)
    ] == []


def colors_of_code(browser: Browser) -> set[str]:
    """The colors of all code on a page, as `#rrggbb`.

    With them, what the code stands on where that has its own color.
    """
    found = browser.run(
        """
        [...new Set(
            [...document.querySelectorAll('.highlight pre, .highlight pre span')].flatMap(
                e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]
            )
        )].filter(c => c !== 'rgba(0, 0, 0, 0)')
        """
    )
    return {
        "#" + "".join(f"{int(channel):02x}" for channel in re.findall(r"\d+", color))
        for color in found
    }


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_phone_and_accessibility(parsed: site.Site, browser: Browser, dark: bool) -> None:
    rules = ["color-contrast"] if dark else RULES
    found = []
    for page in parsed.pages:
        if page.name == "index.html":
            continue
        browser.show(390, dark=dark)
        browser.visit(page.as_uri())
        if (width := browser.run("document.documentElement.scrollWidth")) > 390:
            found.append(f"{page.name}: {width} pixels wide on a phone of 390")
        browser.show(1280, dark=dark)
        if cut := browser.run(
            "[...document.querySelectorAll('.cell_input pre')]"
            ".filter(p => p.scrollWidth > p.clientWidth && p.clientWidth).length"
        ):
            found.append(f"{page.name}: {cut} cells of code are wider than their column")
        if strange := colors_of_code(browser) - set(
            palettes()["dark" if dark else "light"].values()
        ):
            found.append(
                f"{page.name}: code in {strange}, which are not in the palette whose "
                "contrast is tested"
            )
        # Ten thousand spans of code would take axe minutes: their colors are compared with the
        # palette above.
        report = browser.violations(rules, outside=".highlight pre")
        found += [f"{page.name}: {line}" for line in report]
    assert found == []


@pytest.mark.slow
def test_axe_sees_what_is_wrong(tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "page.html"
    small = "width: 9px; height: 9px; padding: 0; margin: 0; border: 0"
    page.write_text(
        "<html><head><title>x</title></head><body><main><img src='data:,'>"
        "<p style='color: #bbb; background: #fff'>pale</p>"
        f"<button style='{small}'>a</button><button style='{small}'>b</button></main>",
        encoding="utf-8",
    )
    browser.show(1280)
    browser.visit(page.as_uri())
    found = {line.partition(":")[0] for line in browser.violations(RULES, outside=".highlight pre")}
    assert {"html-has-lang", "image-alt", "color-contrast", "target-size"} <= found


@pytest.mark.slow
def test_menu_opens_on_a_phone(html: Path, browser: Browser) -> None:
    browser.show(390)
    browser.visit((html / "book" / "intro.html").as_uri())
    browser.run("document.querySelector('button.primary-toggle').click()")
    assert (
        browser.run(
            "document.querySelector('dialog[open] nav.bd-links a').getBoundingClientRect().width"
        )
        > 0
    )
    assert browser.run("document.querySelectorAll('.search-button-field').length") == 1


@pytest.mark.slow
def test_arrow_keys_turn_the_pages(html: Path, browser: Browser) -> None:
    browser.show(1280)
    browser.visit((html / "book" / "intro.html").as_uri())
    browser.press("ArrowRight")
    browser.wait_until("location.pathname.endsWith('nbs/00_start.html')")


@pytest.mark.slow
def test_preview_search_and_mathematics(small: Path, browser: Browser) -> None:
    write_chapter(
        small,
        r"See [He et al., 2015](https://arxiv.org/abs/1502.01852) on $\operatorname{Var}[x]$.",
    )
    html = site.build(small, small.parent)
    browser.show(1280)
    browser.visit((html / "nbs" / "01_small.html").as_uri())
    browser.run("document.querySelector('article p a.cite').focus()")
    assert "Delving Deep into Rectifiers" in browser.run(
        "document.querySelector('.preview').textContent"
    )
    browser.press("Escape")
    assert browser.run("document.querySelector('.preview') === null")
    assert browser.run("document.querySelectorAll('mjx-container').length") == 1
    browser.visit((html / "search.html").as_uri() + "?q=chapter")
    browser.wait_until("document.querySelectorAll('#search-results li a').length")
    assert browser.complaints == []


# --- planted faults -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_faulty_chapter_stops_the_build(small: Path) -> None:
    write_chapter(
        small,
        (
            "It cites [nobody](https://arxiv.org/abs/9999.99999) and leads "
            "[nowhere](02_missing.ipynb)."
        ),
        docstring="Twice `x`.\n\n    Source: Nobody1900 §1",
        alt="",
    )
    with pytest.raises(site.BuildError) as failure:
        site.build(small, small.parent)
    said = str(failure.value)
    for part in (
        "9999.99999 is cited, and no entry of book/references.bib",
        "02_missing",
        "Source: Nobody1900 §1",
        "a figure without alt text",
    ):
        assert part in said


@pytest.mark.slow
def test_every_cited_paper_has_its_claim(small: Path) -> None:
    html = site.build(small, small.parent)
    assert "<strong>Says</strong> that depth wants variance." in (
        html / "book" / "papers.html"
    ).read_text(encoding="utf-8")
    [he] = [
        p
        for p in json.loads((html / "papers.json").read_text(encoding="utf-8"))
        if p["key"] == "He2015Delving"
    ]
    assert (he["says"], he["here"]) == ("that depth wants variance.", "2 layers.")
    claims = small / "book" / "claims.md"
    good = claims.read_text(encoding="utf-8")
    planted = {
        good.replace("He2015Delving", "Ioffe2015"): [
            "does not say what He2015Delving claims, which nbs/01_small cites",
            "speaks of Ioffe2015, which nobody cites",
        ],
        good + "\n## Nobody1900\n\n**Says** nothing.\n": [
            "speaks of Nobody1900, which is no key",
            "the section Nobody1900 lacks a paragraph that begins with **Here**",
        ],
    }
    for text, said in planted.items():
        claims.write_text(text, encoding="utf-8")
        with pytest.raises(site.BuildError) as failure:
            site.build(small, small.parent)
        assert all(part in str(failure.value) for part in said)


@pytest.mark.slow
def test_only_the_book_is_read(small: Path) -> None:
    for name in (".venv/lib/README.md", "nbs/exercises/01_small.md", "notes.md", "build/x.rst"):
        (small / name).parent.mkdir(parents=True, exist_ok=True)
        (small / name).write_text("# Not of the book\n\n[x](gone.md)\n", encoding="utf-8")
    assert site.check(site.build(small, small.parent), small) == []


@pytest.mark.slow
def test_a_fault_in_a_page_is_seen(small: Path) -> None:
    html = site.build(small, small.parent)
    assert site.check(html, small) == []
    page = html / "nbs" / "01_small.html"
    good = page.read_text(encoding="utf-8")
    planted = {
        '<a href="gone.html">x</a>': "the link gone.html leads to no file",
        '<a href="#gone">x</a>': "the link #gone leads to no place",
        '<img src="../_static/favicon.svg">': "has no alt text but ''",
        '<img src="../_static/favicon.svg" alt="favicon.svg">': "has no alt text but 'favicon.svg'",
        '<script src="https://host.invalid/x.js"></script>': (
            "<script> asks another host for https://host.invalid/x.js"
        ),
        '<link rel="stylesheet" href="//host.invalid/x.css">': (
            "<link> asks another host for //host.invalid/x.css"
        ),
        '<p id="references"></p>': "two elements have the id references",
    }
    for fault, said in planted.items():
        page.write_text(good.replace("</article>", f"{fault}</article>"), encoding="utf-8")
        assert any(said in problem for problem in site.check(html, small)), f"{fault} was not seen"
    page.write_text(good, encoding="utf-8")
    (html / "nbs" / "02_stray.html").write_text(good, encoding="utf-8")
    assert "nbs/02_stray.html was built, and nothing asks for it" in site.check(html, small)
    (html / "book" / "papers.html").unlink()
    assert "book/papers.html was not built" in site.check(html, small)


@pytest.mark.slow
def test_a_browser_sees_what_a_script_does(small: Path, browser: Browser) -> None:
    page = site.build(small, small.parent) / "nbs" / "01_small.html"
    good = page.read_text(encoding="utf-8")
    browser.show(1280)  # another test may have left it dark
    assert troubles(browser, page) == []
    for script, said in {
        'fetch("https://host.invalid/data")': "asked for https://host.invalid/data",
        "undefined_name()": "undefined_name is not defined",
    }.items():
        page.write_text(
            good.replace("</article>", f"<script>{script}</script></article>"), encoding="utf-8"
        )
        assert any(said in trouble for trouble in troubles(browser, page)), f"{script} was not seen"
    assert colors_of_code(browser)
    assert colors_of_code(browser) <= set(palettes()["light"].values())
    page.write_text(
        good.replace("<pre>", '<pre><span style="color: #abcdef">x</span>', 1), encoding="utf-8"
    )
    browser.visit(page.as_uri())
    assert colors_of_code(browser) - set(palettes()["light"].values()) == {"#abcdef"}


# --- pages that have moved ------------------------------------------------------------------------


def test_an_old_address_leads_to_the_new_page_and_section(tmp_path: Path) -> None:
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "02_new.html").write_text(
        "<html><body><h2 id='why'>Why</h2></body></html>", encoding="utf-8"
    )
    site.write_redirect(tmp_path, "nbs/01_old", "nbs/02_new")
    site.write_redirect(tmp_path, "nbs/01_lost", "nbs/03_gone")
    found = site.Site(tmp_path)
    assert [path.name for path in found.pages] == ["02_new.html"]
    assert sorted(path.name for path in found.moved) == ["01_lost.html", "01_old.html"]
    problems = [p for path, page in found.moved.items() for p in found._links(path, page)]
    assert problems
    assert all("03_gone.html leads to no file" in p for p in problems)
    assert (
        'location.replace("02_new.html" + location.hash)'
        in (tmp_path / "nbs" / "01_old.html").read_text()
    )


def test_pages_that_have_moved_are_pages_no_more() -> None:
    for old, new in site.redirects(site.ROOT).items():
        assert not (site.ROOT / f"{old}.ipynb").exists(), f"{old} is still a page"
        assert (site.ROOT / f"{new}.ipynb").exists(), f"{old} leads to {new}, which is no page"
