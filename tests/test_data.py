"""Where data comes from, what is done where it is missing, and how it is read."""

import gzip
import hashlib
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from fromfound import data, files, record
from fromfound.data import (
    DATASETS,
    WRITERS,
    at_hand,
    edition,
    fetch,
    is_real,
    load_mnist,
    read_images,
    stand_in,
)
from fromfound.files import DataError, RemoteFile
from fromfound.standin import RECIPES, draw
from tests.datasets import CONTENT, OTHER, REAL, Server, names, needs_real, register, sha256

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("no_data")


# --- the order of places --------------------------------------------------------------------------


def test_fetch_downloads_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    register(monkeypatch, server.file("good"))
    folder = fetch("toy")
    assert (folder / "numbers.bin").read_bytes() == CONTENT
    assert is_real(folder)
    assert fetch("toy") == folder == files.cache_dir() / "toy"
    assert server.asked == [0]
    assert capsys.readouterr() == ("", "")


def test_own_folder_comes_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, server.file("good"), server.file("good", name="more.bin"))
    cached = fetch("toy")
    own = tmp_path / "mine" / "toy"
    own.mkdir(parents=True)
    monkeypatch.setenv("FROMFOUND_DATA", str(own.parent))
    (own / "numbers.bin").write_bytes(CONTENT)
    assert fetch("toy") == cached, "an incomplete folder is passed over"
    (own / "more.bin").write_bytes(CONTENT)
    assert fetch("toy") == own
    assert server.asked == [0, 0]


def test_files_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, RemoteFile("numbers.bin", len(CONTENT), sha256(CONTENT)))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "numbers.bin").write_bytes(CONTENT)
    monkeypatch.setenv("FROMFOUND_DATA", str(tmp_path))
    digest, taken = hashlib.file_digest, []
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: taken.append(args) or digest(*args))
    fetch("toy"), fetch("toy")
    assert len(taken) == 1
    (tmp_path / "toy" / "numbers.bin").write_bytes(OTHER)
    with pytest.raises(
        DataError, match=r"numbers\.bin has the sha256 .* instead of .*replace or delete it"
    ):
        fetch("toy")
    (tmp_path / "toy" / "numbers.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=r"numbers\.bin has 255,999 bytes instead of 256,000"):
        fetch("toy")


def test_failure_is_remembered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, server.file("missing"))
    register(monkeypatch, server.file("good"), name="toy2")
    for says in (
        r"toy is not available: .*404.*FROMFOUND_DATA name a folder that holds toy/numbers\.bin",
        "restart Python to try again",
    ):
        with pytest.raises(DataError, match=says):
            fetch("toy")
    assert server.asked == [0]
    assert fetch("toy2").is_dir(), "one dead link says nothing about other sets"


def test_offline_is_remembered_for_all(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, RemoteFile("numbers.bin", 1, "", ("http://nowhere.invalid/numbers.bin",)))
    register(monkeypatch, server.file("good"), name="toy2")
    for name in ("toy", "toy2"):
        with pytest.raises(DataError, match="nowhere.invalid"):
            fetch(name)
    assert server.asked == []


@pytest.mark.parametrize("name", sorted(set(DATASETS) - set(RECIPES) - set(WRITERS)))
def test_no_stand_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    why = (
        ".*a test asked for"
        if any(all(file.urls for file in one.files) for one in DATASETS[name].editions)
        else rf"no server .*\({re.escape(DATASETS[name].note)}\)"
    )
    with pytest.raises(
        DataError,
        match=(
            rf"{name} is not available: ({why}).*"
            rf"Let FROMFOUND_DATA name a folder that holds {name}/"
        ),
    ):
        fetch(name)
    monkeypatch.setenv("FROMFOUND_DATA", "standin")
    with pytest.raises(DataError, match=f"{name} has no stand-in .*FROMFOUND_DATA"):
        fetch(name)


@pytest.mark.parametrize(
    "call, given, expected",
    [(fetch, "mnits", DATASETS), (load_mnist, "cifar10", ("mnist", "fashion_mnist"))],
)
def test_unknown_name_lists_the_known(call, given: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"expected one of {', '.join(expected)}; got '{given}'"):
        call(given)


