"""Official archives: each in its own layout, small, from a server that can misbehave."""

import io
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fromfound import data, files
from fromfound.data import DATASETS, edition, fetch, is_real
from fromfound.files import DataError, RemoteFile
from fromfound.official import CIFAR10_CLASSES, EDITION_FILE, OFFICIAL
from tests.datasets import Server, names, sha256

pytestmark = pytest.mark.usefixtures("no_data")


# --- small archives in the layouts of the official ones -------------------------------------------


def tar(members: dict[str, bytes]) -> bytes:
    """A compressed tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as pack:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            pack.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        for name, content in members.items():
            pack.writestr(name, content)
    return out.getvalue()


def string(content: bytes) -> bytes:
    """A string as Python 2 pickles it."""
    if len(content) < 256:
        return b"U" + bytes([len(content)]) + content
    return b"T" + struct.pack("<i", len(content)) + content


def batch(pixels: bytes, labels: list[int]) -> bytes:
    """A batch of CIFAR-10 as Python 2 pickled it, with numpy's array of that time."""
    count = len(labels)
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + string(b"b")
    array += b"\x87R(K\x01K" + bytes([count]) + b"M" + struct.pack("<H", 3072) + b"\x86"
    array += b"cnumpy\ndtype\n" + string(b"u1") + b"K\0K\x01\x87R(K\x03" + string(b"|")
    array += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89" + string(pixels) + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    said = string(b"batch_label") + string(b"training batch 1 of 5")
    said += string(b"labels") + listed + string(b"data") + array + string(b"filenames") + b"]"
    return b"\x80\x02}(" + said + b"u."


def cifar_pixels(number: int) -> bytes:
    """Four images, red, green and blue after each other."""
    return np.random.default_rng(number).integers(0, 256, 4 * 3072, np.uint8).tobytes()


NAMES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]
CIFAR10 = {name: batch(cifar_pixels(i), [3, 0, 3, 9]) for i, name in enumerate(NAMES)}
CIFAR10 |= {"test_batch": batch(cifar_pixels(5), [1, 1, 0, 2]), "batches.meta": b"x"}
CIFAR10 |= {"readme.html": b"<html>"}


def within(top: str, members: dict[str, bytes]) -> dict[str, bytes]:
    """The same members in a folder."""
    return {f"{top}/{name}": content for name, content in members.items()}


def tree(*paths: str) -> dict[str, bytes]:
    """Members whose content is their own name."""
    return {path: path.encode() for path in paths}


LAYOUTS: dict[str, tuple[Callable, dict[str, bytes], list[str]]] = {
    # the packer, the members, and the files that come out of it
    "cifar10": (
        tar,
        within("cifar-10-batches-py", CIFAR10),
        [
            *(f"test/{name}.png" for name in ("airplane/0000", "automobile/0000")),
            *(f"test/{name}.png" for name in ("automobile/0001", "bird/0000")),
            *(f"train/airplane/{i:04}.png" for i in range(5)),
            *(f"train/cat/{i:04}.png" for i in range(10)),
            *(f"train/truck/{i:04}.png" for i in range(5)),
        ],
    ),
    "imagenette": (
        tar,
        within("imagenette2-160", tree("train/n01440764/a.JPEG", "val/n01440764/b.JPEG", "x.csv")),
        ["train/n01440764/a.JPEG", "val/n01440764/b.JPEG", "x.csv"],
    ),
    "hymenoptera": (
        zipped,
        tree(
            *(f"hymenoptera_data/{p}/{c}/0.jpg" for p in ("train", "val") for c in ("ants", "bees"))
        ),
        [f"{part}/{name}/0.jpg" for part in ("train", "val") for name in ("ants", "bees")],
    ),
    "wikitext2": (
        zipped,
        tree(*(f"wikitext-2/wiki.{part}.tokens" for part in ("train", "valid", "test"))),
        ["test.txt", "train.txt", "valid.txt"],
    ),
    "imdb": (
        tar,
        within(
            "aclImdb",
            tree(
                "README",
                "imdb.vocab",
                *(
                    f"{part}/{kind}/0_9.txt"
                    for part in ("train", "test")
                    for kind in ("pos", "neg")
                ),
                "train/unsup/0_0.txt",
                "train/labeledBow.feat",
            ),
        ),
        [
            "aclImdb/README",
            "aclImdb/imdb.vocab",
            *(f"aclImdb/test/{kind}/0_9.txt" for kind in ("neg", "pos")),
            "aclImdb/train/labeledBow.feat",
            *(f"aclImdb/train/{kind}/0_9.txt" for kind in ("neg", "pos")),
            "aclImdb/train/unsup/0_0.txt",
        ],
    ),
    "human_numbers": (
        tar,
        tree("human_numbers/train.txt", "human_numbers/valid.txt"),
        ["train.txt", "valid.txt"],
    ),
    "audio": (
        tar,
        within("free-spoken-digit-dataset-1.0.9", tree("README.md", "recordings/0_theo_0.wav")),
        ["README.md", "recordings/0_theo_0.wav"],
    ),
}


