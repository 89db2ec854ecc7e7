"""What all tests share: no downloads, no windows, nothing written into the tree."""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

os.environ.setdefault("FROMFOUND_DATA", "standin")
os.environ.setdefault("MPLBACKEND", "Agg")
# The tensors of tests are small: on a busy machine threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts what runs in the background with Ctrl-C ignored, and tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)
set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "fromfound-hypothesis")
settings.register_profile("book", database=None, deadline=None)
settings.load_profile("book")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that take a `device` on the CPU and on the accelerator that there is.

    With SIMULATE in the environment (`make device`) that is a simulated one, for the whole process.
    """
    if "device" not in metafunc.fixturenames:
        return
    import torch

    devices = [torch.device("cpu")]
    if os.environ.get("SIMULATE"):
        devices = []
        with suppress(ImportError):  # older versions of PyTorch have no backends in Python
            import tests.accelerator  # noqa: F401  it registers itself
    if hasattr(torch, "accelerator") and torch.accelerator.is_available():
        devices.append(torch.accelerator.current_accelerator())
    metafunc.parametrize("device", devices, ids=str)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the stand-ins that several tests read, so that each is made once."""
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture
def made(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a stand-in, or take the one that another test has made."""
    from fromfound.data import stand_in

    monkeypatch.setenv("XDG_CACHE_HOME", str(drawn))
    return stand_in


@pytest.fixture
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no data, no memory of failures, and no network but this machine."""
    from fromfound import data

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("FROMFOUND_DATA", raising=False)
    monkeypatch.setattr(data, "_given_up", {})
    look_up = socket.getaddrinfo

    def local_only(host, *args, **options):
        if host != "127.0.0.1":
            raise socket.gaierror(f"a test asked for {host}")
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", local_only)


@pytest.fixture
def server() -> Iterator:
    """A running `tests.datasets.Server`."""
    from tests.datasets import Server

    with Server() as running:
        threading.Thread(
            target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        yield running
        running.ended.set()
        running.shutdown()
