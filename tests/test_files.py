"""Interrupted downloads, full disks, hostile archives."""

import errno
import gzip
import io
import lzma
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch
import tqdm

from fromfound import data, files
from fromfound.data import fetch
from fromfound.files import (
    DataError,
    RemoteFile,
    UnavailableError,
    UnreachableError,
    download,
    unpack,
)
from tests.datasets import CONTENT, OTHER, Server, names, register, sha256

pytestmark = pytest.mark.usefixtures("no_data")


# --- downloads ------------------------------------------------------------------------------------


# How each source behaves, what lies there from before, and the bytes that are asked for.
DELIVERED = [
    (["good"], None, [0]),
    (["norange"], None, [0]),
    (["breaks"], None, [0, 100_000, 200_000]),
    (["chunked-breaks"], None, [0, 99_993, 199_986]),
    (["good"], CONTENT[:70_000], [70_000]),
    (["norange"], CONTENT[:70_000], [70_000]),
    (["good"], OTHER[:70_000], [70_000, 0]),  # the rest of another file: again from the start
    (["good"], CONTENT + b"more", [0]),
    (["good"], CONTENT, [0]),
    # A whole file: until the connection breaks it gets the bytes that it has.
    (["breaks"], CONTENT, [0]),
    (["missing", "good"], None, [0, 0]),
    (["wrong", "good"], None, [0, 0]),
    (["page", "good"], None, [0, 0]),
    (["mute", "good"], None, [0] * 6),
    # The second source completes the first one's part.
    (["norange-breaks", "good"], None, [0] + [100_000] * 5),
]


@pytest.mark.parametrize("sources, before, asked", DELIVERED)
def test_download_delivers(
    server: Server, tmp_path: Path, sources: list[str], before: bytes | None, asked: list[int]
) -> None:
    if before:
        (tmp_path / "numbers.bin.part").write_bytes(before)
    download(server.file(*sources), tmp_path)
    assert (tmp_path / "numbers.bin").read_bytes() == CONTENT
    assert server.asked == asked
    assert names(tmp_path) == ["numbers.bin"]


FAILED = [  # how the sources behave, the error, what it says, and what is left
    (["missing"], UnavailableError, r"numbers\.bin: the server answers 404", []),
    (
        ["mute"],
        UnavailableError,
        r"broke off: .*numbers\.bin has 0 bytes instead of 256,000",
        ["numbers.bin.part"],
    ),
    (
        ["norange-breaks"],
        UnavailableError,
        r"broke off: .*numbers\.bin has 100,000 bytes instead of 256,000",
        ["numbers.bin.part"],
    ),
    (
        ["wrong"],
        DataError,
        (
            rf"numbers\.bin.* has the sha256 {sha256(OTHER)} "
            rf"instead of {sha256(CONTENT)}.*none were kept"
        ),
        [],
    ),
    (["wrong-breaks"], DataError, rf"numbers\.bin.* has the sha256 {sha256(OTHER)}", []),
    (["page"], DataError, r"numbers\.bin offers 25 bytes instead of 256,000", []),
    (["wrong", "missing"], DataError, "has the sha256 .*404", []),
    (["nowhere", "missing"], UnavailableError, "nowhere.invalid.*404", []),
    (["nowhere"], UnreachableError, "nowhere.invalid", []),
]


@pytest.mark.parametrize("sources, error, says, left", FAILED)
def test_download_fails(
    server: Server, tmp_path: Path, sources: list[str], error: type, says: str, left: list[str]
) -> None:
    with pytest.raises(DataError, match=says) as raised:
        download(server.file(*sources), tmp_path)
    assert raised.type is error
    assert names(tmp_path) == left


def test_wrong_bytes_after_wrong_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "numbers.bin.part").write_bytes(OTHER[:70_000])
    with pytest.raises(DataError, match="none were kept") as raised:
        download(server.file("wrong"), tmp_path)
    assert raised.type is DataError
    assert server.asked == [70_000, 0]
    assert names(tmp_path) == []


