"""`make test` proves the book, `make check` what changed in it."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from book import env
from book.reader.notebooks import read
from tests.press import reading, sizes
from tests.press import wheel as wheels
from tests.press.chapters import ROOT, fingerprint, mode, name_of, notebooks, runs_elsewhere
from tests.press.compare import compare_part, parts_of, rules_of
from tests.press.rerun import ONE_THREAD, copy_chapters, register_kernel, rerun, stream
from tests.press.turns import LANES

COUNTED = ("cells", "comparisons", "numbers", "spreads", "shown")
PROVED = ROOT / env.FOLDERS["run"] / "proved.json"  # what passed last, for the fast tier


class StageError(Exception):
    """What a stage found wrong."""


def git(*args: str) -> list[str]:
    """Return what git prints about the tree, split at its NULs."""
    done = subprocess.run(
        ["git", *args, "-z"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr}make test needs git and a clone of the book")
    return [name for name in done.stdout.split("\0") if name]


def tree() -> dict[str, str]:
    """Return the hash of every file of the working tree, and the ignored files that are there."""
    files = {
        name: ROOT / name for name in git("ls-files", "--cached", "--others", "--exclude-standard")
    }
    hashes = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if path.is_file()
    }
    ignored = git("ls-files", "--others", "--ignored", "--exclude-standard", "--directory")
    return hashes | {
        name: "ignored" for name in ignored if not name.startswith(tuple(env.FOLDERS.values()))
    }


class Proof:
    """One run: its stages in order, each with the time it took and what it says."""

    def __init__(self, folder: Path, fast: bool) -> None:
        self.folder, self.fast, self.lines, self.ok = folder, fast, [], True
        self.report: dict[str, dict] = {}  # of each chapter that was run
        # No progress bars.
        self.environment = dict(os.environ, FROMFOUND_DATA=data_folder(), CI="true")

    def stage(self, name: str, run: Callable[[], str]) -> bool:
        """Run one stage and note how it ended; return whether it passed."""
        print(f"\n== {name}", flush=True)
        started = time.perf_counter()
        try:
            passed, note = True, run()
        except (StageError, SystemExit) as error:
            passed, note = False, str(error)
            print(note, flush=True)
        self.ok &= passed
        self.lines.append(
            f"{'passed' if passed else 'FAILED'}  {name:9} "
            f"{time.perf_counter() - started:6.0f} s  {note.splitlines()[-1]}"
        )
        return passed

    def set_up(self) -> str:
        """Make the environments of the chapters and of the website where they are missing."""
        return (
            f"{env.ensure('run').parents[1].name} and {env.ensure('book').parents[1].name} are "
            "ready"
        )

    def package(self) -> str:
        """Build the wheel and the sdist from a copy of the tree.

        Install the wheel where the chapters run.
        """
        wheel, python = wheels.build(self.folder), env.ensure("run")
        env.run_quietly(
            [python, "-m", "pip", "install", "--force-reinstall", "--no-deps", "--no-index", wheel],
            "installing the wheel",
        )
        env.run_quietly([python, "-m", "pip", "check"], "pip check")
        self.check_origin(python)
        note = f"wheel and sdist build, pip check is clean, the chapters will import {wheel.name}"
        return f"{note} on {self.gpu(python)}" if os.environ.get("GPU") else note

    def gpu(self, python: Path) -> str:
        """Return the GPU that the chapters will have: `make test GPU=1` does not do without."""
        code = "import torch; print(torch.cuda.is_available() and torch.cuda.get_device_name())"
        done = subprocess.run(
            [str(python), "-c", code], cwd=self.folder, stdout=subprocess.PIPE, text=True
        )
        found = done.stdout.strip()
        if found in ("", "False"):
            raise StageError("GPU=1 asks for a GPU, and PyTorch sees none on this machine")
        return found

    def check_origin(self, python: Path) -> None:
        """Make sure that a kernel outside the tree imports the package from the wheel."""
        code = "import fromfound; print(fromfound.__file__)"
        environment = runs_elsewhere(self.environment)
        done = subprocess.run(
            [str(python), "-c", code],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        origin = done.stdout.strip()
        if not Path(origin).resolve().is_relative_to(ROOT / env.FOLDERS["run"]):
            raise StageError(
                f"chapters would import fromfound from {origin or 'nowhere'}, not from the "
                f"wheel in {env.FOLDERS['run']}"
            )

    def chapters(self, paths: list[Path]) -> str:
        """Re-execute chapters outside the tree against the wheel.

        Compare outputs, and how much was compared.
        """
        marks = {name_of(path): fingerprint(path) for path in paths}
        place = self.folder / "chapters"
        copy_chapters(place, paths)
        report, code = rerun(
            place, paths, self.kernel_environment(), "--nbval-kernel-name", "fromfound"
        )
        self.report = report
        if not report:
            raise StageError(f"pytest stopped before it ran a chapter (exit code {code})")
        remember({name: mark for name, mark in marks.items() if report.get(name, {}).get("ok")})
        totals = {key: sum(chapter[key] for chapter in report.values()) for key in COUNTED}
        done = ", ".join(f"{total} {key}" for key, total in totals.items())
        note = f"{len(report)} chapters, {done} ({mode()} data)"
        if code:
            bad = [name for name, chapter in report.items() if not chapter["ok"]]
            raise StageError(f"{note}; failures in {', '.join(bad) or 'the run itself'}")
        if lines := shortfall({name_of(path): owed(path, mode()) for path in paths}, report):
            raise StageError(
                "\n".join(
                    [*lines, f"{note}; less was proved than is stored, in {len(lines)} places"]
                )
            )
        return note

    def kernel_environment(self) -> dict:
        """Return the environment that finds the kernel of .venv-run."""
        found = register_kernel(env.ensure("run"), self.folder)
        return runs_elsewhere(self.environment) | ONE_THREAD | found

    def website(self) -> str:
        """Build the website as `make book` does, but outside the tree.

        It has its own environment without PyTorch.
        """
        site = self.folder / "site"
        command = [env.ensure("book"), "-m", "booksite.build", "build", "--out", site]
        code, last = stream(command, cwd=ROOT, env=env.variables("book"))
        if code:
            raise StageError(last)
        return last

    def sizes(self) -> str:
        """Print how large modules are and how long chapters read; the lint has the limits."""
        return f"{sizes.report(ROOT)}; {reading.report(ROOT)}"

    def suite(self) -> str:
        """Run the tests."""
        quick = ["-m", "not slow"] if self.fast else []
        both = ["-n", str(LANES), "--dist", "loadgroup"]
        # `make test SEED=7`: in a random order, the same each time.
        if seed := os.environ.get("SEED"):
            both += ["-p", "randomly", "--randomly-dont-reset-seed", f"--randomly-seed={seed}"]
        command = [sys.executable, "-m", "pytest", "-rsfE", *both, *quick]
        command += ["--durations=5", "--durations-min=10", "tests"]
        code, last = stream(command, cwd=ROOT, env=self.environment)
        if code:
            raise StageError(last)
        return last

    def device(self) -> str:
        """Run the tests of an accelerator on a simulated one, in a process of its own."""
        command = [sys.executable, "-m", "pytest", "-rsfE", "-m", "device", "tests/test_device.py"]
        code, last = stream(command, cwd=ROOT, env=self.environment | {"SIMULATE": "1"})
        if code:
            raise StageError(last)
        return last

    def tree(self, before: dict[str, str]) -> str:
        """Make sure that the run left the working tree as it was."""
        after = tree()
        changed = sorted(
            name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        )
        if changed:
            raise StageError(f"the run changed the tree: {', '.join(changed[:10])}")
        return "as it was before"


def data_folder() -> str:
    """Return what FROMFOUND_DATA is for this run.

    So its mode is known and nothing is downloaded.
    """
    if mode() == "standin":
        return "standin"
    folder = Path(os.environ["FROMFOUND_DATA"]).resolve()
    if not folder.is_dir():
        raise SystemExit(
            f"FROMFOUND_DATA names {folder}, which is not a folder; unset it to use stand-ins"
        )
    return str(folder)


def owed(path: Path, mode: str) -> dict[str, int]:
    """Return how much re-executing a chapter has to prove, from its stored outputs.

    The mode is "real" or "standin".
    """
    counts = dict.fromkeys(COUNTED, 0)
    for cell in read(path).code:
        if not cell.source.strip():
            continue
        counts["cells"] += 1
        rules = rules_of(cell.source, mode)
        for (kind, _), stored in parts_of(cell.outputs).items():
            counts["comparisons"] += 1
            _, tally = compare_part(kind, stored, stored, rules)
            for key in ("numbers", "spreads", "shown"):
                counts[key] += getattr(tally, key)
    return counts


def shortfall(counts: dict, report: dict) -> list[str]:
    """Return where a run proved less than `counts` say."""
    lines = []
    for name, count in sorted(counts.items()):
        if name not in report:
            lines.append(f"{name}: stored, but not run")
            continue
        for key, stored in count.items():
            if report[name][key] < stored:
                lines.append(f"{name}: {report[name][key]} {key}, stored are {stored}")
    return lines


def remember(marks: dict[str, str]) -> None:
    """Note which chapters passed, for the fast tier."""
    known = proved() | marks
    PROVED.write_text(json.dumps({"stamp": env.stamp_of("run"), mode(): known}), encoding="utf-8")


def proved() -> dict[str, str]:
    """Return the fingerprints of the chapters that passed last in this mode and environment."""
    stored = json.loads(PROVED.read_text(encoding="utf-8")) if PROVED.exists() else {}
    return stored.get(mode(), {}) if stored.get("stamp") == env.stamp_of("run") else {}


def run_stages(proof: Proof, what: str, before: dict[str, str]) -> None:
    """Run the stages of "test" or "check" in order; a stage that needs a failed one is left out."""
    proof.stage("set-up", proof.set_up)
    paths = [
        path
        for path in notebooks()
        if not proof.fast or proved().get(name_of(path)) != fingerprint(path)
    ]
    if paths and proof.ok and proof.stage("package", proof.package):
        proof.stage("chapters", lambda: proof.chapters(paths))
    if what == "test":
        proof.stage("website", proof.website)
    proof.stage("sizes", proof.sizes)
    proof.stage("suite", proof.suite)
    proof.stage("device", proof.device)
    proof.stage("tree", lambda: proof.tree(before))


def main() -> int:
    """Run what the command line asks for; the exit code is 0 if all of it passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["test", "check"])
    what = parser.parse_args().what
    started, before = time.perf_counter(), tree()
    with tempfile.TemporaryDirectory(prefix="fromfound-") as folder:
        proof = Proof(Path(folder).resolve(), fast=what == "check")
        run_stages(proof, what, before)
    print("\n" + "\n".join(proof.lines))
    print(
        f"make {what}: {'everything passed' if proof.ok else 'FAILED'} in "
        f"{time.perf_counter() - started:.0f} s ({mode()} data)"
    )
    return 0 if proof.ok else 1


if __name__ == "__main__":
    sys.exit(main())
