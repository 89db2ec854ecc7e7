"""`make moved BEFORE=COMMIT`: records that outlive a rename or a rewritten function.

A record knows the code that it was made with, by a fingerprint that ignores names, places,
comments and annotations. Where the code at hand has another one, this tool looks whether the record
still holds. At COMMIT the record must have been up to date. If the code there differs only in what
a fingerprint ignores, the record holds. If not, one seed of the old code and of the new code run
here, with one thread: where each value is the same to the last bit, the record holds. Then it takes
the new fingerprint and says how that was proved. Where a value differs, nothing is changed, and the
experiment has to be recorded again.

Three differences need no run of the experiment. Where it is `data.py` alone that differs, it is
enough that both codes read the same tensors, bit for bit. Where it is `augment.py`, they must make
the same tensors of a few hundred batches. Where it is one layer, it is enough that both layers
compute and keep the same tensors, bit for bit, in a few hundred steps of training.

What a run gave is kept in a file, by fingerprint, seed and machine, so that nothing runs twice and
later changes can be compared with the same old values.
"""

import argparse
import ast
import fnmatch
import importlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from book import env
from fromfound.codehash import code_hash
from tests.press.chapters import ROOT

LEDGER = ROOT / env.FOLDERS["dev"] / "moved.jsonl"
HOMES = ("fromfound.experiments.", "fromfound.")  # the second until experiments had a room

# Runs in the tree that it belongs to; the last line that it prints is the values.
RUN = """
import importlib, json, sys
import torch
import fromfound
module, function, seed, tree, *data = sys.argv[1:]
assert fromfound.__file__.startswith(tree), f"fromfound comes from {fromfound.__file__}"
from fromfound.data import fetch, is_real
if pretended := [name for name in data if not is_real(fetch(name))]:
    raise SystemExit(f"the record used real data, and here {', '.join(pretended)} is a stand-in")
experiment = getattr(importlib.import_module(module), function)
torch.manual_seed(int(seed))
print(json.dumps({name: float(value).hex() for name, value in experiment(int(seed)).items()}))
"""
# Prints a fingerprint of all that is read.
READ = """
import hashlib, sys
from fromfound.data import load_mnist
found = hashlib.sha256()
for name in sys.argv[1:]:
    data = load_mnist(name)
    for part in (data.x_train, data.y_train, data.x_test, data.y_test):
        found.update(repr((name, data.real, part.dtype, part.shape)).encode())
        found.update(part.numpy().tobytes())
print(found.hexdigest())
"""
# Prints a fingerprint of what transforms make of batches, each alone and all in a row.
AUGMENT = """
import hashlib
import torch
from fromfound.augment import Compose, Flip, Lighting, RandomErasing, Rotate, Translate, Warp, Zoom
found = hashlib.sha256()
makers = [
    lambda **seed: Flip(**seed),
    lambda **seed: Flip(0.9, **seed),
    lambda **seed: Rotate(8, **seed),
    lambda **seed: Zoom(0.9, 1.15, **seed),
    lambda **seed: Translate(0.1, **seed),
    lambda **seed: Warp(0.3, p=0.7, **seed),
    lambda **seed: Lighting(**seed),
    lambda **seed: RandomErasing(area=(0.02, 0.3), value=-1.0, **seed),
]
modes = "reflection", "border", "zeros"
alone = [make(seed=k) for k, make in enumerate(makers)]
rows = [Compose(*(make() for make in makers), padding_mode=mode, seed=9) for mode in modes]
weak = Compose(Flip(), Translate(0.07), padding_mode="border", seed=3)
for step in range(30):
    torch.manual_seed(step)
    images = torch.randn(1 + step % 4, 1 + step % 3, 28 - step % 5, 28)
    if step % 2:
        images = images.contiguous(memory_format=torch.channels_last)
    for transform in (*alone, *rows, weak):
        found.update(transform(images).contiguous().numpy().tobytes())
print(found.hexdigest())
"""
# Prints a fingerprint of what a layer of eight channels, or of rows of eight, computes and keeps.
TRAIN = """
import hashlib, importlib, sys
import torch
module, name = sys.argv[1:]
torch.manual_seed(0)
layer = getattr(importlib.import_module(module), name)(8)
opt, found = torch.optim.SGD(layer.parameters(), lr=0.1), hashlib.sha256()
for step in range(240):
    n, height = (1, 2, 3, 32)[step % 4], (1, 4, 7)[step % 3]
    layer.train(step % 5 != 4)
    x = (1 + torch.randn(n, 8, height, 8) * (1 + step % 7)).requires_grad_()
    y = layer(x)
    opt.zero_grad()
    y.backward(torch.randn_like(y))
    opt.step()
    for tensor in (y, x.grad, *layer.state_dict().values()):
        found.update(tensor.detach().numpy().tobytes())
print(found.hexdigest())
"""
FRESH = """
import sys
from fromfound.record import show_run
print(show_run(sys.argv[1]).changed())
"""


