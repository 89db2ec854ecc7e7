"""What is registered: terms, addresses, checksums."""

import re
from pathlib import Path

from book.reader.papers import bibliography
from fromfound.registry import DATASETS
from tests.datasets import REAL, needs_real

ROOT = Path(__file__).resolve().parents[1]


def test_registry() -> None:
    cited = bibliography(ROOT)
    for name, known in DATASETS.items():
        assert name == known.name
        assert known.files
        assert known.license
        assert known.homepage.startswith("http")
        assert known.citation is None or known.citation in cited
        assert known.note or all(file.urls for file in known.files), (
            f"{name} has no download and no word about it"
        )
        for file in (file for one in known.editions for file in one.files):
            assert re.fullmatch("[0-9a-f]{64}", file.sha256) or (
                file.sha256 == "" and re.fullmatch("[0-9a-f]{32}", file.md5)
            )
            assert file.bytes > 0
            assert all(
                url.startswith("http") and url.endswith(f"/{file.name}") for url in file.urls
            )


@needs_real
def test_registered_files_are_those_of_the_manifest() -> None:
    """The folder may hold more: a set is registered together with the chapter that uses it."""
    listed = {
        f"{known.name}/{file.name}": file for known in DATASETS.values() for file in known.files
    }
    lines = (REAL / "SHA256SUMS").read_text().splitlines()
    sums = {name: sha for sha, name in (line.split() for line in lines)}
    assert {name: file.sha256 for name, file in listed.items()} == {
        name: sums[name] for name in listed
    }
    assert all((REAL / name).stat().st_size == file.bytes for name, file in listed.items())