def test_nobody_answers(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CONNECT_SECONDS", 0.2)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}/numbers.bin"
        remote = RemoteFile(
            "numbers.bin",
            1,
            "",
            (server.url("hangs"), refusing, "http://nowhere.invalid/numbers.bin"),
        )
        started = time.monotonic()
        with pytest.raises(
            UnreachableError, match="(?s)no answer within 0.2 seconds.*refused.*nowhere.invalid"
        ):
            download(remote, tmp_path)
    assert time.monotonic() - started < 2
    assert names(tmp_path) == []


def test_a_server_may_pause_within_a_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_CONNECT_SECONDS", 100.0)
    download(server.file("pauses"), tmp_path)
    assert server.asked == [0]
    assert names(tmp_path) == ["numbers.bin"]


@pytest.mark.parametrize(
    "ci, terminal, notebook, watched",
    [
        (False, False, False, False),
        (False, True, False, True),
        (False, False, True, True),
        (True, True, True, False),
    ],
)
def test_a_bar_is_for_those_who_watch(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ci: bool,
    terminal: bool,
    notebook: bool,
    watched: bool,
) -> None:
    bars, bar = [], tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda **options: bars.append(options) or bar(**options))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", None) if notebook else monkeypatch.delitem(
        sys.modules, "ipykernel", raising=False
    )
    monkeypatch.setenv("CI", "true") if ci else monkeypatch.delenv("CI", raising=False)
    (tmp_path / "numbers.bin.part").write_bytes(CONTENT[:70_000])
    download(server.file("good"), tmp_path)
    assert [(o["disable"], o["initial"], o["total"], o["desc"]) for o in bars] == [
        (not watched, 70_000, len(CONTENT), "numbers.bin")
    ]


