"""The fingerprint of code: what could change a result changes it, and nothing else does."""

import sys
from pathlib import Path

import pytest

import fromfound
from fromfound.codehash import LEFT_OUT, _Walk, code_hash

MODULE = """
from __future__ import annotations
import math
from typing import TYPE_CHECKING
import torch.nn.functional as F
from torch import nn
from .helpers import helper
if TYPE_CHECKING:
    from .types import Kind
FACTOR = 2

def used(x: int) -> int:
    "A docstring."
    if x < 0:
        raise ValueError(f"x is {x}, which is negative")
    return helper(x) * FACTOR

def unused(x):
    return x

def trial(seed):
    return {"up": used(seed), "relu": F.relu(seed), "e": math.exp(1)}
"""
HELPERS = '''
OFFSET = 1

def helper(x):
    """Adds."""
    return x + OFFSET
'''
FILES = {"first": MODULE, "helpers": HELPERS}


@pytest.fixture
def hashed(tmp_path: Path):
    """Writes the modules of a package and hashes a definition of the first."""

    def write(name: str = "trial", module: str = "first", **files: str) -> str:
        for path in tmp_path.rglob("*.py"):
            path.unlink()
        for stem, source in (FILES | files).items():
            path = tmp_path / f"{stem.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        return code_hash(f"fromfound.{module}", name, [tmp_path])

    return write


def change(old: str, new: str, file: str = "first") -> dict[str, str]:
    assert FILES[file].count(old) >= 1, old
    return {file: FILES[file].replace(old, new)}


IGNORED = {
    "docstring": change("A docstring", "Another one"),
    "docstring gone": change('    "A docstring."\n', ""),
    "comment": change("FACTOR = 2", "FACTOR = 2  # why"),
    "layout": change("helper(x) * FACTOR", "(\n        helper(x)\n        * FACTOR\n    )"),
    "annotations": change("(x: int) -> int", "(x: 'Kind') -> float | None"),
    "annotated constant": change("FACTOR = 2", "FACTOR: int = 2"),
    "annotation alone": change("FACTOR = 2", "OTHER: int\nFACTOR = 2"),
    "name for type checkers": change("import Kind", "import Other, Kind"),
    "words of an error": change("which is negative", "below zero"),
    "another function": change("return x\n", "return 2 * x\n"),
    "name of a function": change("used", "doubled"),
    "name of a constant": change("OFFSET", "SHIFT", "helpers"),
    "order of definitions": {
        "first": MODULE.replace("FACTOR = 2\n", "").replace("\ndef trial", "FACTOR = 2\ndef trial")
    },
    "way of importing": change("F.relu", "nn.functional.relu"),
    "name of another library": {
        "first": MODULE.replace("import math", "import math as m").replace("math.exp", "m.exp")
    },
    "absolute import": change("from .helpers", "from fromfound.helpers"),
    "import in the function": {
        "first": MODULE.replace("from .helpers import helper\n", "").replace(
            "    if x < 0", "    from .helpers import helper\n    if x < 0"
        )
    },
    "command line": {"first": MODULE + 'if __name__ == "__main__":\n    FACTOR = 3\n'},
    "a local variable of that name": {
        "first": MODULE.replace("return x\n", "helper = x\n    return helper\n")
    },
}
SEEN = {
    "constant": change("FACTOR = 2", "FACTOR = 3"),
    "constant of a tuple": change("FACTOR = 2", "FACTOR, OTHER = 3, 2"),
    "constant under an if": change("FACTOR = 2", "if True:\n    FACTOR = 3"),
    "constant that grows": change("FACTOR = 2", "FACTOR = 2\nFACTOR += 1"),
    "constant of a loop": change("FACTOR = 2", "for FACTOR in (2, 3):\n    pass"),
    "constant with a try": change("FACTOR = 2", "try:\n    FACTOR = 3\nexcept E:\n    FACTOR = 2"),
    "not for type checkers": change(
        "FACTOR = 2", "if TYPE_CHECKING:\n    pass\nelse:\n    FACTOR = 3"
    ),
    "called function": change("* FACTOR", "+ FACTOR"),
    "condition of an error": change("x < 0", "x < 1"),
    "kind of error": change("ValueError", "TypeError"),
    "default": change("def used(x: int)", "def used(x: int = 1)"),
    "decorator": change("def used", "@cache\ndef used"),
    "another module": change("x + OFFSET", "x - OFFSET", "helpers"),
    "constant of another module": change("OFFSET = 1", "OFFSET = 2", "helpers"),
    "function of another library": change("F.relu", "F.gelu"),
    "origin in another library": change("import torch.nn.functional as F", "import jax.nn as F"),
    "change of what is imported": change("FACTOR = 2", "FACTOR = 2\nhelper.calls = 0"),
    "another fallback": change("FACTOR = 2", "FACTOR = 2\ntry: g()\nexcept E: helper = 1"),
    "key of a result": change('"up"', '"down"'),
}


