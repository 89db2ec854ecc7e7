"""Build the website and check what was built: `python -m booksite.build build` and `… check`."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

from book.reader.contents import contents
from book.reader.markdown import links
from book.reader.notebooks import read

ROOT = Path(__file__).resolve().parents[3]
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
    "link": "href",
}
FETCHED_RELS = {
    "stylesheet",
    "icon",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "manifest",
}
HASH = re.compile(r"^[0-9a-f]{16,}$")


SOURCES = ("--config", "book/_config.yml", "--toc", "_toc.yml")


class BuildError(Exception):
    """What Jupyter Book complained of."""


def build(root: Path = ROOT, out: Path = ROOT) -> Path:
    """Build the website of the tree `root` into `out/_build/html`, from nothing.

    Every warning is an error.

    Raises:
        BuildError: with the warnings, one a line.
    """
    shutil.rmtree(out / "_build", ignore_errors=True)  # pages of an older extension would stay
    program = shutil.which("jupyter-book", path=str(Path(sys.executable).parent))
    command = [program, "build", ".", *SOURCES, "--path-output", str(out)]
    command += ["-W", "--keep-going", "-n"]
    environment = dict(os.environ, NO_COLOR="1", PYTHONDONTWRITEBYTECODE="1", PYTHONUTF8="1")
    environment["PYTHONPATH"] = str(ROOT)  # for book.reader
    done = subprocess.run(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in done.stdout.splitlines()]
        warnings = [line for line in lines if "WARNING" in line or "ERROR" in line]
        crashed = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Found): \S", line)]
        raise BuildError("\n".join(warnings or crashed or lines[-30:]))
    html = out / "_build" / "html"
    for old, new in redirects(root).items():
        write_redirect(html, old, new)
    return html


def external_links() -> int:
    """Ask every other host that a page links to whether it still has the page; needs a network."""
    program = shutil.which("jupyter-book", path=str(Path(sys.executable).parent))
    command = [program, "build", ".", *SOURCES, "--builder", "linkcheck"]
    return subprocess.run(command, cwd=ROOT).returncode


# The fragment of the address goes along, so that old links to a section keep working.
MOVED = "This page has moved"
REDIRECT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="canonical" href="{to}">
<script>location.replace("{to}" + location.hash)</script>
<noscript><meta http-equiv="refresh" content="0; url={to}"></noscript>
</head>
<body><main><h1>{title}</h1><p>It is <a href="{to}">here</a>.</p></main></body>
</html>
"""


def redirects(root: Path) -> dict[str, str]:
    """The pages that have moved, and where to."""
    path = root / "book" / "redirects.yml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_redirect(html: Path, old: str, new: str) -> None:
    """Write a page at the address `old` that leads to `new`."""
    page = html / f"{old}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    to = os.path.relpath(html / f"{new}.html", page.parent).replace(os.sep, "/")
    page.write_text(REDIRECT.format(to=to, title=MOVED), encoding="utf-8")


# --- the pages as files ---------------------------------------------------------------------------