def offer(
    monkeypatch: pytest.MonkeyPatch, server: Server, name: str, content: bytes, how: str = "good"
) -> RemoteFile:
    """Let the server have an official archive of this content."""
    server.content = content
    known = OFFICIAL[name].files[0].name
    file = RemoteFile(known, len(content), sha256(content), (server.url(how),))
    small = replace(DATASETS[name], official=replace(OFFICIAL[name], files=(file,)))
    monkeypatch.setitem(DATASETS, name, small)
    return file


def found_files(folder: Path) -> list[str]:
    """The files in a folder."""
    return [name for name in names(folder) if (folder / name).is_file()]


def test_all_official_archives_are_tried() -> None:
    assert LAYOUTS.keys() == OFFICIAL.keys()
    assert {n: known.official for n, known in DATASETS.items() if known.official} == OFFICIAL


@pytest.mark.parametrize("name", LAYOUTS)
def test_official_layouts_get_the_layout_that_readers_know(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str, capsys: pytest.CaptureFixture
) -> None:
    pack, members, expected = LAYOUTS[name]
    content = pack(members)
    file = offer(monkeypatch, server, name, content)
    folder = fetch(name)
    assert found_files(folder) == sorted(expected)
    assert is_real(folder)
    assert edition(folder) == f"{file.name} ({sha256(content)[:12]}...): {OFFICIAL[name].note}"
    assert fetch(name) == folder
    assert server.asked == [0], "it is downloaded once"
    assert capsys.readouterr() == ("", "")