def test_a_folder_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROMFOUND_DATA", "/no/such/folder")
    with pytest.raises(
        DataError, match="FROMFOUND_DATA names /no/such/folder, which is not a folder"
    ):
        fetch("mnist")


# --- a cache that is no folder --------------------------------------------------------------------


def test_cache_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot write to .*XDG_CACHE_HOME"):
        stand_in("mnist")


# --- idx files ------------------------------------------------------------------------------------

IDX = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5, 1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    "content, says",
    [
        (gzip.compress(IDX)[:-10], "is missing or damaged"),
        (IDX, "is missing or damaged"),
        (b"", "is not an idx file|is missing or damaged"),
        (gzip.compress(b"<html>"), "is not an idx file of bytes: it starts with b'<htm'"),
        (gzip.compress(IDX[:6]), "is missing or damaged"),
        (gzip.compress(IDX[:-1]), "holds 4 bytes, its header says 5"),
        (gzip.compress(IDX + b"6"), "holds 6 bytes, its header says 5"),
    ],
    ids=[
        "cut short",
        "not compressed",
        "empty",
        "a web page",
        "header alone",
        "a byte less",
        "a byte more",
    ],
)
def test_damaged_idx(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"train-images-idx3-ubyte\.gz ({says})"):
        read_images(tmp_path)


IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7, 8])  # two of 1 by 1
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 2, 4, 5])


def write_four(folder: Path, images: bytes = IMAGES, labels: bytes = LABELS) -> None:
    """Write a small dataset, in which only the test part may be wrong."""
    parts = {"train-images-idx3": IMAGES, "train-labels-idx1": LABELS}
    parts |= {"t10k-images-idx3": images, "t10k-labels-idx1": labels}
    for name, content in parts.items():
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(content))


@pytest.mark.parametrize(
    "images, labels, says",
    [
        (IMAGES, bytes([0, 0, 8, 1, 0, 0, 0, 1, 4]), "t10k-images has 2, t10k-labels has 1"),
        (LABELS, LABELS, r"t10k-images-idx3-ubyte\.gz is not .*x01', expected 0, 0, 8, 3"),
        (IMAGES, IMAGES, r"t10k-labels-idx1-ubyte\.gz is not .*x03', expected 0, 0, 8, 1"),
        (IMAGES[:3], LABELS, r"t10k-images-idx3-ubyte\.gz is not an idx file"),
        (bytes([0, 0, 8, 65]) + bytes(260), LABELS, r"ubyte\.gz is not an idx file"),
        (bytes([0, 0, 8, 255]) + bytes(1020), LABELS, r"ubyte\.gz is not an idx file"),
    ],
)
def test_images_and_labels_that_are_something_else(
    tmp_path: Path, images: bytes, labels: bytes, says: str
) -> None:
    write_four(tmp_path, images, labels)
    with pytest.raises(DataError, match=says):
        read_images(tmp_path)


def test_images_are_read_from_a_folder_named_by_a_string(tmp_path: Path) -> None:
    write_four(tmp_path)
    small = read_images(str(tmp_path))
    assert small.x_test.flatten().tolist() == pytest.approx([7 / 255, 8 / 255])
    assert small.y_test.tolist() == [4, 5]
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is missing"):
        read_images(tmp_path)


@pytest.mark.parametrize("name", ["nope", ["mnist"], None])
def test_names_that_are_none_are_refused(tmp_path: Path, name: object) -> None:
    write_four(tmp_path)
    for call in (fetch, load_mnist, lambda name: read_images(tmp_path, name)):
        with pytest.raises(ValueError, match="expected one of .*mnist, .*; got"):
            call(name)
    with pytest.raises(DataError, match="has no stand-in"):
        stand_in(name)


