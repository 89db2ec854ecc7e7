"""`make mutants`: small mistakes, planted in the library one at a time; the tests must notice.

Each module is parsed, and every place where a sign, an axis, an order, a condition, a `detach` or a
release could be wrong gives a mutant. A sample, the same in every run, is tried: the tests of the
module run in a fork of one prepared process, on a copy of the tree. What survives is listed in
tests/mutants.json, where a person writes why; the website shows the count.
"""

import argparse
import ast
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from tests.press.chapters import ROOT

STORED = ROOT / "tests" / "mutants.json"
# Modules that are tested by more files than their own.
ELSE_TESTED = {
    "callback": ["callback", "learner"],
    "files": ["files", "data"],
    "learner": ["learner", "callback", "schedule"],
}
NOT_TRIED = {
    "plot": "tests see that a figure is drawn, not how",
    "standin": "draws pictures; its numbers are taste, and what comes out is held by calibration",
}
OPPOSITE = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
}
UNWRAPPED = {"detach", "clone", "contiguous", "eval"}  # x.detach() becomes x
RELEASES = {
    "remove",
    "close",
    "clear",
    "cleanup",
    "unlink",
    "zero_grad",
    "kill",
    "terminate",
    "join",
    "reset",
    "flush",
    "replace",
    "copy_",
    "fill_",
}
GRAD_MODES = {"no_grad", "set_grad_enabled", "enable_grad", "inference_mode"}
# Swapping their arguments is no likely mistake, or none at all.
UNORDERED = {
    "isinstance",
    "hasattr",
    "getattr",
    "setattr",
    "issubclass",
    "min",
    "max",
    "print",
    "result_type",
    "promote_types",
}
DRAWING = ("plot", "draw", "show", "_draw")
# A condition that asks for a GPU or for another system.
ELSEWHERE = re.compile(r"\b(cuda|mps|sys\.platform|os\.name)\b")

TESTS = {
    p.stem: ELSE_TESTED.get(p.stem, [p.stem])
    for p in sorted((ROOT / "fromfound").glob("*.py"))
    if p.stem not in NOT_TRIED and not p.stem.startswith("_")
}

Change = Callable[[], None]