@pytest.mark.parametrize("files", IGNORED.values(), ids=IGNORED)
def test_what_cannot_change_a_result_is_ignored(hashed, files):
    assert hashed() == hashed(**files)


@pytest.mark.parametrize("files", SEEN.values(), ids=SEEN)
def test_what_could_change_a_result_is_seen(hashed, files):
    assert hashed() != hashed(**files)


BEFORE, AFTER = "x = 1\n", "x = 2\n"
REACHED = {
    "import of a module": "import fromfound.other as d\ndef trial(): return d.x",
    "module of the package": "from fromfound import other\ndef trial(): return other.x",
    "dotted": "import fromfound.other\ndef trial(): return fromfound.other.x",
    "relative module": "from . import other\ndef trial(): return other.x",
    "module as a value": "from . import other\ndef trial(): return vars(other)",
    "import in the function": "def trial():\n    from .other import x as y\n    return y",
    "module in the function": "def trial():\n    import fromfound.other as o\n    return o.x",
    "passed on": "from .between import x\ndef trial(): return x",
    "passed on as a module": "from . import between\ndef trial(): return between.x",
    "from a subpackage": "from .room.inner import y\ndef trial(): return y",
    "default of an argument": "from .other import x\ndef trial(x=x): return x",
    "decorator": "from .other import x\n@x\ndef trial(): return 1",
    "base class": "from .other import x\nclass trial(x): pass",
    "class attribute": "from .other import x\nclass trial:\n    y = x",
    "method beside an attribute": (
        "from .other import x\nclass trial:\n    x = 1\n    def f(self): return x"
    ),
    "inner function": "from .other import x\ndef trial():\n    def f(): return x\n    return f",
    "lambda": "from .other import x\ntrial = lambda y: x + y",
    "comprehension": "from .other import x\ndef trial(): return [x for y in z]",
    "source of a comprehension": "from .other import x\ndef trial(): return [x.y for x in x]",
    "not for type checkers": (
        "from .other import x\nif TYPE_CHECKING:\n    F = 1\nelse:\n    F = x\n"
        "def trial(): return F"
    ),
    "beside a comprehension": "from .other import x\ndef trial(): return [x for x in z] + [x(1)]",
    "beside a lambda": "from .other import x\ndef trial(): return (lambda x: x)(x)",
    "global": "from .other import x\ndef trial():\n    global x\n    x += 1\n    return x",
    "message's condition": "from .other import x\ndef trial(): assert x, 'no'",
    "changed by a call": "from .other import x\nD = {}\nD.update(a=x)\ndef trial(): return D",
    "changed by an argument": "from .other import x\nD = {}\nx(D)\ndef trial(): return D",
    "imported and changed": "from .other import x\nx[0] = 1\ndef trial(): return x",
    "imported or replaced": (
        "try:\n    from .other import x\nexcept ImportError:\n    x = None\ndef trial(): return x"
    ),
    "changed at an index": "from .other import x\nD = {}\nD['a'] = x\ndef trial(): return D",
    "changed attribute": "from .other import x\nclass C: pass\nC.a = x\ndef trial(): return C",
}


@pytest.mark.parametrize("source", REACHED.values(), ids=REACHED)
def test_names_are_followed(hashed, source):
    others = {"between": "from .other import x\n", "room__inner": "from ..other import x as y\n"}
    one, two = (hashed(first=source, other=other, **others) for other in (BEFORE, AFTER))
    assert one != two


LOCAL = {
    "argument": "from .other import x\ndef trial(x): return x",
    "local variable": "from .other import x\ndef trial():\n    x = 3\n    return x",
    "loop variable": "from .other import x\ndef trial():\n    for x in (1, 2): pass\n    return x",
    "with": "from .other import x\ndef trial():\n    with f() as x: return x",
    "except": "from .other import x\ndef trial():\n    try: f()\n    except E as x: return x",
    "comprehension": "from .other import x\ndef trial(): return {x: x for x in z}",
    "lambda": "from .other import x\ntrial = lambda x: x",
    "annotation": "from .other import x\ndef trial(y: x) -> x: return y",
    "attribute": "from .other import x\ndef trial(y): return y.x",
    "class attribute": "from .other import x\nclass trial:\n    x = 1\n    y = x",
}


