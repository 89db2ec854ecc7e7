"""Rules that well-kept tools know: ruff, codespell, pydoclint, import-linter.

Their settings are in pyproject.toml; what chapters may still break is in to_rewrite.py.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.press.book import Finding, modules, notebooks
from tests.press.chapters import ROOT
from tests.press.to_rewrite import chapter_of, unlisted

SETTINGS = ROOT / "pyproject.toml"
PROSE = (".md", ".py", ".toml", ".yml", ".js", ".html")  # files that people write


class ToolError(Exception):
    """A tool stopped instead of checking."""


def tool(name: str, *args: object, root: Path, found: int = 1) -> tuple[int, str, str]:
    """Run one of the programs beside this Python in the folder `root`.

    Args:
        name: of the program.
        args: its arguments.
        root: where it runs.
        found: its exit code where it found something.

    Returns:
        The exit code, and what it printed on stdout and stderr.

    Raises:
        ToolError: it stopped with another exit code than 0 or `found`.
    """
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or name
    done = subprocess.run(
        [program, *map(str, args)], cwd=root, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode not in (0, found):
        raise ToolError(f"{name} stopped with exit code {done.returncode}: {done.stderr.strip()}")
    return done.returncode, done.stdout, done.stderr


def ruff(root: Path) -> list[Finding]:
    """What ruff finds in notebooks, tests and tools.

    In notebooks, what is not exported needs no docstring, and directives may be long.
    """
    folders = [name for name in ("nbs", "tests", "book", "benchmarks") if (root / name).is_dir()]
    options = ("--no-cache", "--output-format=json", f"--config={SETTINGS}")
    cells = {n.file: n.cells for n in notebooks(root)}
    found, in_chapters = [], []
    _, said, _ = tool("ruff", "check", *options, *folders, root=root)
    for item in json.loads(said):
        file = Path(item["filename"]).resolve().relative_to(root.resolve()).as_posix()
        row, code = item["location"]["row"], item["code"] or "syntax"
        finding = Finding(
            file, item.get("cell"), f"line {row}: {code}, {item['message']}", f"see {item['url']}"
        )
        if file not in cells:
            found.append(finding)
            continue
        cell = cells[file][item["cell"] - 1]
        directive = code == "E501" and row <= len(cell.directives)
        if not directive and (cell.exported or not code.startswith("D")):
            in_chapters.append((chapter_of(file), code, finding))
    return found + unlisted(root, r"[A-Z]{1,2}\d+", in_chapters)


def spelling(root: Path) -> list[Finding]:
    """American spelling and no slips, in what people write: notebooks, pages, tests and tools.

    Of a notebook codespell reads the sources of the cells; outputs and ids are no words.
    """
    own = [
        path.relative_to(root).as_posix()
        for folder in ("tests", "book", "benchmarks")
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in PROSE and "__pycache__" not in path.parts
    ]
    own += [path.name for path in sorted(root.iterdir()) if path.suffix in PROSE]
    with tempfile.TemporaryDirectory() as scratch:
        places = {}
        for notebook in notebooks(root):
            copy = Path(scratch) / f"{chapter_of(notebook.file).replace('/', '-')}.txt"
            lines = [(cell, line) for cell in notebook.cells for line in cell.source.splitlines()]
            copy.write_text("\n".join(line for _, line in lines), encoding="utf-8")
            places[str(copy)] = [cell for cell, _ in lines]
        _, said, _ = tool("codespell", "--toml", SETTINGS, *own, *places, root=root, found=65)
    found = []
    for file, line, wrong, right in re.findall(r"^(.+?):(\d+): (.+?) ==> (.+)$", said, re.M):
        what, cure = f"the spelling '{wrong}'", f"write '{right}'"
        if file in places:
            found.append(places[file][int(line) - 1].finding(what, cure))
        else:
            found.append(Finding(file, None, f"line {line}: {what}", cure))
    return found


DOCSTRINGS = r"DOC1\d\d|DOC501"  # arguments; what is raised, and no word of it


def docstring_arguments(root: Path) -> list[Finding]:
    """Docstrings that list arguments list those of the signature, and what is raised."""
    options = ("--quiet", "--show-filenames-in-every-violation-message", "True")
    code, _, said = tool("pydoclint", *options, "--config", SETTINGS, "fromfound", root=root)
    lines = re.findall(r"^ *(\S+?):(\d+): (DOC\d+): (.*)$", said, re.M)
    if code and not lines:
        raise ToolError(f"pydoclint stopped: {said}")
    by_file = {module.file: module for module in modules(root)}
    broken = []
    for file, line, code, text in lines:
        module = by_file.get(Path(file).as_posix())
        if module and re.fullmatch(DOCSTRINGS, code):
            folder = "exercises/" if module.name.startswith("exercises.") else ""
            text = re.sub(r" \(Or could be .*? \)\.", "", text).rstrip(".")
            cure = "name each argument of the signature, one a line, and what is raised"
            finding = module.finding(int(line), f"{code}, {text}", cure)
            broken.append((folder + module.notebook, code, finding))
    return unlisted(root, DOCSTRINGS, broken)


def layers(root: Path) -> list[Finding]:
    """Modules import only from earlier ones; the layers in pyproject.toml are the book's order."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    every = modules(root)
    chapters = [m.name for m in every if "." not in m.name][::-1]
    listed = contract["layers"][1:]
    if listed != chapters:
        first = next((a, b) for a, b in zip([*listed, ""], [*chapters, ""], strict=False) if a != b)
        return [
            Finding(
                "pyproject.toml",
                None,
                f"its layers have {first[0] or 'nothing'!r} where the book has {first[1]!r}",
                "list the modules there from the last chapter to the first",
            )
        ]
    code, said, _ = tool("lint-imports", "--no-cache", "--no-logo", root=root)
    if not code:
        return []
    by_name = {f"fromfound.{module.name}": module for module in every}
    chain = r"^-?\s*(fromfound[\w.]*) -> (fromfound[\w.]*) \(l\.(\d+)"
    return [
        by_name[importer].finding(
            int(line),
            f"it imports {imported}, and imports go down only",
            "move the definition down, or the user of it up",
        )
        for importer, imported, line in re.findall(chain, said, re.M)
        if importer in by_name
    ] or [Finding("pyproject.toml", None, said.strip(), "keep the contract, or change it there")]


RULES = (ruff, spelling, docstring_arguments, layers)