def test_members_keep_their_content(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, old, new in (
        ("imagenette", "imagenette2-160/val/n01440764/b.JPEG", "val/n01440764/b.JPEG"),
        ("wikitext2", "wikitext-2/wiki.valid.tokens", "valid.txt"),
        ("imdb", "aclImdb/train/unsup/0_0.txt", "aclImdb/train/unsup/0_0.txt"),
    ):
        pack, members, _ = LAYOUTS[name]
        offer(monkeypatch, server, name, pack(members))
        assert (fetch(name) / new).read_text().endswith(old.partition("/")[2])


def test_images_of_cifar10_lose_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pack, members, _ = LAYOUTS["cifar10"]
    offer(monkeypatch, server, "cifar10", pack(members))
    folder = fetch("cifar10")
    for number in range(5):
        planes = np.frombuffer(cifar_pixels(number), np.uint8).reshape(4, 3, 32, 32)
        cats = [Image.open(folder / f"train/cat/{2 * number + i:04}.png") for i in range(2)]
        for image, plane in zip(cats, planes[[0, 2]], strict=True):
            assert (np.asarray(image).transpose(2, 0, 1) == plane).all()
    assert CIFAR10_CLASSES[0] == "airplane"


def test_the_copy_at_hand_comes_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, members, expected = LAYOUTS["imagenette"]
    offer(monkeypatch, server, "imagenette", pack(members))
    official = fetch("imagenette")
    copy = zipped(tree(*(f"imagenette2-128sq/{name}" for name in expected)))
    ours = RemoteFile("ours.zip", len(copy), sha256(copy))
    known = replace(DATASETS["imagenette"], files=(ours,))
    monkeypatch.setitem(DATASETS, "imagenette", known)
    assert fetch("imagenette") == official, "only the official archive lies there"
    (tmp_path / "mine" / "imagenette").mkdir(parents=True)
    (tmp_path / "mine" / "imagenette" / "ours.zip").write_bytes(copy)
    monkeypatch.setenv("FROMFOUND_DATA", str(tmp_path / "mine"))
    folder = fetch("imagenette")
    assert names(folder) == names(official)
    assert "squashed" in edition(folder)
    assert "squashed" not in edition(official)
    assert (folder / EDITION_FILE).read_text() != (official / EDITION_FILE).read_text()


def test_an_md5_alone_counts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pack, members, expected = LAYOUTS["human_numbers"]
    content = pack(members)
    file = offer(monkeypatch, server, "human_numbers", content)
    for md5, right in ((files.hashlib.md5(content).hexdigest(), True), ("0" * 32, False)):
        known = replace(OFFICIAL["human_numbers"], files=(replace(file, sha256="", md5=md5),))
        monkeypatch.setitem(
            DATASETS, "human_numbers", replace(DATASETS["human_numbers"], official=known)
        )
        if right:
            folder = fetch("human_numbers")
            assert names(folder) == expected
            assert md5[:12] in edition(folder)
            (files.cache_dir() / "human_numbers" / file.name).unlink()
        else:
            with pytest.raises(DataError, match=r"has the md5 .* instead of 0{32}.*none were kept"):
                fetch("human_numbers")


def test_a_file_without_any_checksum_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    assert "instead of" in files.fault(tmp_path / "x", RemoteFile("x", 1, ""))


# --- what can be wrong with them ------------------------------------------------------------------


def nothing_is_left() -> bool:
    """No unpacked folder, whole or half, is there."""
    return not names(files.cache_dir() / "unpacked")


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("damage", ["truncated", "scrambled", "a page"])
def test_damaged_archives(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    pack, members, _ = LAYOUTS[name]
    content = pack(members)
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "scrambled":
        content = content[:12] + bytes(40) + content[52:]
    else:
        content = b"<html>log in first</html>"
    file = offer(monkeypatch, server, name, content)
    with pytest.raises(DataError, match=rf"{file.name}.*(is damaged|the archive has no)"):
        fetch(name)
    assert nothing_is_left()


@pytest.mark.parametrize("name", LAYOUTS)
def test_wrong_checksums(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pack, members, _ = LAYOUTS[name]
    file = offer(monkeypatch, server, name, pack(members))
    server.content = file.bytes * b"0"
    with pytest.raises(DataError, match="has the sha256 .* instead of .*none were kept"):
        fetch(name)
    assert names(files.cache_dir()) == [name], "nothing is kept"


@pytest.mark.parametrize("name", LAYOUTS)
def test_members_outside_the_folder(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pack, members, _ = LAYOUTS[name]
    offer(monkeypatch, server, name, pack(members | {"a/../../../evil": b"gotcha"}))
    with pytest.raises(DataError, match=r"holds 'a/\.\./\.\./\.\./evil', a link or a name"):
        fetch(name)
    assert nothing_is_left()
    assert not [path for path in files.cache_dir().rglob("evil")]


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_members(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pack, members, _ = LAYOUTS[name]
    needed = [path for path in members if path.endswith(("data_batch_4", "test_batch"))]
    for part in OFFICIAL[name].holds:
        needed += [path for path in members if f"/{part}" in f"/{path}"][:1]
    for gone in needed or list(members)[:1]:
        left = {path: content for path, content in members.items() if path != gone}
        file = offer(monkeypatch, server, name, pack(left))
        with pytest.raises(DataError, match=f"{file.name}: .*(has no|missing).*delete it"):
            fetch(name)
        assert nothing_is_left()
        (files.cache_dir() / name / file.name).unlink()


@pytest.mark.parametrize("name", [name for name in LAYOUTS if OFFICIAL[name].top])
def test_another_top_folder(server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pack, members, _ = LAYOUTS[name]
    offer(monkeypatch, server, name, pack(within("other", members)))
    with pytest.raises(DataError, match=f"the archive has no folder {OFFICIAL[name].top}"):
        fetch(name)
    assert nothing_is_left()


@pytest.mark.parametrize("how", ["breaks", "norange-breaks"])
def test_a_download_that_breaks_off_is_resumed(
    server: Server, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pixels = np.random.default_rng(0).bytes(300_000)
    members = tree("human_numbers/train.txt", "human_numbers/valid.txt")
    content = tar(members | {"human_numbers/long": pixels})
    offer(monkeypatch, server, "human_numbers", content, how)
    if how == "norange-breaks":
        assert "broke off" in data._download_all(DATASETS["human_numbers"])
        monkeypatch.setattr(data, "_given_up", {})  # as in another process, later
        offer(monkeypatch, server, "human_numbers", content)
    folder = fetch("human_numbers")
    assert (folder / "long").read_bytes() == pixels
    assert server.asked[-1] > 0
    assert names(files.cache_dir() / "human_numbers") == ["human_numbers.tgz"]


class Trap:
    """Runs when it is unpickled."""

    ran: list[str] = []

    def __reduce__(self) -> tuple:
        return Trap.ran.append, ("gotcha",)


def call(module: str, name: str) -> bytes:
    """A pickle that calls a function with a string."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + string(b"touch /tmp/gotcha") + b"\x85R."


HOSTILE = [
    call("os", "system"),
    call("posix", "system"),
    call("builtins", "eval"),
    call("__builtin__", "eval"),
    call("numpy", "load"),
    call("numpy.core.multiarray", "fromstring"),
    call("numpy", "ndarray.tofile"),
    call("tests.test_official", "Trap"),
    pickle.dumps({b"data": Trap(), b"labels": []}),
    pickle.dumps(np.array([Trap()], dtype=object)),
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_pickles_do_not_run(
    server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    members = within("cifar-10-batches-py", CIFAR10 | {"data_batch_2": content})
    offer(monkeypatch, server, "cifar10", tar(members))
    with pytest.raises(
        DataError, match=r"data_batch_2 of CIFAR-10 .*refused, nothing of it was run"
    ):
        fetch("cifar10")
    assert Trap.ran == []
    assert nothing_is_left()


GOOD = CIFAR10["data_batch_3"]
CORRUPT = {
    "empty": b"",
    "cut short": GOOD[:5000],
    "no pickle": b"<html>",
    "a pixel less": batch(cifar_pixels(0)[:-1], [1, 2, 3, 4]),
    "an image less": batch(cifar_pixels(0)[3072:], [1, 2, 3, 4]),
    "a label less": batch(cifar_pixels(0), [1, 2, 3]),
    "eleven classes": batch(cifar_pixels(0), [1, 2, 3, 10]),
    "another thing": pickle.dumps([1, 2, 3]),
    "no labels": pickle.dumps({b"data": np.zeros((1, 3072), np.uint8)}),
    "text for pixels": pickle.dumps({b"data": "pixels", b"labels": [1]}),
    "lists for labels": pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [[1]]}),
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
def test_corrupt_batches(server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    members = within("cifar-10-batches-py", CIFAR10 | {"data_batch_3": content})
    file = offer(monkeypatch, server, "cifar10", tar(members))
    with pytest.raises(
        DataError, match=rf"{file.name}: data_batch_3 of CIFAR-10 is missing or damaged .*delete"
    ):
        fetch("cifar10")
    assert nothing_is_left()


def test_batches_that_numpy_2_pickled_are_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.frombuffer(cifar_pixels(0), np.uint8).reshape(4, 3072)
    content = pickle.dumps({b"data": pixels, b"labels": [3, 0, 3, 9]}, protocol=3)
    members = within("cifar-10-batches-py", CIFAR10 | {"data_batch_1": content})
    offer(monkeypatch, server, "cifar10", tar(members))
    image = Image.open(fetch("cifar10") / "train/cat/0000.png")
    assert np.asarray(image).transpose(2, 0, 1).tobytes() == cifar_pixels(0)[:3072]


def test_text_alone_in_an_xz_file_has_an_edition_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = lzma.compress(b"text")
    known = (RemoteFile("train.txt.xz", len(content), sha256(content)),)
    monkeypatch.setitem(DATASETS, "openstax", replace(DATASETS["openstax"], files=known))
    (tmp_path / "openstax").mkdir()
    (tmp_path / "openstax" / "train.txt.xz").write_bytes(content)
    monkeypatch.setenv("FROMFOUND_DATA", str(tmp_path))
    folder = fetch("openstax")
    assert (folder / "train.txt").read_text() == "text"
    assert "made for this book" in edition(folder)
