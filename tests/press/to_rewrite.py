"""What chapters still break until they are rewritten: lists that may only shrink.

A word is the code of a linter (`E501`, `DOC103`) or the name of a limit (`minutes`). A chapter may
break what its line says; a word that it no longer breaks is itself a finding.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from book.reader.notebooks import Finding, notebooks
from tests.press.chapters import name_of

STILL: dict[str, str] = {}
LONG_MODULES = {  # formatted lines of modules over the limit: no longer than this
    "augment": 583,
    "check": 550,
    "data_block": 781,
    "dataloader": 428,
    "distributed": 436,
    "exercises.data_block": 387,
    "exercises.dataloader": 372,
    "exercises.hooks": 258,
    "exercises.matmul": 265,
    "exercises.module": 343,
    "exercises.norm": 274,
    "exercises.optim": 347,
    "exercises.schedule": 259,
    "exercises.training": 286,
    "files": 313,
    "hooks": 431,
    "init": 314,
    "learner": 515,
    "module": 460,
    "norm": 312,
    "optim": 488,
    "record": 404,
    "schedule": 350,
    "transfer": 311,
}


def chapter_of(file: str) -> str:
    """Return the name of the chapter that a notebook file is, as `exercises/05_learner`."""
    return name_of(Path(file), Path("nbs"))


def unlisted(root: Path, words: str, broken: Iterable[tuple[str, str, Finding]]) -> list[Finding]:
    """Return the findings that STILL does not allow, and one for each line that is out of date.

    Args:
        root: of the repository.
        words: the words that the caller answers for, as a regular expression.
        broken: chapter, word and finding.
    """
    broken = list(broken)
    found = [f for chapter, word, f in broken if word not in STILL.get(chapter, "").split()]
    breaks = {(chapter, word) for chapter, word, _ in broken}
    for chapter in (chapter_of(notebook.file) for notebook in notebooks(root)):
        idle = [
            word
            for word in STILL.get(chapter, "").split()
            if re.fullmatch(words, word) and (chapter, word) not in breaks
        ]
        if idle:
            found.append(
                Finding(
                    "tests/press/to_rewrite.py",
                    None,
                    f"{chapter} no longer breaks {', '.join(idle)}",
                    "take that out of its line in STILL",
                )
            )
    return found