class RefusedError(Exception):
    """Why a record was left as it is."""


def machine() -> dict[str, str]:
    """Return what decides how numbers are rounded here."""
    import torch

    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        lines = cpu.read_text(encoding="utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        model = models[0] if models else model
    if torch.cuda.is_available():
        model = torch.cuda.get_device_name()
    return {
        "processor": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Place:
    """An experiment in a tree: the folder, module, function, and the fingerprint of its code."""

    tree: Path
    module: str
    function: str
    code: str

    @classmethod
    def find(cls, tree: Path, name: str) -> "Place":
        """Find the experiment `MODULE.NAME` in a tree."""
        stem, _, function = name.rpartition(".")
        for home in HOMES:
            try:
                code = code_hash(f"{home}{stem}", function, [tree / "fromfound"])
            except LookupError:
                continue
            return cls(tree, f"{home}{stem}", function, code)
        raise RefusedError(f"{tree} has no experiment {name}")


def python(tree: Path, code: str, *args: str) -> str:
    """Run Python with the package of a tree and one thread; return the last line it prints."""
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CI": "true",
    }
    if Path(folder := os.environ.get("FROMFOUND_DATA", "")).is_dir() and folder:
        environment["FROMFOUND_DATA"] = str(Path(folder).resolve())  # Python starts elsewhere
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RefusedError(f"it could not be run in {tree}:\n{done.stderr.strip()[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


class Values:
    """What runs gave, kept in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, place: Place, seed: int, data: list[str]) -> dict[str, str]:
        """Return the values of one seed, as hexadecimal floats; run it if it is not known here."""
        key = {"code": place.code, "seed": seed, "machine": machine()}
        lines = []
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
        for entry in map(json.loads, lines):
            if all(entry[name] == value for name, value in key.items()):
                return entry["values"]
        name = f"{place.module}.{place.function}"
        print(f"  runs seed {seed} of {name}, code {place.code} …", flush=True)
        said = python(
            place.tree, RUN, place.module, place.function, str(seed), str(place.tree), *data
        )
        entry = {"name": name, **key, "values": json.loads(said)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        return entry["values"]


@contextmanager
def tree_of(root: Path, commit: str) -> Iterator[Path]:
    """Yield a folder with the package and the records as they were at a commit."""
    command = ["git", "-C", str(root), "archive", commit, "fromfound", "book/runs"]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise SystemExit(f"make moved: {done.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="fromfound-") as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder).resolve()


def commit_of(root: Path, what: str = "HEAD") -> str:
    """Return the short name of a commit; of HEAD, with a mark where the tree differs from it."""
    marks = ["--dirty"] if what == "HEAD" else [what]
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=12"]
    done = subprocess.run([*command, *marks], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"make moved: {done.stderr.strip()}")
    return done.stdout.strip()


def same_record(kept: dict, before: Path, name: str) -> dict:
    """Check that the record at hand is that of the old tree, and was up to date there."""
    path = before / "book" / "runs" / f"{name}.json"
    if not path.is_file():
        raise RefusedError(f"there was no record of {name} then")
    old = json.loads(path.read_text(encoding="utf-8"))
    if any(old[part] != kept[part] for part in ("figures", "data")):
        raise RefusedError("it was recorded again since then")
    if python(before, FRESH, name) != "False":
        raise RefusedError("its code had already changed then; take an earlier commit")
    return old


def compared(names: Iterable[str], times: tuple[str, ...]) -> list[str]:
    """Return the names of values that a second run repeats: all but times by the clock."""
    found = [n for n in names if not any(fnmatch.fnmatch(n, pattern) for pattern in times)]
    if not found:
        raise RefusedError("record it again: all its values are times, which no run repeats")
    return sorted(found)


def differences(old: dict[str, str], new: dict[str, str], times: tuple[str, ...]) -> list[str]:
    """Return which values differ, one line each."""
    found = []
    for name in compared(old | new, times):
        if name not in old or name not in new:
            found.append(f"{name}: {'gone' if name in old else 'new'}")
        elif old[name] != new[name]:
            a, b = (float.fromhex(values[name]) for values in (old, new))
            found.append(f"{name}: {a!r} before, {b!r} now")
    return found


def times_of(place: Place) -> tuple[str, ...]:
    """Return the patterns of the values that are times, as its decorator has them."""
    path = place.tree.joinpath(*place.module.split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if getattr(node, "name", "") == place.function:
            words = [k for mark in node.decorator_list for k in getattr(mark, "keywords", ())]
            found = [ast.literal_eval(k.value) for k in words if k.arg == "times"]
            return found[0] if found else ()
    raise RefusedError(f"{path.name} does not define {place.function}")


def reads_alike(old: Place, now: Place, data: list[str]) -> bool:
    """Whether two codes differ in how they read data alone, and read the same tensors.

    Args:
        old: the experiment as it was.
        now: the experiment as it is.
        data: the datasets that it reads.
    """
    if not data or not set(data) <= {"mnist", "fashion_mnist"}:  # the sets that READ can read
        return False
    if not differs_only_in("data.py", old, now):
        return False
    return python(old.tree, READ, *data) == python(now.tree, READ, *data)


def differs_only_in(file: str, old: Place, now: Place) -> bool:
    """Whether one module of the library is all in which two codes differ."""
    before = old.tree / "fromfound" / file
    if not before.is_file():
        return False
    with tempfile.TemporaryDirectory(prefix="fromfound-") as folder:
        mixed = shutil.copytree(now.tree / "fromfound", Path(folder) / "fromfound")
        shutil.copy(before, mixed)
        return code_hash(now.module, now.function, [mixed]) == old.code


def augments_alike(old: Place, now: Place) -> bool:
    """Whether two codes differ in `augment.py` alone, and its transforms make the same tensors."""
    if not differs_only_in("augment.py", old, now):
        return False
    return python(old.tree, AUGMENT) == python(now.tree, AUGMENT)


def classes(path: Path) -> dict[str, str]:
    """Return the source of each class of a file, by name."""
    text = path.read_text(encoding="utf-8")
    found = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    return {node.name: ast.get_source_segment(text, node) for node in found}


def changed_class(old: Place, now: Place) -> tuple[str, str] | None:
    """Return module and name of the one class in which two codes differ, or None."""
    for path in sorted((now.tree / "fromfound").glob("*.py")):
        before = old.tree / "fromfound" / path.name
        theirs = classes(before) if before.is_file() else {}
        for name, source in classes(path).items():
            if theirs.get(name, source) == source:
                continue
            with tempfile.TemporaryDirectory(prefix="fromfound-") as folder:
                mixed = shutil.copytree(now.tree / "fromfound", Path(folder) / "fromfound")
                text = path.read_text(encoding="utf-8").replace(source, theirs[name])
                (mixed / path.name).write_text(text, encoding="utf-8")
                if code_hash(now.module, now.function, [mixed]) == old.code:
                    return f"fromfound.{path.stem}", name
    return None


def trains_alike(old: Place, now: Place) -> str:
    """Return the name of the one layer in which two codes differ if both train alike, else ""."""
    layer = changed_class(old, now)
    if layer is None:
        return ""
    try:
        same = python(old.tree, TRAIN, *layer) == python(now.tree, TRAIN, *layer)
    except RefusedError:  # it is no layer for images, or has no such constructor
        return ""
    return layer[1] if same else ""


@dataclass(frozen=True)
class Commits:
    """The short names of two commits, and the tree of the earlier one."""

    before: str
    now: str
    tree: Path


def prove(name: str, was: str, root: Path, commits: Commits, values: Values) -> str:
    """Prove one record, and rewrite it where that succeeds.

    Args:
        name: of the experiment now.
        was: its name at the commit.
        root: the tree at hand.
        commits: the commit at which the record held, and the one at hand.
        values: what runs gave.

    Returns:
        What was found, in words.

    Raises:
        RefusedError: the record does not hold, or that can't be found out.
    """
    runs = root / "book" / "runs"
    source = next((p for n in (name, was) if (p := runs / f"{n}.json").is_file()), None)
    if source is None:
        raise RefusedError("it is not recorded")
    kept = json.loads(source.read_text(encoding="utf-8"))
    now = Place.find(root, name)
    if kept["code"] == now.code and kept["name"] == name:
        return "is up to date"
    same_record(kept, commits.tree, was)
    old = Place.find(commits.tree, was)
    if old.code == now.code:
        how = f"is that of {commits.before}, but for names and places"
    else:
        data = [n for n, source in kept["data"].items() if source != "stand-in"]
        times = times_of(now)
        compared(kept["figures"], times)  # is there anything to compare?
        if reads_alike(old, now, data):
            how = f"is that of {commits.before}, but for how it reads the same tensors"
        elif augments_alike(old, now):
            how = f"is that of {commits.before}, but for transforms that make the same tensors"
        elif layer := trains_alike(old, now):
            how = f"is that of {commits.before}, but for {layer}, which trains the same bitwise"
        else:
            found = differences(*(values.of(place, 0, data) for place in (old, now)), times)
            if found:
                lines = "\n    ".join(found)
                raise RefusedError(f"record it again, its values differ:\n    {lines}")
            here = machine()
            where = f"seed 0 on {here['processor']}, 1 thread"
            how = f"gives the values of {commits.before} bitwise ({where})"
    kept |= {"code": now.code, "name": name, "command": kept["command"].replace(was, name)}
    kept["proved"] = {"before": commits.before, "commit": commits.now, "how": how}
    path = runs / f"{name}.json"
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if source != path:
        source.unlink()
    return f"holds: the code {how}"


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Prove the records that are named, by default all; the exit code is 0 if all hold."""
    parser = argparse.ArgumentParser(prog="make moved", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODULE.NAME")
    parser.add_argument("--before", required=True, help="a commit at which the records held")
    parser.add_argument("--was", help="the name that the one experiment had at that commit")
    parser.add_argument("--values", type=Path, default=LEDGER, help="what runs gave, kept")
    parser.add_argument(
        "--run-before", action="store_true", help="only run the code of that commit, and keep it"
    )
    options = parser.parse_args(arguments)
    importlib.import_module("torch")  # before the first line, which it may delay by seconds
    recorded = sorted((root / "book" / "runs").glob("*.*.json"))
    names = options.names or [path.stem for path in recorded]
    values, failed = Values(options.values.resolve()), 0
    # Both are asked first: the records that are rewritten below make the tree another one.
    before, now = commit_of(root, options.before), commit_of(root)
    with tree_of(root, options.before) as tree:
        commits = Commits(before, now, tree)
        for name in names:
            was = options.was or name
            try:
                if options.run_before:
                    said = str(values.of(Place.find(tree, was), 0, []))
                else:
                    said = prove(name, was, root, commits, values)
            except RefusedError as refused:
                said, failed = f"REFUSED: {refused}", failed + 1
            print(f"{name} {said}", flush=True)
    print(f"make moved: {len(names) - failed} of {len(names)} records hold")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
