"""The nbval plugin of the book: it re-executes chapters and compares outputs.

It is used as `pytest -p tests.press.nbval_plugin nbs`. nbval runs the cells and collects their
outputs. This plugin replaces its exact comparison by that of `compare.py`, stops a chapter at its
first error, holds it to its budget, and counts what was compared. With `--turns FOLDER` two runs
share the machine: a cell marked `timing` waits until it has it alone.
"""

import argparse
import json
import math
import re
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from queue import Empty

import pytest
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError
from nbval.plugin import pytest_addoption as add_nbval_options

from book.reader.notebooks import node_of
from tests.press.chapters import BUDGET_MIB, STOPPED_AFTER, fingerprint, mode, peak_mib
from tests.press.compare import RELATIVE, Rules, compare_part, is_timed, parts_of, rules_of
from tests.press.turns import Turns

GRACE = 5  # seconds past the budget before a running cell is interrupted
REPORT, TURNS = pytest.StashKey(), pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add nbval's options and ours."""
    add_nbval_options(parser)
    group = parser.getgroup("chapters", "the chapters of the book")
    group.addoption("--report", help="write what was run and compared into this JSON file")
    group.addoption("--ledger", help="append a line for each chapter to this file")
    group.addoption("--label", help="what the ledger calls this run")
    group.addoption(
        "--mode",
        choices=["real", "standin"],
        default=mode(),
        help="with stand-ins numbers are masked",
    )
    group.addoption(
        "--budget-seconds", type=float, default=STOPPED_AFTER, help="time a chapter may take"
    )
    group.addoption("--turns", help="folder whose locks give a timing cell the machine alone")
    group.addoption(
        "--lane", type=int, default=0, help="which of the runs that share it this one is"
    )
    group.addoption(
        "--budget-mib", type=float, default=BUDGET_MIB, help="memory a chapter may hold at its peak"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start an empty report."""
    config.stash[REPORT] = {"mode": config.option.mode, "chapters": {}}
    config.stash[TURNS] = Turns(config.option.turns, config.option.lane)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect notebooks as chapters."""
    return Chapter.from_parent(parent, path=file_path) if file_path.suffix == ".ipynb" else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report."""
    if path := session.config.option.report:
        Path(path).write_text(
            json.dumps(session.config.stash[REPORT], indent=1, sort_keys=True), encoding="utf-8"
        )


def note_in_ledger(option: argparse.Namespace, chapter: "Chapter") -> None:
    """Append whether a chapter passed, with the fingerprint of all that its outputs depend on."""
    entry = {"setting": option.label, "chapter": chapter.chapter, "ok": chapter.tally["ok"]}
    entry |= {"fingerprint": fingerprint(chapter.path), "torch": version("torch")}
    path = Path(option.ledger)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as ledger:
        ledger.write(json.dumps(entry) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None):
    """After the last cell of a chapter say what it cost."""
    result = yield
    if nextitem is None or nextitem.parent is not item.parent:
        item.parent.tally["ok"] = item.parent.unproved == 0
        if item.config.option.ledger:
            note_in_ledger(item.config.option, item.parent)
        item.config.pluginmanager.get_plugin("terminalreporter").write_line(
            " " + item.parent.summary()
        )
    return result


class Kernel(RunningKernel):
    """nbval's kernel, which keeps history as Jupyter does and notices when it dies."""

    def execute_cell_input(self, cell_input: str, allow_stdin: bool | None = None) -> str:
        """Send a cell; with history a trailing `;` suppresses its output."""
        return self.kc.execute(
            cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
        )

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """Wait for the reply to a cell, in short steps."""
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        while True:
            try:
                return super().await_reply(msg_id, timeout=1)
            except Empty:
                if not self.is_alive():
                    raise RuntimeError(
                        "the kernel died while it ran this cell (out of memory, or a crash "
                        "in native code)"
                    ) from None
                if time.monotonic() > deadline:
                    raise


class Chapter(IPyNbFile):
    """One notebook: a kernel, and a tally of what was run and compared in it."""

    def collect(self):
        """Yield the code cells that hold code.

        Their numbers count all cells of the notebook, from 1.
        """
        notebook = node_of(self.path)
        name = (
            self.path.relative_to(self.config.rootpath)
            .with_suffix("")
            .as_posix()
            .removeprefix("nbs/")
        )
        self.tally = {"cells": 0, "comparisons": 0, "numbers": 0, "spreads": 0, "shown": 0}
        self.tally |= {"failures": [], "ok": False, "peak_mib": 0.0, "seconds": 0.0}
        self.config.stash[REPORT]["chapters"][name] = self.tally
        self.chapter, self.stopped, self.unproved = name, None, 0
        for index, cell in enumerate(notebook.cells, 1):
            if cell.cell_type == "code" and cell.source.strip():
                cell.execution_count = (
                    1  # nbdev cleans it away, and nbval then takes the cell as never run
                )
                options = defaultdict(bool, check=True)
                self.unproved += 1
                yield Cell.from_parent(
                    self, name=f"cell {index}", cell_num=index, cell=cell, options=options
                )

    def setup(self) -> None:
        """Start the kernel in the folder of the notebook."""
        option = self.config.option
        self.kernel = Kernel(
            option.nbval_kernel_name or CURRENT_ENV_KERNEL_NAME,
            cwd=str(self.path.parent),
            startup_timeout=option.nbval_kernel_startup_timeout,
        )

    def summary(self) -> str:
        """Return in a line what was run and what it cost."""
        line = (
            "{cells} cells, {comparisons} comparisons, {numbers} numbers, {spreads} spreads, "
            "{shown} only shown"
        ).format(**self.tally)
        line += ", {seconds:.1f} s, {peak_mib:.0f} MiB".format(**self.tally)
        failed = len(self.tally["failures"])
        return f"{self.chapter}: {line}" + (f", {failed} failed" if failed else "")


class CheckError(Exception):
    """What a cell did wrong, as a reader of the log wants it."""


class Cell(IPyNbCell):
    """One code cell as a test.

    It passes if it runs and gives the stored outputs, within its chapter's budget.
    """

    def runtest(self) -> None:
        """Run the cell, unless an earlier one stopped the chapter."""
        if self.parent.stopped:
            pytest.skip(f"not run, because {self.parent.stopped} stopped the chapter")
        try:
            with self.config.stash[TURNS].turn(alone=is_timed(self.cell.source)):
                self.execute()
            self.parent.unproved -= 1
        except CheckError as failure:
            self.parent.tally["failures"].append({"cell": self.cell_num, "message": str(failure)})
            raise

    def execute(self) -> None:
        """Run the cell and turn what went wrong into a `CheckError`."""
        option, tally = self.config.option, self.parent.tally
        option.nbval_cell_timeout = max(option.budget_seconds - tally["seconds"], 0) + GRACE
        self.output_timeout = 30
        self.complaints = self.comparison_traceback = []  # nbval's name for it
        started, wrong = time.perf_counter(), None
        try:
            super().runtest()
        except (NbCellError, RuntimeError) as error:
            # Not a matter of outputs: the cells that follow would fail only because of this one.
            if not self.complaints:
                self.parent.stopped = self.name
                wrong = f"{error}\n{getattr(error, 'inner_traceback', None) or ''}".rstrip()
        tally["cells"] += 1
        tally["seconds"] += time.perf_counter() - started
        if self.parent.kernel.is_alive():
            tally["peak_mib"] = peak_mib(self.parent.kernel.km.provisioner.pid)
        if over := self.over_budget():
            self.parent.stopped = self.name
            wrong = f"{wrong}\n{over}" if wrong else over
        if wrong or self.complaints:
            raise CheckError(self.message(wrong))

    def over_budget(self) -> str | None:
        """Return what the chapter has spent beyond its budget, or None."""
        option, tally = self.config.option, self.parent.tally
        advice = "do less here, or record the run (nbs/00d_record.ipynb)"
        if tally["seconds"] > option.budget_seconds:
            return (
                f"the chapter took {tally['seconds']:.1f} s up to here; its budget is "
                f"{option.budget_seconds:g} s: {advice}"
            )
        if tally["peak_mib"] > option.budget_mib:
            return (
                f"the chapter held {tally['peak_mib']:.0f} MiB; its budget is "
                f"{option.budget_mib:g} MiB: {advice}"
            )
        return None

    def message(self, wrong: str | None) -> str:
        """Return the text of a failure: where, what, and what to do."""
        head = f"{self.parent.chapter}, cell {self.cell_num}:\n" + "\n".join(
            f"  | {line}" for line in self.cell.source.splitlines()[:6]
        )
        if wrong:
            return f"{head}\n{wrong}"
        rules = rules_of(self.cell.source, self.config.option.mode)
        number = re.match(r"(\w+/)?[^_]*", self.parent.chapter).group()
        advice = f"if the new output is right, store it: make chapter N={number}"
        if not rules.masked:
            tolerance = (
                f"{rules.tolerance:g}, as the cell says"
                if rules.tolerance
                else f"{RELATIVE:g}, the default"
            )
            advice += (
                "\nif its numbers vary between machines, measure over seeds and print a spread, "
                "or say so in the cell: "
            )
            advice += (
                f"`#| tolerance: 0.02` (now {tolerance}), `#| varies` for one training run, "
                "`#| timing` for times"
            )
        return "\n".join([head, *self.complaints, advice])

    def repr_failure(self, excinfo: pytest.ExceptionInfo) -> str:
        """Show a failure by its message alone."""
        return (
            str(excinfo.value)
            if excinfo.errisinstance(CheckError)
            else super().repr_failure(excinfo)
        )

    def compare_outputs(self, test: list, ref: list, skip_compare: tuple | None = None) -> bool:
        """Compare the outputs of a run with the stored ones, part by part.

        Note complaints and counts.
        """
        rules = rules_of(self.cell.source, self.config.option.mode)
        got, stored = parts_of(test), parts_of(ref)
        for key in dict.fromkeys([*stored, *got]):
            complaint = self.compare_part(key, stored.get(key), got.get(key), rules)
            if complaint:
                self.complaints.append(complaint)
        return not self.complaints

    def compare_part(self, key: tuple, stored: object, got: object, rules: Rules) -> str | None:
        """Compare one part of the outputs, say `text/plain` of the second one.

        Return what is wrong, or None.
        """
        kind, number = key
        what = f"{kind} of output {number}" if number else kind
        if got is None:
            return (
                f"missing output: {what} is stored, but the run has none:\n{excerpt(kind, stored)}"
            )
        if stored is None:
            if kind == "stderr":
                return (
                    "the cell wrote to stderr; mend the cause of the warning:\n"
                    f"{excerpt(kind, got)}"
                )
            return f"new output: the run has {what}, but none is stored:\n{excerpt(kind, got)}"
        self.parent.tally["comparisons"] += 1
        wrong, tally = compare_part(kind, stored, got, rules)
        for key in ("numbers", "spreads", "shown"):
            self.parent.tally[key] += getattr(tally, key)
        return wrong and f"{what} differs from the stored one: {wrong}"


def excerpt(kind: str, value: object) -> str:
    """Return the beginning of an output as a failure shows it."""
    if kind.startswith("image/"):
        return "  (a picture)"
    lines = (value if isinstance(value, str) else json.dumps(value)).splitlines() or [""]
    return "\n".join(f"  {line[:200]}" for line in lines[:8]) + ("\n  …" if len(lines) > 8 else "")