class Site:
    """The pages of a built site, parsed.

    Args:
        html: the folder that holds index.html.
    """

    def __init__(self, html: Path) -> None:
        self.html = html.resolve()
        folders = ("_static", "_sources", "_images")
        paths = [
            p
            for p in sorted(self.html.rglob("*.html"))
            if p.relative_to(self.html).parts[0] not in folders
        ]
        read = {p: BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser") for p in paths}
        self.moved = {
            p: page for p, page in read.items() if page.title and page.title.string == MOVED
        }
        self.pages = {p: page for p, page in read.items() if p not in self.moved}
        self.anchors = {
            p: {
                t.get("id") or t.get("name")
                for t in page.find_all(
                    lambda t: t.has_attr("id") or (t.name == "a" and t.has_attr("name"))
                )
            }
            for p, page in self.pages.items()
        }

    def name(self, path: Path) -> str:
        """The path of a file relative to the site."""
        return path.relative_to(self.html).as_posix()

    def problems(self) -> list[str]:
        """Everything wrong that the files themselves show, one line each."""
        found = []
        for path, page in self.pages.items():
            found += [
                f"{self.name(path)}: {problem}"
                for check in (self._links, self._images, self._foreign, self._identifiers)
                for problem in check(path, page)
            ]
        for style in sorted(self.html.rglob("*.css")):
            found += [
                f"{self.name(style)}: asks another host for {url}"
                for url in re.findall(
                    r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)",
                    style.read_text(encoding="utf-8"),
                )
            ]
        found += [
            f"{self.name(path)}: {problem}"
            for path, page in self.moved.items()
            for problem in self._links(path, page)
        ]
        return found + self._twins()

    def _links(self, path: Path, page: BeautifulSoup) -> list[str]:
        found = []
        for tag in page.find_all(lambda t: t.name in ("a", *LOADED)):
            url = tag.get(LOADED.get(tag.name, "href"))
            if url is not None and (problem := self._dead(path, url)):
                found.append(problem)
        return found

    def _dead(self, path: Path, url: str) -> str | None:
        """What is wrong with a link within the site.

        None where nothing is, and for links to other sites.
        """
        parts = urlsplit(url)
        if parts.scheme or parts.netloc:
            return None
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.is_file():
            return f"the link {url} leads to no file"
        anchor = unquote(parts.fragment)
        if anchor and target in self.anchors and anchor not in self.anchors[target]:
            return f"the link {url} leads to no place on that page"
        return None

    def _images(self, path: Path, page: BeautifulSoup) -> list[str]:
        """Images without words, or with their file name for words."""
        found = []
        for image in page.find_all("img"):
            alt, stem = (image.get("alt") or "").strip(), Path(urlsplit(image["src"]).path).stem
            if not alt or HASH.match(Path(alt).stem) or Path(alt).stem == stem:
                found.append(f"the image {image['src']} has no alt text but {alt!r}")
        return found

    def _foreign(self, path: Path, page: BeautifulSoup) -> list[str]:
        """Files that a browser would fetch from another host by itself."""
        return [
            f"<{tag.name}> asks another host for {tag[LOADED[tag.name]]}"
            for tag in page.find_all(list(LOADED))
            if self._fetched(tag) and urlsplit(tag[LOADED[tag.name]]).netloc
        ]

    @staticmethod
    def _fetched(tag: Tag) -> bool:
        return tag.has_attr(LOADED[tag.name]) and (
            tag.name != "link" or bool(FETCHED_RELS & set(tag.get("rel", [])))
        )

    def _identifiers(self, path: Path, page: BeautifulSoup) -> list[str]:
        """An id that two elements share leads to the first only."""
        ids = [t["id"] for t in page.find_all(id=True)]
        return [
            f"two elements have the id {i}" for i in sorted({i for i in ids if ids.count(i) > 1})
        ]

    def _twins(self) -> list[str]:
        """Links of the Markdown twins that lead to no file."""
        found = []
        for twin in [*sorted(self.html.rglob("*.md")), self.html / "llms.txt"]:
            for url in links(twin.read_text(encoding="utf-8")):
                parts = urlsplit(url)
                if parts.scheme or not parts.path:
                    continue
                if not (twin.parent / unquote(parts.path)).is_file():
                    found.append(f"{self.name(twin)}: the link {url} leads to no file")
        return found


def expected_pages(root: Path) -> set[str]:
    """The pages that a build of `root` must give.

    They are the table of contents, a page for each module of the library, search, and the front
    page.
    """
    documents = contents(root)
    paths = [path for d in documents if (path := root / f"{d}.ipynb").is_file()]
    marks = [cell.marks for path in paths for cell in read(path, root).code]
    modules = [found["default_exp"] for found in marks if "default_exp" in found]
    modules = [name for name in modules if "." not in name]  # of the library
    return (
        {f"{d}.html" for d in documents}
        | {f"book/api/{module}.html" for module in modules}
        | {f"{old}.html" for old in redirects(root)}
        | {"index.html", "search.html"}
    )


def check(html: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with a built site, one line each."""
    site = Site(html)
    have, want = {site.name(p) for p in (*site.pages, *site.moved)}, expected_pages(root)
    return (
        [f"{page} was not built" for page in sorted(want - have)]
        + [f"{page} was built, and nothing asks for it" for page in sorted(have - want)]
        + site.problems()
    )


def main() -> int:
    """Build and check the site, or only check it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m booksite.build", description=__doc__)
    parser.add_argument("command", choices=("build", "check", "links"))
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT,
        help="folder that gets _build/html (default: the repository)",
    )
    options = parser.parse_args()
    if options.command == "links":
        return external_links()
    html = options.out.resolve() / "_build" / "html"
    started = time.perf_counter()
    if options.command == "build":
        try:
            build(ROOT, options.out.resolve())
        except BuildError as failure:
            print(failure, file=sys.stderr)
            print("the website was not built; mend what is named above", file=sys.stderr)
            return 1
    problems = check(html)
    print("\n".join(problems), end="\n" if problems else "")
    if problems:
        print(f"{len(problems)} problems in {html}", file=sys.stderr)
        return 1
    print(
        f"{len(expected_pages(ROOT))} pages in {time.perf_counter() - started:.0f} s, links, "
        f"images and hosts checked. Open {(html / 'index.html').as_uri()}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