def test_a_folder_that_is_not_there_is_not_real(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is_real expected the folder .*nowhere"):
        is_real(tmp_path / "nowhere")


# --- editions -------------------------------------------------------------------------------------


def test_a_folder_says_which_edition_it_holds(server: Server, tmp_path: Path, monkeypatch) -> None:
    register(monkeypatch, server.file("good"))
    assert at_hand("toy") is None
    folder = fetch("toy")
    assert edition(folder) == edition(str(folder)) == f"numbers.bin ({sha256(CONTENT)[:12]}...)"
    assert at_hand("toy") == (DATASETS["toy"].editions[0], folder)
    for other in (tmp_path, tmp_path / "toy", "nowhere"):
        with pytest.raises(DataError, match="edition expected a folder from fetch, got .*fetch it"):
            edition(other)


def test_a_record_may_come_from_any_edition() -> None:
    assert record._checksums("imdb") == DATASETS["imdb"].editions[0].checksums
    both = [one.checksums for one in DATASETS["imdb"].editions]
    assert both[0].keys() != both[1].keys()


# --- real data ------------------------------------------------------------------------------------


@needs_real
@pytest.mark.parametrize(
    "name, inside",
    [
        ("mnist", "t10k-labels-idx1-ubyte.gz"),
        ("eng_fra", "fra.txt"),
        ("wikitext2", "valid.txt"),
        ("openstax", "train.txt"),
        ("hymenoptera", "train/ants"),
        ("imagenette", "val/n01440764"),
        ("audio", "recordings"),
        ("photos", "cat1.jpg"),
        ("nietzsche", "nietzsche.txt"),
        ("human_numbers", "train.txt"),
    ],
)
def test_real_sets(name: str, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROMFOUND_DATA", str(REAL))
    folder = fetch(name)
    assert (folder / inside).exists()
    assert is_real(folder)
    assert DATASETS[name].note in edition(folder)


# --- synthetic stand-ins --------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins of a few pictures."""
    monkeypatch.setattr(data, "draw", lambda name: draw(name, (300, 100)))


def test_stand_in_announces_itself(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for says in ("a test asked for", "restart Python"):
        folder = fetch("mnist")
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(
            rf"fromfound: the real mnist is not available: .*({says}).*STAND-IN.*\n", err
        )
    assert not is_real(folder)
    assert [path.name for path in files.cache_dir().iterdir()] == ["standin"]
    monkeypatch.setenv("FROMFOUND_DATA", "standin")
    assert fetch("mnist") == folder
    assert capsys.readouterr() == ("", "")


def test_stand_in_gives_way_to_the_real_set(
    small: None, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = stand_in("mnist")
    register(monkeypatch, server.file("good"), name="mnist")
    assert fetch("mnist") != pretend
    assert is_real(fetch("mnist"))


def test_a_stand_in_with_a_file_gone_is_drawn_again(small: None) -> None:
    folder = stand_in("mnist")
    before, made = names(folder), folder.stat().st_ino
    assert stand_in("mnist").stat().st_ino == made, "a whole one is left alone"
    for spoil in (Path.unlink, lambda path: path.write_bytes(b"half")):
        spoil(folder / "t10k-labels-idx1-ubyte.gz")
        assert stand_in("mnist") == folder
        assert names(folder) == before
        assert len(read_images(folder).y_test) == 100


def test_an_unpacked_archive_with_a_file_gone_is_unpacked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy").mkdir()
    archive = tmp_path / "toy" / "two.zip"
    with zipfile.ZipFile(archive, "w") as pack:
        pack.writestr("a/one.txt", "one")
        pack.writestr("a/two.txt", "two")
    content = archive.read_bytes()
    register(monkeypatch, RemoteFile("two.zip", len(content), sha256(content)))
    monkeypatch.setenv("FROMFOUND_DATA", str(tmp_path))
    folder = fetch("toy")
    made = folder.stat().st_ino
    (folder / ".DS_Store").touch()
    assert fetch("toy").stat().st_ino == made, "what a file browser adds is no damage"
    for spoil in (
        (folder / "a" / "two.txt").unlink,
        lambda: (folder / "a" / "two.txt").write_text("tw"),
        lambda: shutil.rmtree(folder / "a"),
        folder.with_name(f"{folder.name}.json").unlink,  # as of an earlier version
        lambda: folder.with_name(f"{folder.name}.json").write_text("{"),
    ):
        spoil()
        assert fetch("toy") == folder
        assert names(folder) == ["a", "a/one.txt", "a/two.txt"]
        assert (folder / "a" / "two.txt").read_text() == "two"


def test_half_drawn_stand_in_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stand_in("mnist")
    assert names(files.cache_dir() / "standin") == []