@pytest.mark.parametrize("source", LOCAL.values(), ids=LOCAL)
def test_local_names_are_not_followed(hashed, source):
    one, two = (hashed(first=source, other=other) for other in (BEFORE, AFTER))
    assert one == two


def test_a_definition_may_move_to_another_module(hashed):
    moved = MODULE.replace("from .helpers import helper\n", HELPERS)
    assert hashed() == hashed(first=moved, helpers="")


def test_names_must_fit_together(hashed):
    two = "def f(): return 1\ndef g(): return 2\ndef trial(): return f() - g()"
    assert hashed(first=two) == hashed(first=two.replace("f(", "h("))
    assert hashed(first=two) != hashed(first=two.replace("f() - g()", "g() - f()"))


CLASS = "class trial:\n    kind: int = 1\n    size: int\n    def f(self): return 1\n"


def test_annotations_of_a_class_count_where_they_make_fields(hashed):
    other = CLASS.replace("size: int", "size: float")
    fewer = CLASS.replace("    size: int\n", "")
    assert hashed(first=CLASS) == hashed(first=other) == hashed(first=fewer)
    plain, other, fewer = ("@dataclass\n" + source for source in (CLASS, other, fewer))
    assert hashed(first=plain) == hashed(first=other) != hashed(first=fewer)
    fixed = plain.replace("size: int", "size: ClassVar[int]")
    assert hashed(first=plain) != hashed(first=fixed)


def test_annotations_in_a_method_do_not_count(hashed):
    source = "@dataclass\nclass trial:\n    def f(self):\n        y = 1\n        return y"
    typed = source.replace("y = 1", "z: int\n        y: int = 1")
    assert hashed(first=source) == hashed(first=typed)


def test_a_package_passes_a_name_on(hashed, tmp_path):
    found = []
    for other in (BEFORE, AFTER):
        hashed(first="from .room import y\ndef trial(): return y", room__inner=other)
        (tmp_path / "room" / "__init__.py").write_text("from .inner import x as y\n")
        found.append(code_hash("fromfound.first", "trial", [tmp_path]))
    assert found[0] != found[1]


def test_methods_keep_their_names(hashed):
    assert hashed(first=CLASS) != hashed(first=CLASS.replace("def f", "def g"))


def test_the_decorator_of_experiments_does_not_count(hashed):
    plain = (
        "from .record import experiment\n@experiment(marks={'a': '>= 1'})\ndef trial(): return 1"
    )
    assert hashed(first=plain) == hashed(first=plain.replace(">= 1", ">= 2"))
    assert hashed(first=plain) == hashed(first="def trial(): return 1")


DATA = """
from .files import download
DATASETS = {"mnist": 1}
CLASSES = {"mnist": 10}
def fetch(name): return download(DATASETS[name])
def load(name): return read(fetch(name)), CLASSES[name]
def read(x): return x
"""


@pytest.mark.parametrize(
    "old, new, same",
    [
        ('{"mnist": 1}', '{"mnist": 1, "audio": 2}', True),
        ('{"mnist": 10}', '{"mnist": 10, "audio": 2}', True),
        ("download(DATASETS", "download(2, DATASETS", True),
        ("return x", "return x + 1", False),
    ],
)
def test_what_finds_the_data_does_not_count(hashed, old, new, same):
    files = {"first": "from .data import load\ndef trial(): return load('mnist')", "data": DATA}
    changed = files | {"data": DATA.replace(old, new)}
    assert (hashed(**files) == hashed(**changed)) is same


def test_what_is_left_out_exists():
    for name in LEFT_OUT:
        walk = _Walk([Path(folder) for folder in fromfound.__path__])
        module, part, rest = walk.split(name)
        assert module is not None, name
        assert part in module.statements, name
        assert rest == [], name


def test_all_pythons_give_one_fingerprint(hashed):
    """The same text on 3.11 to 3.14, though their trees differ in detail."""
    source = (
        "def trial(x, *y, z=1, **w):\n"
        "    return f\"{x!r:>{z}} {w['a']}\" + 'a\\n' + str(None) + str({**w, 'b': [y, *y][::2]})"
    )
    assert hashed(first=source) == "5bbac5d0be46618c", sys.version


def test_a_missing_definition_is_an_error(hashed):
    with pytest.raises(LookupError, match=r"no definition of 'nothing' in fromfound\.first"):
        hashed("nothing")
    with pytest.raises(LookupError, match=r"in fromfound\.nowhere"):
        hashed(module="nowhere")