def test_interrupted_download_is_resumed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = files._read, []

    def interrupted(answer: io.BufferedIOBase) -> bytes:
        reads.append(answer)
        if len(reads) == 3:
            raise KeyboardInterrupt
        return read(answer)

    monkeypatch.setattr(files, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(server.file("good"), tmp_path)
    assert names(tmp_path) == ["numbers.bin.part"]
    arrived = (tmp_path / "numbers.bin.part").stat().st_size
    download(server.file("good"), tmp_path)
    assert server.asked == [0, arrived]
    assert arrived > 0
    assert names(tmp_path) == ["numbers.bin"]


KILLED = """
import os, signal, sys
from pathlib import Path
from fromfound import files
read = files._read
counts = iter([0, 0, 1])
def killed(answer):
    if next(counts):
        os.kill(os.getpid(), signal.SIGKILL)
    return read(answer)
files._read = killed
remote = files.RemoteFile("numbers.bin", int(sys.argv[2]), sys.argv[3], (sys.argv[4],))
files.download(remote, Path(sys.argv[1]))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_download_is_resumed_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    about = [str(len(CONTENT)), sha256(CONTENT), server.url("good")]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *about])
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    arrived = left.stat().st_size
    assert arrived > 0
    download(server.file("good"), tmp_path)
    assert server.asked == [0, arrived]
    assert names(tmp_path) == ["numbers.bin"]


def test_a_part_that_another_process_writes_is_left_alone(server: Server, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        own = files.draft_of(tmp_path / "numbers.bin.part")
        theirs = own.with_name(own.name.replace(f".{os.getpid()}.", f".{other.pid}."))
        theirs.write_bytes(CONTENT[:70_000])
        download(server.file("good"), tmp_path)
        assert server.asked == [0]
        assert theirs.stat().st_size == 70_000
        other.stdin.close()


def test_a_server_that_never_ends(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="instead of 256,000.*none were kept"):
        download(server.file("endless"), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", ["abc", "-5", ""])
def test_a_length_that_is_no_number_is_not_believed(
    server: Server, tmp_path: Path, length: str
) -> None:
    server.length = length
    download(server.file("length"), tmp_path)
    assert names(tmp_path) == ["numbers.bin"]


def test_a_file_without_an_address(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"numbers\.bin has no address"):
        download(RemoteFile("numbers.bin", 1, ""), tmp_path)


def closed_stream() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, object(), io.StringIO(), closed_stream()])
def test_without_a_console_nobody_watches(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: object
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    assert not files.is_watched()
    download(server.file("good"), tmp_path)


def test_two_downloads_at_once(server: Server, tmp_path: Path) -> None:
    failures = []

    def get() -> None:
        try:
            download(server.file("breaks"), tmp_path)
        except DataError as error:
            failures.append(error)

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert names(tmp_path) == ["numbers.bin"]
    assert (tmp_path / "numbers.bin").read_bytes() == CONTENT


# --- disks ----------------------------------------------------------------------------------------


class Full(io.BytesIO):
    def write(self, chunk: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def on_write(failure) -> object:
    """An `open` that fails when it is to write.

    `failure` says when: at once, or with the first byte.
    """

    def fake(path: Path, mode: str = "r") -> object:
        if "w" not in mode and "+" not in mode:
            return open(path, mode)
        Path(path).touch()
        return failure()

    return fake


def refused() -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize(
    "failure, says", [(Full, "No space left on device"), (refused, "Permission denied")]
)
@pytest.mark.parametrize("packed", [False, True])
def test_disk_refuses(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure,
    says: str,
    packed: bool,
) -> None:
    if packed:
        archive = tmp_path / "mine" / "toy" / "text.txt.xz"
        archive.parent.mkdir(parents=True)
        archive.write_bytes(lzma.compress(CONTENT))
        register(
            monkeypatch,
            RemoteFile("text.txt.xz", archive.stat().st_size, sha256(archive.read_bytes())),
        )
        monkeypatch.setenv("FROMFOUND_DATA", str(tmp_path / "mine"))
    else:
        register(monkeypatch, server.file("good"))
    monkeypatch.setattr(files, "open", on_write(failure), raising=False)
    with pytest.raises(
        DataError,
        match=rf"cannot write to .*\({says}\): free space, permit writing, or let XDG_CACHE_HOME",
    ):
        fetch("toy")
    assert not [
        name for name in names(tmp_path / "home") if not (tmp_path / "home" / name).is_dir()
    ]


def test_a_folder_that_another_process_has_built_stays(tmp_path: Path) -> None:
    with files.building(tmp_path / "cats") as slow:
        (slow / "tom").write_text("meow")
        with files.building(tmp_path / "cats") as fast:
            (fast / "tom").write_text("purr")
    assert names(tmp_path) == ["cats", "cats.json", "cats/tom"]
    assert (tmp_path / "cats" / "tom").read_text() == "purr"


def test_a_damaged_folder_is_replaced(tmp_path: Path) -> None:
    assert not files.is_whole(tmp_path / "cats")
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "old").touch()
    with files.building(tmp_path / "cats") as folder:
        (folder / "tom").write_text("meow")
    assert names(tmp_path) == ["cats", "cats.json", "cats/tom"]
    assert files.is_whole(tmp_path / "cats")
    (tmp_path / "cats" / "tom").write_text("")
    assert not files.is_whole(tmp_path / "cats")


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "cats").write_text("meow")
    with (
        pytest.raises(DataError, match="cannot write to .*Not a directory"),
        files.building(tmp_path / "cats"),
    ):
        pass
    assert (tmp_path / "cats").read_text() == "meow"


def test_a_file_is_written_whole_or_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notes"
    files.write_whole(path, b"first")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, lambda *args: refused())
            with pytest.raises(PermissionError):
                files.write_whole(path, b"second")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda self: b"other")
        with pytest.raises(OSError, match="the disk gives back other bytes"):
            files.write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["notes"]


def test_drafts_of_other_hosts_and_other_files_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in ("vm", "vm-99999", "vm.gpu", "vm.99999"):
        monkeypatch.setattr(files.platform, "node", lambda host=host: host)
        files.draft_of(tmp_path / "x").write_bytes(b"")
    files.draft_of(tmp_path / "x.y").write_bytes(b"")
    (tmp_path / ".x.vm.gpu.1").write_bytes(b"")
    monkeypatch.setattr(files.platform, "node", lambda: "vm")
    monkeypatch.setattr(files, "_is_running", lambda process: False)
    assert files.abandoned(tmp_path / "x") == []  # they are this process's own
    monkeypatch.setattr(files, "_LIFE", "another")  # as in a container that was started again
    (left,) = files.abandoned(tmp_path / "x")
    assert left.name.startswith(f".x.vm.{os.getpid()}.")


def test_buildings_may_nest(tmp_path: Path) -> None:
    with files.building(tmp_path / "cats") as outer, files.building(tmp_path / "cats") as inner:
        assert outer != inner


def test_drafts_of_killed_processes_are_removed_and_links_followed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / "disk").mkdir()
    path = tmp_path / "disk" / "notes"
    (tmp_path / "link").symlink_to(path)
    for target in (path, tmp_path / "disk" / "cats"):
        own = files.draft_of(target)
        own.with_name(own.name.replace(f".{os.getpid()}.", f".{gone.pid}.")).mkdir()
    leftover = files.abandoned(path)[0]
    leftover.rmdir()
    leftover.write_bytes(b"half")
    files.write_whole(tmp_path / "link", b"all")
    with files.building(tmp_path / "disk" / "cats"):
        pass
    assert (tmp_path / "link").is_symlink()
    assert path.read_bytes() == b"all"
    assert names(tmp_path / "disk") == ["cats", "cats.json", "notes"]


# --- archives -------------------------------------------------------------------------------------


def make_zip(path: Path, members: dict[str, str | bytes], link: str | None = None) -> None:
    with zipfile.ZipFile(path, "w") as pack:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK if name == link else stat.S_IFREG) << 16
            pack.writestr(info, content)


def make_tar(
    path: Path,
    members: dict[str, str | bytes],
    link: str | None = None,
    kind: bytes = tarfile.SYMTYPE,
) -> None:
    with tarfile.open(path, "w:xz") as pack:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if name == link:
                info.type, info.linkname = kind, str(content)
                pack.addfile(info)
            else:
                raw = content.encode() if isinstance(content, str) else content
                info.size = len(raw)
                pack.addfile(info, io.BytesIO(raw))


HOSTILE = [
    "../evil",
    "cats/../../evil",
    "/etc/evil",
    "\\evil",
    "..\\evil",
    "C:\\evil",
    "C:evil",
    "//server/evil",
    "cats/C:evil",
]


@pytest.mark.parametrize("make, suffix", [(make_zip, ".zip"), (make_tar, ".tar.xz")])
@pytest.mark.parametrize("name", [*HOSTILE, "link"])
def test_hostile_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, suffix: str, name: str
) -> None:
    archive = tmp_path / "mine" / "toy" / f"cats{suffix}"
    archive.parent.mkdir(parents=True)
    make(archive, {"cats/good.txt": "meow", name: "/etc/passwd"}, link="link")
    register(
        monkeypatch, RemoteFile(archive.name, archive.stat().st_size, sha256(archive.read_bytes()))
    )
    monkeypatch.setenv("FROMFOUND_DATA", str(tmp_path / "mine"))
    before = names(tmp_path)
    with pytest.raises(
        DataError,
        match=(
            rf"cats{re.escape(suffix)} holds .*{re.escape(repr(name)[1:-1])}.*"
            "refused"
        ),
    ):
        fetch("toy")
    assert sorted({*names(tmp_path)} - {*before}) == [
        "home",
        "home/fromfound",
        "home/fromfound/unpacked",
    ]


@pytest.mark.parametrize(
    "kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_special_member(tmp_path: Path, kind: bytes) -> None:
    make_tar(
        tmp_path / "cats.tar.xz",
        {"cats/good.txt": "meow", "odd": "cats/good.txt"},
        link="odd",
        kind=kind,
    )
    with pytest.raises(DataError, match="holds 'odd', a link"):
        unpack(tmp_path / "cats.tar.xz", tmp_path / "cats")


@pytest.mark.parametrize("make, suffix", [(make_zip, ".zip"), (make_tar, ".tar.xz"), (None, ".xz")])
def test_unpacks_beside_a_folder_it_may_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, suffix: str
) -> None:
    archive = tmp_path / "mine" / "toy" / f"cats.txt{suffix}"
    archive.parent.mkdir(parents=True)
    make(archive, {"a/cats.txt": CONTENT, "a/b/none.txt": ""}) if make else archive.write_bytes(
        lzma.compress(CONTENT)
    )
    register(
        monkeypatch, RemoteFile(archive.name, archive.stat().st_size, sha256(archive.read_bytes()))
    )
    monkeypatch.setenv("FROMFOUND_DATA", str(tmp_path / "mine"))
    archive.parent.chmod(0o555)
    folder = fetch("toy")
    archive.parent.chmod(0o755)
    assert names(folder) == (["a", "a/b", "a/b/none.txt", "a/cats.txt"] if make else ["cats.txt"])
    assert (folder / ("a/cats.txt" if make else "cats.txt")).read_bytes() == CONTENT
    assert names(tmp_path / "mine") == ["toy", f"toy/cats.txt{suffix}"]
    monkeypatch.setattr(data, "unpack_edition", None)
    assert fetch("toy") == folder, "it is unpacked once"
    assert folder.parent == files.cache_dir() / "unpacked"


@pytest.mark.parametrize("make, suffix", [(make_zip, ".zip"), (make_tar, ".tar.xz"), (None, ".xz")])
@pytest.mark.parametrize("damage", ["truncated", "scrambled", "empty"])
def test_damaged_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make, suffix: str, damage: str
) -> None:
    archive = tmp_path / "mine" / "toy" / f"cats.txt{suffix}"
    archive.parent.mkdir(parents=True)
    noise = (
        torch.randint(256, (50_000,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        .numpy()
        .tobytes()
    )
    make(archive, {"cats.txt": noise}) if make else archive.write_bytes(lzma.compress(noise))
    whole = archive.read_bytes()
    broken = {
        "truncated": whole[:-20_000],
        "scrambled": whole[:20_000] + bytes(100) + whole[20_100:],
        "empty": b"",
    }[damage]
    archive.write_bytes(broken)
    # So that only the unpacker can find it.
    register(monkeypatch, RemoteFile(archive.name, len(broken), sha256(broken)))
    monkeypatch.setenv("FROMFOUND_DATA", str(tmp_path / "mine"))
    with pytest.raises(DataError, match=rf"cats\.txt{re.escape(suffix)} is damaged"):
        fetch("toy")
    assert names(tmp_path / "home" / "fromfound" / "unpacked") == []


def test_an_archive_never_takes_its_own_place(tmp_path: Path) -> None:
    alone = tmp_path / "weights.XZ"
    alone.write_bytes(lzma.compress(b"hello"))
    (tmp_path / "weights").mkdir()
    files.unpack(alone, tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_bytes() == b"hello"
    pack = tmp_path / "pack.zip"
    with zipfile.ZipFile(pack, "w") as file:
        file.writestr("pack.zip", b"hello")
    before = pack.read_bytes()
    with pytest.raises(DataError, match="a member of its own name"):
        files.unpack(pack, tmp_path)
    assert pack.read_bytes() == before


@pytest.mark.parametrize("name", ["weights", "a.7z", "a.gz"])
def test_other_archives_are_not_called_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(lzma.compress(b"hello"))
    with pytest.raises(DataError, match="unpack expected a .zip"):
        files.unpack(tmp_path / name, tmp_path / "out")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("cut", ["header", "end"])
def test_a_tar_that_ends_too_early_is_damaged(tmp_path: Path, cut: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as pack:
        for name in "abc":
            member = tarfile.TarInfo(name)
            member.size = 3
            pack.addfile(member, io.BytesIO(b"abc"))
    data = bytearray(buffer.getvalue())
    if cut == "header":
        data[1024] ^= 1  # the second member's name: its checksum no longer fits
    else:
        data = data[: 3 * 1024]
    for name, compress in (("a.tgz", gzip.compress), ("a.tar.xz", lzma.compress)):
        (tmp_path / name).write_bytes(compress(bytes(data)))
        with pytest.raises(DataError, match="is damaged"):
            files.unpack(tmp_path / name, tmp_path / "out")


def test_a_damaged_file_in_its_place_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "f.bin").write_bytes(b"damaged")
    file = files.RemoteFile("f.bin", 300, "0" * 64, ("http://127.0.0.1:9/f.bin",))
    with pytest.raises(files.UnreachableError):
        files.download(file, tmp_path)


def test_a_file_keeps_its_mode_and_needs_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"first")
    path.chmod(0o600)
    files.write_whole(path, b"second")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileNotFoundError, match="there is no folder .*new: make it"):
        files.write_whole(tmp_path / "new" / "x", b"")
    with pytest.raises(IsADirectoryError, match="give the path of a file in it"):
        files.write_whole(tmp_path, b"")
    assert names(tmp_path) == ["secret"]


def test_without_a_home_the_cache_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(files.Path, "home", nowhere)
    with pytest.raises(DataError, match="let XDG_CACHE_HOME name a folder"):
        files.cache_dir()
