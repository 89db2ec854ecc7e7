"""Prose figures and recorded runs: stale figures, changed code and missed marks must show."""

import builtins
import json
import math
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch

from book.reader import notebooks as reader
from book.reader.markdown import MARK
from fromfound import record
from fromfound.check import spread
from fromfound.codehash import code_hash
from fromfound.record import (
    Run,
    experiment,
    fill_marks,
    main,
    quote,
    record_run,
    show_run,
    stored_quotes,
    sync,
)


def notebook(path, source, **values):
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": source},
        {
            "cell_type": "code",
            "execution_count": None,
            "metadata": {},
            "source": "",
            "outputs": [
                {
                    "output_type": "execute_result",
                    "data": quote(**values)._repr_mimebundle_(),
                    "metadata": {},
                }
            ],
        },
    ]
    path.write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    return path


@pytest.mark.parametrize(
    "value, stored",
    [
        (1, 1),
        (0.123456789, 0.123457),
        (torch.tensor(2.5), 2.5),
        (torch.tensor([3]), 3),
        ("text", "text"),
        (torch.tensor(1.0).numpy(), 1.0),
    ],
)
def test_quote_keeps(value, stored):
    assert quote(x=value).values == {"x": stored}


@pytest.mark.parametrize(
    "value, error",
    [
        (math.nan, ValueError),
        (math.inf, ValueError),
        ([1], TypeError),
        (torch.ones(2), TypeError),
        (None, TypeError),
    ],
)
def test_quote_refuses(value, error):
    with pytest.raises(error, match="quote"):
        quote(x=value)


MARKS = [
    ("a <!-- v x:.1% -->0%<!-- /v --> b", "a <!-- v x:.1% -->50.0%<!-- /v --> b"),
    ("**<!-- v x -->?<!-- /v -->**", "**<!-- v x -->0.5<!-- /v -->**"),
    ("`<!-- v y -->?<!-- /v -->`", "`<!-- v y -->?<!-- /v -->`"),
    (
        "```\n<!-- v y -->?<!-- /v -->\n```\n<!-- v x:.2f -->?<!-- /v -->",
        "```\n<!-- v y -->?<!-- /v -->\n```\n<!-- v x:.2f -->0.50<!-- /v -->",
    ),
    ("<!-- c He2015 -->6.6%<!-- /c -->", "<!-- c He2015 -->6.6%<!-- /c -->"),
]


@pytest.mark.parametrize("before, after", MARKS)
def test_fill_marks(before, after):
    assert fill_marks(before, {"x": 0.5}, "here") == after


def test_the_reader_of_the_book_knows_the_same_marks_and_quotes():
    """The package does not depend on the book, so each has its own."""
    assert reader.QUOTE == record.QUOTE_MIME
    for text in [before for before, _ in MARKS] + [
        "<!-- v 01_a.x:.0f -->3<!-- /v -->",
        "<!-- v -->",
    ]:
        ours = [m for m in re.finditer(MARK, text) if m["letter"] == "v"]
        theirs = list(record._MARK.finditer(text))
        assert [m[0] for m in ours] == [m[0] for m in theirs]
        assert [m["literal"] for m in ours] == [m["literal"] for m in theirs]


def test_unknown_name_is_an_error():
    with pytest.raises(
        LookupError, match="here: the text names 'y', which no stored output quotes$"
    ):
        fill_marks("<!-- v y -->1<!-- /v -->", {"x": 0.5}, "here")
    with pytest.raises(LookupError, match="no stored output quotes; near to it: accuracy$"):
        fill_marks("<!-- v acuracy -->1<!-- /v -->", {"accuracy": 1, "seconds": 2}, "here")


def test_sync_rewrites_and_check_only_reports(tmp_path):
    chapter = notebook(tmp_path / "01_a.ipynb", "It is <!-- v x:.1% -->1%<!-- /v -->.", x=0.5)
    page = tmp_path / "intro.md"
    page.write_text("Chapter 1 reaches <!-- v 01_a.x:.0% -->1%<!-- /v -->.")
    before = chapter.read_text()
    assert len(sync([chapter, page], [chapter], check=True)) == 2
    assert chapter.read_text() == before
    assert len(sync([chapter, page], [chapter])) == 2
    assert "50.0%" in chapter.read_text()
    assert "50%" in page.read_text()
    assert sync([chapter, page], [chapter], check=True) == []