def source_of(module: str) -> Path:
    """The file of a module."""
    return ROOT / "fromfound" / f"{module}.py"


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes in which a mistake would matter: no annotations, docstrings, messages or drawing.

    Left out is also what the tests cannot check: the branches of conditions on a GPU or a system
    that run on other machines only, and each function marked @experiment, whose results its record
    holds.
    """
    if isinstance(tree, ast.Raise):
        yield tree
        return
    if (
        isinstance(tree, ast.FunctionDef)
        and (
            tree.name.startswith(DRAWING)
            or any("experiment" in ast.unparse(d) for d in tree.decorator_list)
        )
        or isinstance(tree, (ast.JoinedStr, ast.Import, ast.ImportFrom))
    ):
        return
    if isinstance(tree, ast.Assign) and any(
        isinstance(t, ast.Name) and t.id == "__all__" for t in tree.targets
    ):
        return
    elsewhere = isinstance(tree, (ast.If, ast.IfExp)) and ELSEWHERE.search(ast.unparse(tree.test))
    if not elsewhere:
        yield tree
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list") or elsewhere and name != "orelse":
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                child.parent = (tree, name, value.index(child) if isinstance(value, list) else None)
                yield from places(child)


def put(node: ast.AST, new: ast.AST) -> None:
    """Replace a node by another one in its parent."""
    parent, name, index = node.parent
    if index is None:
        setattr(parent, name, new)
    else:
        getattr(parent, name)[index] = new


def changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """What could be wrong at a node: a name for the mistake, and a function that makes it."""
    op = getattr(node, "op", None)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield (
            "factors of a product exchanged",
            lambda: node.__dict__.update(left=node.right, right=node.left),
        )
    elif type(op) in OPPOSITE and not any(
        isinstance(side, (ast.JoinedStr, ast.List)) or isinstance(getattr(side, "value", None), str)
        for side in (getattr(node, "left", None), getattr(node, "right", None))
    ):
        yield (
            f"{type(op).__name__} becomes {OPPOSITE[type(op)].__name__}",
            lambda: setattr(node, "op", OPPOSITE[type(op)]()),
        )
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPPOSITE:
        yield (
            f"{type(node.ops[0]).__name__} becomes {OPPOSITE[type(node.ops[0])].__name__}",
            lambda: node.ops.__setitem__(0, OPPOSITE[type(node.ops[0])]()),
        )
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield "condition negated", lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "flag flipped", lambda: setattr(node, "value", not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield "off by one", lambda: setattr(node, "value", node.value + 1)
    if isinstance(node, ast.Call):
        yield from _changes_of_call(node)
    if (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "attr", "") in RELEASES
    ):
        yield f"{node.value.func.attr} forgotten", lambda: put(node, ast.Pass())
    if isinstance(node, ast.Raise):
        yield "refusal forgotten", lambda: put(node, ast.Pass())
    if isinstance(node, ast.Try) and node.finalbody:
        yield "finally forgotten", lambda: setattr(node, "finalbody", [ast.Pass()])


def _changes_of_call(node: ast.Call) -> Iterator[tuple[str, Change]]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if name in UNWRAPPED and isinstance(node.func, ast.Attribute) and not node.args:
        yield f"{name} forgotten", lambda: put(node, node.func.value)
    if name in GRAD_MODES:
        yield (
            f"{name} forgotten",
            lambda: put(
                node, ast.parse("__import__('contextlib').nullcontext()", mode="eval").body
            ),
        )
    if (
        len(node.args) > 1
        and name not in UNORDERED
        and not any(isinstance(a, ast.Starred) for a in node.args[:2])
        and ast.dump(node.args[0]) != ast.dump(node.args[1])
    ):
        yield (
            "first two arguments exchanged",
            lambda: node.args.__setitem__(slice(0, 2), node.args[1::-1]),
        )


def mutants(module: str) -> list[dict]:
    """All mutants of a module: in which line, which mistake, and where in the tree."""
    text = source_of(module).read_text(encoding="utf-8")
    return [
        {
            "module": module,
            "line": text.splitlines()[node.lineno - 1].strip(),
            "mistake": mistake,
            "at": (index, number),
        }
        for index, node in enumerate(places(ast.parse(text)))
        for number, (mistake, _) in enumerate(changes(node))
    ]


def mutated(module: str, at: tuple[int, int]) -> str:
    """The source of a module with one mistake made."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    _, make = list(changes(list(places(tree))[at[0]]))[at[1]]
    make()
    return ast.unparse(ast.fix_missing_locations(tree))


def sample(module: str, count: int) -> list[dict]:
    """The mutants of a module that are tried: as many of each kind of mistake as possible.

    They are the same in every run.
    """
    kinds: dict[str, list[dict]] = {}
    for mutant in mutants(module):
        kinds.setdefault(mutant["mistake"], []).append(mutant)
    shuffled = random.Random(module)
    for kind in kinds.values():
        shuffled.shuffle(kind)
    chosen: list[dict] = []
    while len(chosen) < count and any(kinds.values()):
        chosen += [kind.pop() for kind in kinds.values() if kind]
    return chosen[:count]


def _run(folder: Path, files: list[str], answers: multiprocessing.Queue) -> None:
    """In a fork: the quick tests of a module in the copy of the tree, until the first failure."""
    import pytest

    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path[:] = [str(folder), *(p for p in sys.path if p not in ("", str(ROOT)))]
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "fromfound")]:
        del sys.modules[name]
    answers.put(
        int(
            pytest.main(
                [
                    "-x",
                    "-q",
                    "-m",
                    "not slow",
                    "--rootdir",
                    str(folder),
                    *(str(folder / "tests" / f"test_{name}.py") for name in files),
                ]
            )
        )
    )


