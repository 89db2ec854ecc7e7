"""`make test` proves the book, `make check` what changed in it, `make counts` records how much a run proves."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.press import env
from tests.press.chapters import ROOT, fingerprint, mode, name_of, notebooks, runs_elsewhere

COUNTS = ROOT / "tests" / "counts.json"
COUNTED = ("cells", "comparisons", "numbers")
PROVED = ROOT / env.FOLDERS["run"] / "proved.json"  # what passed last, for the fast tier


class Failed(Exception):
    """What a stage found wrong."""


def git(*args: str) -> list[str]:
    """Return what git prints about the tree, split at its NULs."""
    done = subprocess.run(["git", *args, "-z"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr}make test needs git and a clone of the book")
    return [name for name in done.stdout.split("\0") if name]


def tree() -> dict[str, str]:
    """Return the hash of every file of the working tree, and the ignored files that are there."""
    files = {name: ROOT / name for name in git("ls-files", "--cached", "--others", "--exclude-standard")}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.is_file()}
    ignored = git("ls-files", "--others", "--ignored", "--exclude-standard", "--directory")
    return hashes | {name: "ignored" for name in ignored if not name.startswith(tuple(env.FOLDERS.values()))}


def stream(command: list, **options: object) -> tuple[int, str]:
    """Run `command`, pass its output on as it comes; return its exit code and last line."""
    last, pipe = "", {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    text = {"text": True, "encoding": "utf-8", "errors": "replace"}
    with subprocess.Popen([str(part) for part in command], **pipe, **text, **options) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode, last


class Proof:
    """One run: its stages in order, each with the time it took and what it says."""

    def __init__(self, folder: Path, fast: bool) -> None:
        self.folder, self.fast, self.lines, self.ok = folder, fast, [], True
        self.environment = dict(os.environ, FROMFOUND_DATA=data_folder(), CI="true")  # nobody watches: no progress bars

    def stage(self, name: str, run: Callable[[], str]) -> bool:
        """Run one stage and note how it ended; return whether it passed."""
        print(f"\n== {name}", flush=True)
        started = time.perf_counter()
        try:
            passed, note = True, run()
        except (Failed, SystemExit) as error:
            passed, note = False, str(error)
            print(note, flush=True)
        self.ok &= passed
        self.lines.append(f"{'passed' if passed else 'FAILED'}  {name:9} {time.perf_counter() - started:6.0f} s  {note.splitlines()[-1]}")
        return passed

    def set_up(self) -> str:
        """Make the environments of the chapters and of the website where they are missing."""
        return f"{env.ensure('run').parents[1].name} and {env.ensure('book').parents[1].name} are ready"

    def package(self) -> str:
        """Build the wheel and the sdist from a copy of the tree, and install the wheel where the chapters run."""
        copy, dist = self.folder / "tree", self.folder / "dist"
        for name in git("ls-files", "--cached", "--others", "--exclude-standard"):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        env.run_quietly([sys.executable, "-m", "build", "--outdir", dist, copy], "building the wheel and the sdist")
        [wheel] = dist.glob("*.whl")
        python = env.ensure("run")
        env.run_quietly([python, "-m", "pip", "install", "--force-reinstall", "--no-deps", "--no-index", wheel], "installing the wheel")
        env.run_quietly([python, "-m", "pip", "check"], "pip check")
        self.check_origin(python)
        return f"wheel and sdist build, pip check is clean, the chapters will import {wheel.name}"

    def check_origin(self, python: Path) -> None:
        """Make sure that a kernel outside the tree imports the package from the wheel."""
        code = "import fromfound; print(fromfound.__file__)"
        environment = runs_elsewhere(self.environment)
        done = subprocess.run([str(python), "-c", code], cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True)
        origin = done.stdout.strip()
        if not Path(origin).resolve().is_relative_to(ROOT / env.FOLDERS["run"]):
            raise Failed(f"chapters would import fromfound from {origin or 'nowhere'}, not from the wheel in {env.FOLDERS['run']}")

    def chapters(self, paths: list[Path]) -> str:
        """Re-execute chapters outside the tree against the wheel; compare outputs, and counts with the recorded ones."""
        marks = {name_of(path): fingerprint(path) for path in paths}
        place = self.folder / "chapters"
        copies = [copy_to(place, path) for path in paths]
        for run in sorted((ROOT / "book" / "runs").glob("*.json")):
            copy_to(place, run)
        (place / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        report = self.folder / "report.json"
        code, _ = stream(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:nbval", "-p", "no:cacheprovider", "-p", "tests.press.nbval_plugin"]
            + ["-c", place / "pytest.ini", "--rootdir", place, "--nbval-kernel-name", "fromfound", "--report", report, *copies],
            cwd=ROOT,
            env=self.kernel_environment(),
        )
        if not report.exists():
            raise Failed(f"pytest stopped before it ran a chapter (exit code {code})")
        self.report = json.loads(report.read_text(encoding="utf-8"))["chapters"]
        remember({name: mark for name, mark in marks.items() if self.report[name]["ok"]})
        totals = {key: sum(chapter[key] for chapter in self.report.values()) for key in COUNTED}
        done = ", ".join(f"{total} {key}" for key, total in totals.items())
        note = f"{len(self.report)} chapters, {done} ({mode()} data)"
        if code:
            bad = [name for name, chapter in self.report.items() if not chapter["ok"]]
            raise Failed(f"{note}; failures in {', '.join(bad) or 'the run itself'}")
        return note

    def kernel_environment(self) -> dict:
        """Register the kernel of .venv-run in the temporary folder; return the environment that finds it."""
        prefix = self.folder / "kernel"
        python = env.ensure("run")
        env.run_quietly([python, "-m", "ipykernel", "install", "--prefix", prefix, "--name", "fromfound"], "registering the kernel")
        return runs_elsewhere(self.environment) | {
            "JUPYTER_PATH": str(prefix / "share" / "jupyter"),
            "IPYTHONDIR": str(self.folder / "ipython"),  # nobody's own start-up files
        }

    def counts(self) -> str:
        """Compare what the chapters proved with what is recorded (the fast tier: of those that ran)."""
        counts = recorded().get(mode(), {})
        if self.fast:
            counts = {name: counts[name] for name in counts if name in self.report}
        if lines := shortfall(counts, self.report):
            raise Failed("\n".join([*lines, f"less was proved than recorded, in {len(lines)} places; if that is intended: make counts"]))
        return f"no less than recorded for {len(counts)} chapters"

    def record_counts(self) -> str:
        """Write what the chapters proved into tests/counts.json."""
        counts = recorded() | {mode(): {name: {key: chapter[key] for key in COUNTED} for name, chapter in self.report.items()}}
        COUNTS.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return f"recorded for {len(self.report)} chapters"

    def website(self) -> str:
        """Build the website as `make book` does, in its own environment without PyTorch, but outside the tree."""
        code, last = stream([env.ensure("book"), "-m", "tests.press.site", "build", "--out", self.folder / "site"], cwd=ROOT)
        if code:
            raise Failed(last)
        return last

    def suite(self) -> str:
        """Run the tests."""
        quick = ["-m", "not slow", "--durations=5", "--durations-min=5"] if self.fast else []
        code, last = stream([sys.executable, "-m", "pytest", "-rs", *quick, "tests"], cwd=ROOT, env=self.environment)
        if code:
            raise Failed(last)
        return last

    def tree(self, before: dict[str, str]) -> str:
        """Make sure that the run left the working tree as it was."""
        after = tree()
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if changed:
            raise Failed(f"the run changed the tree: {', '.join(changed[:10])}")
        return "as it was before"


def data_folder() -> str:
    """Return what FROMFOUND_DATA is for this run, so that its mode is known and nothing is downloaded."""
    if mode() == "standin":
        return "standin"
    folder = Path(os.environ["FROMFOUND_DATA"]).resolve()
    if not folder.is_dir():
        raise SystemExit(f"FROMFOUND_DATA names {folder}, which is not a folder; unset it to use stand-ins")
    return str(folder)


def copy_to(place: Path, path: Path) -> Path:
    """Copy a file of the tree under `place`, at the same path."""
    target = place / path.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
    return target


def recorded() -> dict:
    """Return the recorded counts of each mode."""
    return json.loads(COUNTS.read_text(encoding="utf-8")) if COUNTS.exists() else {}


def shortfall(counts: dict, report: dict) -> list[str]:
    """Return where a run proved less than `counts` say."""
    lines = []
    for name in sorted(counts):
        if name in report:
            done = report[name]
            lines += [f"{name}: {done[key]} {key}, recorded are {counts[name][key]}" for key in COUNTED if done[key] < counts[name][key]]
        else:
            lines.append(f"{name}: recorded, but not run")
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
    """Run the stages of "test", "check" or "counts" in order; a stage that needs a failed one is left out."""
    proof.stage("set-up", proof.set_up)
    paths = [path for path in notebooks() if not proof.fast or proved().get(name_of(path)) != fingerprint(path)]
    if paths and proof.ok and proof.stage("package", proof.package) and proof.stage("chapters", lambda: proof.chapters(paths)):
        proof.stage("counts", proof.record_counts if what == "counts" else proof.counts)
    if what == "test":
        proof.stage("website", proof.website)
    if what != "counts":
        proof.stage("suite", proof.suite)
        proof.stage("tree", lambda: proof.tree(before))


def main() -> int:
    """Run what the command line asks for; the exit code is 0 if all of it passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["test", "check", "counts"])
    what = parser.parse_args().what
    started, before = time.perf_counter(), tree()
    with tempfile.TemporaryDirectory(prefix="fromfound-") as folder:
        proof = Proof(Path(folder).resolve(), fast=what == "check")
        run_stages(proof, what, before)
    print("\n" + "\n".join(proof.lines))
    print(f"make {what}: {'everything passed' if proof.ok else 'FAILED'} in {time.perf_counter() - started:.0f} s ({mode()} data)")
    return 0 if proof.ok else 1


if __name__ == "__main__":
    sys.exit(main())