def test_sync_writes_a_notebook_as_nbdev_does(tmp_path):
    chapter = notebook(tmp_path / "01_a.ipynb", ["Größe\n", "<!-- v x:.1% -->1%<!-- /v -->"], x=0.5)
    expected = (
        json.dumps(json.loads(chapter.read_text()), indent=1, ensure_ascii=False, sort_keys=True)
        + "\n"
    )
    sync([chapter], [chapter])
    assert chapter.read_text(encoding="utf-8") == expected.replace("1%<", "50.0%<")


BROKEN = {
    "a conflict": b'{\n<<<<<<< HEAD\n "cells": []}',
    "no cells": b"{}",
    "a list": b"[]",
    "cells that are a number": b'{"cells": 3}',
    "a cell that is a number": b'{"cells": [3]}',
    "a cell without source": b'{"cells": [{"cell_type": "markdown"}]}',
    "another code page": b'{"cells": [], "metadata": "\xe9"}',
    "empty": b"",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_notebook_is_named(tmp_path, monkeypatch, capsys, content):
    whole = notebook(tmp_path / "02_b.ipynb", "")
    path = tmp_path / "nbs" / "01_a.ipynb"
    path.parent.mkdir()
    path.write_bytes(content)
    for call in (
        lambda: stored_quotes(path),
        lambda: sync([path], []),
        lambda: sync([whole], [whole, path]),
        lambda: reader.read(path),
    ):
        with pytest.raises(
            ValueError, match=r"01_a\.ipynb( is not text|: not a notebook .*merge\?)"
        ):
            call()
    monkeypatch.chdir(tmp_path)
    assert main(["sync"]) == 1
    assert re.match(r"nbs.01_a\.ipynb: not a notebook", capsys.readouterr().out)


def test_a_page_that_is_not_text_is_named(tmp_path):
    (tmp_path / "intro.md").write_bytes(b"\xe9")
    with pytest.raises(ValueError, match=r"intro\.md is not text in UTF-8"):
        sync([tmp_path / "intro.md"], [])


def test_a_notebook_is_rewritten_whole_or_not_at_all(tmp_path, monkeypatch):
    chapter = notebook(tmp_path / "01_a.ipynb", "It is <!-- v x -->1<!-- /v -->.", x=0.5)
    before = chapter.read_text()

    def killed(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        sync([chapter], [chapter])
    assert chapter.read_text() == before
    assert list(tmp_path.iterdir()) == [chapter]


@pytest.mark.parametrize("name", [3, None, ["norm.one_epoch"]])
def test_show_run_refuses_what_is_no_name(name):
    with pytest.raises(TypeError, match="show_run expected a name such as 'norm.one_epoch'"):
        show_run(name)


def test_a_damaged_record_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "book" / "runs" / "a.b.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"figures": ')
    with pytest.raises(ValueError, match=r"a\.b\.json: not a notebook or record"):
        show_run("a.b")


def test_a_name_quoted_twice_is_an_error(tmp_path):
    path = notebook(tmp_path / "a.ipynb", "", x=1)
    book = json.loads(path.read_text())
    book["cells"].append(book["cells"][1])
    path.write_text(json.dumps(book))
    with pytest.raises(ValueError, match="quoted twice"):
        stored_quotes(path)


def test_command_line_reports_a_stale_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nbs").mkdir()
    notebook(tmp_path / "nbs" / "01_a.ipynb", "It is <!-- v x:.1% -->1%<!-- /v -->.", x=0.5)
    assert main(["sync", "--check"]) == 1
    assert "make sync" in capsys.readouterr().out
    assert main(["sync"]) == 0
    assert main(["sync", "--check"]) == 0


MODULE = """
from fromfound.record import experiment
from fromfound._helper import helper
FACTOR = 2

def used(x):
    "A docstring."
    return helper(x) * FACTOR

def unused(x):
    return x

@experiment(marks={"up": ">= 1", "down": "<= -5"})
def trial(seed):
    return {"up": used(seed), "down": -used(seed)}
"""
HELPER = "def helper(x):\n    return x + 1\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a package module that holds an experiment, and hashes it."""
    import fromfound
    import fromfound.experiments as room

    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(fromfound, "__path__", [*fromfound.__path__, str(tmp_path)])
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path / "experiments")])
    monkeypatch.setattr(
        record,
        "_provenance",
        lambda data: {"commit": "c", "versions": {"torch": "t"}, "data": {}},
    )
    monkeypatch.chdir(tmp_path)

    def write(source=MODULE, helper=HELPER):
        import importlib
        import sys

        (tmp_path / "experiments" / "_trial.py").write_text(source)
        (tmp_path / "_helper.py").write_text(helper)
        for name in ("fromfound.experiments._trial", "fromfound._helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return code_hash("fromfound.experiments._trial", "trial")

    return write


def test_record_and_show(module, tmp_path):
    module()
    path = record_run("_trial.trial", seeds=3)
    kept = json.loads(path.read_text())
    assert kept["figures"]["up"] == {"mean": 4.0, "sd": 2.0, "per_seed": [2.0, 4.0, 6.0]}
    shown = repr(show_run("_trial.trial"))
    assert "≥ 1: met" in shown
    assert "≤ -5: MISSED" in shown
    assert "changed" not in shown
    module(MODULE.replace("FACTOR = 2", "FACTOR = 3"))
    assert "code has changed" in repr(show_run("_trial.trial"))
    assert show_run("_trial.trial")["up"] == spread([2.0, 4.0, 6.0])


def test_a_run_of_one_seed_has_no_deviation(module, capsys):
    module()
    assert main(["run", "_trial.trial", "--seeds", "1"]) == 0
    path = record._find_run("_trial.trial")
    assert capsys.readouterr().out.strip().endswith(str(path.relative_to(path.parents[2])))
    assert json.loads(path.read_text())["figures"]["up"] == {
        "mean": 2.0,
        "sd": None,
        "per_seed": [2.0],
    }
    shown = repr(show_run("_trial.trial"))
    assert shown.startswith("| value | mean ± standard deviation | target |\n")
    assert (
        "\n| down | -2 (one run) | ≤ -5: MISSED |\n| up | 2 (one run) | ≥ 1: met |\n`python -m"
        in shown
    )


def test_a_run_is_recorded_again_in_its_place(module):
    module()
    first = record_run("_trial.trial", seeds=1)
    assert record_run("_trial.trial", seeds=2) == first
    kept = json.loads(first.read_text())
    assert kept["figures"]["up"]["per_seed"] == [2.0, 4.0]
    assert 0 <= kept["seconds"] < 60


@pytest.mark.skipif(torch.cuda.is_available(), reason="the memory of a GPU is measured")
def test_a_record_holds_the_peak_of_memory(module):
    module()
    peak, now = (
        json.loads(record_run("_trial.trial", seeds=1).read_text())["peak_mb"],
        psutil.Process().memory_info().rss / 2**20,
    )
    assert 0.9 * now < peak < 20 * now


MET = [
    ([1.0], ">= 1", "≥ 1: met"),
    ([0.99], ">= 1", "≥ 1: MISSED"),
    ([-5.0], "<= -5", "≤ -5: met"),
    ([-4.99], "<= -5", "≤ -5: MISSED"),
    ([2e-3], "<= 1e-2", "≤ 1e-2: met"),
    ([7.0], None, "–"),
    ([0.97, 0.99], ">= 0.9", "≥ 0.9: met"),
    ([0.97, 0.99], ">= 0.975", "≥ 0.975: met, by less than its uncertainty"),
    ([0.97, 0.99], ">= 0.985", "≥ 0.985: MISSED, by less than its uncertainty"),
]


@pytest.mark.parametrize("values, target, shown", MET)
def test_targets(values, target, shown):
    assert record._verdict(spread(values), target) == shown


def test_a_spread_is_quoted_and_read_back(tmp_path):
    accuracy = spread([0.97, 0.98, 0.975])
    assert quote(acc=accuracy).values == {"acc": {"mean": 0.975, "sd": 0.005, "n": 3}}
    assert repr(quote(acc=accuracy, n=3)) == "acc = 0.9750 ± 0.0050 (n=3), n = 3"
    text = "<!-- v acc:.1% -->?<!-- /v --> and alone <!-- v acc.mean:.0% -->?<!-- /v -->"
    path = notebook(tmp_path / "01_a.ipynb", "It is " + text, acc=accuracy)
    sync([path], [path])
    filled = "".join(json.loads(path.read_text())["cells"][0]["source"])
    assert "-->97.5% ± 0.5% (n=3)<!--" in filled
    assert "-->98%<!--" in filled or "-->97%<!--" in filled
    assert quote(acc=spread([0.5])).values == {"acc": {"mean": 0.5, "n": 1}}
    path = notebook(
        tmp_path / "02_b.ipynb", "It is <!-- v acc:.1% -->?<!-- /v -->", acc=spread([0.5])
    )
    sync([path], [path])
    assert "50.0% (one run)" in path.read_text()


def test_missing_and_unknown_runs(module):
    module()
    owed = show_run("_trial.trial")
    assert "not recorded yet" in repr(owed)
    with pytest.raises(LookupError, match="not been recorded"):
        owed["up"]
    for name in ("_trial.used", "_trial.nothing", "nowhere.trial", "trial", "_helper.helper"):
        with pytest.raises(LookupError, match=rf"'{name}' is not an experiment.*norm\.one_epoch"):
            record_run(name)


def test_a_missing_library_is_not_taken_for_a_missing_experiment(module):
    module("import pandas_of_ours\n" + MODULE)
    with pytest.raises(ModuleNotFoundError, match="pandas_of_ours"):
        record_run("_trial.trial")


def test_an_experiment_that_is_gone_has_changed(module, tmp_path):
    module()
    record_run("_trial.trial", seeds=1)
    (tmp_path / "experiments" / "_trial.py").write_text("x = 1\n")
    assert "code has changed" in repr(show_run("_trial.trial"))


def test_records_are_found_where_the_package_is_installed(module, tmp_path, monkeypatch):
    module()
    record_run("_trial.trial", seeds=1, folder=tmp_path / "runs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert show_run("_trial.trial")["up"].mean == 2
    record_run("_trial.trial", seeds=2)  # one of the folder comes first
    assert show_run("_trial.trial")["up"].mean == 3


def test_a_proof_is_part_of_the_provenance(module):
    module()
    path = record_run("_trial.trial", seeds=1)
    kept = json.loads(path.read_text())
    kept["proved"] = {"before": "b", "commit": "abc", "how": "is that of b"}
    path.write_text(json.dumps(kept))
    assert repr(show_run("_trial.trial")).endswith(" MiB · the code of commit abc is that of b")


def test_the_commit_says_whether_the_tree_differs_from_it(tmp_path, monkeypatch):
    import subprocess

    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        (tmp_path / "a.txt").write_text("one")
        subprocess.run([*git, *command], check=True)
    commit = record._provenance(())["commit"]
    assert len(commit) == 12
    (tmp_path / "a.txt").write_text("two")
    assert record._provenance(())["commit"] == f"{commit}-dirty"


def test_stand_in_runs_say_so(module):
    module()
    run = Run(
        "_trial.trial",
        {
            "code": code_hash("fromfound.experiments._trial", "trial"),
            "figures": {"up": {"mean": 1, "sd": None, "per_seed": [1]}},
            "marks": {},
            "command": "c",
            "commit": "c",
            "device": "d",
            "versions": {"torch": "t"},
            "seconds": 1,
            "peak_mb": 1,
            "data": {"mnist": "stand-in"},
        },
    )
    assert "stand-in data: mnist" in repr(run)
    assert "have changed" not in repr(run)
    for data, said in (
        ({"mnist": record._checksums("mnist")}, False),
        ({"mnist": record._checksums("mnist") | {"more.gz": "0"}}, True),
        ({"nothing": {"a.gz": "0"}}, True),
    ):
        run.record["data"] = data
        assert ("data have changed" in repr(run)) is said


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record._provenance(())["commit"] == "unknown"


BREAKS_AT_TWO = MODULE.replace(
    "    return {", "    if seed == 2:\n        raise ERROR\n    return {"
)


@pytest.mark.parametrize("error", ["ZeroDivisionError", "KeyboardInterrupt"])
def test_a_run_that_was_stopped_goes_on_after_the_last_whole_seed(module, tmp_path, error):
    module(BREAKS_AT_TWO.replace("ERROR", error))
    with pytest.raises(getattr(builtins, error)):
        record_run("_trial.trial", seeds=4)
    assert not list(tmp_path.glob("book/runs/*.json"))
    partial = tmp_path / "book/runs/partial/_trial.trial.json"
    kept = json.loads(partial.read_text())
    assert [run["values"]["up"] for run in kept["runs"]] == [2.0, 4.0]
    kept["runs"][0]["values"]["up"] = 77.0  # to see that it is not computed again
    partial.write_text(json.dumps(kept))
    with pytest.raises(getattr(builtins, error)):
        record_run("_trial.trial", seeds=4)
    whole = json.loads(record_run("_trial.trial", seeds=2).read_text())
    assert whole["figures"]["up"]["per_seed"] == [77.0, 4.0]
    assert not partial.exists()


@pytest.mark.parametrize("left", ["", "{", "null", "[]", "{}", '{"runs": []}'])
def test_a_damaged_partial_file_is_no_file(module, tmp_path, left):
    module()
    partial = tmp_path / "book/runs/partial/_trial.trial.json"
    partial.parent.mkdir(parents=True)
    partial.write_text(left)
    assert record_run("_trial.trial", seeds=1).is_file()


def test_seeds_of_other_code_are_not_taken_over(module, tmp_path):
    module(BREAKS_AT_TWO.replace("ERROR", "ZeroDivisionError"))
    with pytest.raises(ZeroDivisionError):
        record_run("_trial.trial", seeds=3)
    module(MODULE.replace("FACTOR = 2", "FACTOR = 3"))
    whole = json.loads(record_run("_trial.trial", seeds=2).read_text())
    assert whole["figures"]["up"]["per_seed"] == [3.0, 6.0]


def test_a_run_on_two_machines_says_so(module, tmp_path, monkeypatch):
    module(BREAKS_AT_TWO.replace("ERROR", "ZeroDivisionError"))
    monkeypatch.setattr(record, "_device", lambda: "one")
    with pytest.raises(ZeroDivisionError):
        record_run("_trial.trial", seeds=3)
    partial = tmp_path / "book/runs/partial/_trial.trial.json"
    kept = json.loads(partial.read_text())
    kept["runs"][0]["device"] = "another"
    partial.write_text(json.dumps(kept))
    whole = json.loads(record_run("_trial.trial", seeds=2).read_text())
    assert whole["device"] == "another and one"


SWALLOWS = MODULE.replace(
    "    return {",
    """    import signal
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass  # as Learner.fit does
    return {""",
)


def test_ctrl_c_that_an_experiment_swallows_still_ends_the_run(module, tmp_path):
    module(SWALLOWS)
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        record_run("_trial.trial", seeds=2)
    assert not list(tmp_path.glob("book/**/*.json"))
    assert signal.getsignal(signal.SIGINT) is usual


def test_a_run_in_a_thread_of_its_own(module):
    module()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(record_run, "_trial.trial", 1).result().is_file()


def test_a_folder_that_cannot_be_written_is_found_before_the_first_seed(module, tmp_path):
    module(MODULE.replace("return {", "raise ZeroDivisionError\n    return {"))
    (tmp_path / "book").write_text("a file")
    with pytest.raises(OSError):
        record_run("_trial.trial", seeds=1)


@pytest.mark.parametrize("seeds", [0, -1])
def test_a_run_needs_a_seed(module, seeds):
    module()
    with pytest.raises(ValueError, match="1 or more seeds"):
        record_run("_trial.trial", seeds=seeds)


@pytest.mark.parametrize("stream", [None, object()])
def test_a_run_without_a_console_is_quiet(module, monkeypatch, stream):
    module()
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("sys.stderr", stream)
    assert record_run("_trial.trial", seeds=1).is_file()


def test_a_single_name_in_place_of_a_tuple_is_refused():
    with pytest.raises(TypeError, match=r"data=\('mnist',\)"):
        experiment(data="mnist")


def test_a_malformed_mark_is_refused():
    with pytest.raises(ValueError, match="expected '>= NUMBER'"):
        experiment(marks={"accuracy": "0.9"})


@pytest.mark.parametrize(
    "source, said",
    [
        (MODULE.replace('"up": used(seed)', '"high": used(seed)'), "gave high, down, but not up"),
        (MODULE.replace("used(seed), ", "used(seed) + math.nan, "), "gave nan for up"),
        (MODULE.replace('">= 1"', '">= 1e-5-e"'), "1e-5-e"),
    ],
)
def test_what_cannot_be_recorded_is_found_at_the_first_seed(module, tmp_path, source, said):
    module(source.replace("FACTOR = 2", "FACTOR = 2\nimport math"))
    with pytest.raises(ValueError, match=said):
        record_run("_trial.trial", seeds=3)
    assert not list(tmp_path.glob("book/**/*.json"))


def test_seeds_with_other_values_are_refused(module, tmp_path):
    module(MODULE.replace("    return {", "    if seed:\n        return {'up': 1.0}\n    return {"))
    with pytest.raises(ValueError, match="gave up, but not down"):
        record_run("_trial.trial", seeds=3)
    module(MODULE.replace("-used(seed)}", "-used(seed), str(seed): 1.0}"))
    with pytest.raises(ValueError, match="gave up, down, 1, but not 0"):
        record_run("_trial.trial", seeds=3)


def test_seeds_of_another_torch_are_not_taken_over(module, tmp_path):
    module(BREAKS_AT_TWO.replace("ERROR", "ZeroDivisionError"))
    with pytest.raises(ZeroDivisionError):
        record_run("_trial.trial", seeds=3)
    partial = tmp_path / "book/runs/partial/_trial.trial.json"
    kept = json.loads(partial.read_text())
    kept["runs"][0]["values"]["up"] = 77.0
    kept["versions"] = {"torch": "another"}
    partial.write_text(json.dumps(kept))
    whole = json.loads(record_run("_trial.trial", seeds=1).read_text())
    assert whole["figures"]["up"]["per_seed"] == [2.0]