def tested(folder: Path, files: list[str], limit: float) -> tuple[bool, float]:
    """Whether the tests notice what is wrong in `folder`, and the seconds they took.

    A test that hangs has noticed.
    """
    context = multiprocessing.get_context("fork")
    answers, started = context.Queue(), time.perf_counter()
    child = context.Process(target=_run, args=(folder, files, answers))
    child.start()
    child.join(limit)
    seconds = time.perf_counter() - started
    if child.is_alive():
        subprocess.run(["pkill", "-KILL", "-P", str(child.pid)], check=False)
        child.kill()
        child.join()
        return True, seconds
    return child.exitcode != 0 or answers.get() != 0, seconds


def trial(module: str, count: int, folder: Path) -> list[dict]:
    """Try a sample of a module's mutants; return what became of each."""
    path = folder / "fromfound" / f"{module}.py"
    original = path.read_text(encoding="utf-8")
    noticed, seconds = tested(folder, TESTS[module], 600)
    if noticed:
        raise SystemExit(f"the tests of {module} fail on the library as it is; mend that first")
    results = []
    for mutant in tqdm(sample(module, count), desc=module):
        path.write_text(mutated(module, mutant.pop("at")), encoding="utf-8")
        results.append(mutant | {"killed": tested(folder, TESTS[module], 10 * seconds + 20)[0]})
    path.write_text(original, encoding="utf-8")
    return results


def stored() -> dict:
    """The results in tests/mutants.json."""
    return (
        json.loads(STORED.read_text(encoding="utf-8"))
        if STORED.exists()
        else {"modules": {}, "survivors": []}
    )


def store(module: str, results: list[dict]) -> None:
    """Put the results of a module into tests/mutants.json.

    Keep the reasons that were written there.
    """
    before = stored()
    reasons = {(s["module"], s["line"], s["mistake"]): s["reason"] for s in before["survivors"]}
    alive = [
        {k: r[k] for k in ("module", "line", "mistake")}
        | {"reason": reasons.get((r["module"], r["line"], r["mistake"]), "")}
        for r in results
        if not r["killed"]
    ]
    before["modules"][module] = {"tried": len(results), "killed": len(results) - len(alive)}
    before["survivors"] = sorted(
        [s for s in before["survivors"] if s["module"] != module] + alive,
        key=lambda s: (s["module"], s["line"], s["mistake"]),
    )
    STORED.write_text(
        json.dumps(before, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def main() -> int:
    """Try the mutants of the modules that are named; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "modules", nargs="*", default=list(TESTS), help="modules to try; all by default"
    )
    parser.add_argument("--count", type=int, default=25, help="mutants a module")
    options = parser.parse_args()
    os.environ.update(
        FROMFOUND_DATA="standin", OMP_NUM_THREADS="1", CI="true", PYTHONDONTWRITEBYTECODE="1"
    )
    import matplotlib.pyplot, numpy, pytest, torch  # noqa: E401, F401  once, before the forks

    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name) / "tree"
        shutil.copytree(
            ROOT,
            folder,
            ignore=shutil.ignore_patterns(".*", "_build", "__pycache__", "*.ipynb_checkpoints"),
        )
        for module in options.modules:
            store(module, trial(module, options.count, folder))
    done = stored()["modules"].values()
    tried, killed = (sum(m[key] for m in done) for key in ("tried", "killed"))
    unexplained = [s for s in stored()["survivors"] if not s["reason"]]
    print(
        f"{killed} of {tried} mutants killed ({killed / tried:.1%}); {len(unexplained)} "
        f"survivors without a reason in {STORED.relative_to(ROOT)}"
    )
    return 0 if killed >= 0.95 * tried and not unexplained else 1


if __name__ == "__main__":
    sys.exit(main())
