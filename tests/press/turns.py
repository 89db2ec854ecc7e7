"""Two runs on one machine take turns: a cell that measures time waits until no other cell runs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

LANES = 2  # runs that share the machine


class Turns:
    """One of the runs that share a machine through locks in `folder`.

    Without a folder it has the machine for itself.
    """

    def __init__(self, folder: str | None, lane: int) -> None:
        self.folder, self.lane = folder, lane

    def lock(self, name: str) -> FileLock:
        """Return a fresh lock, looked at a hundred times a second while it is waited for."""
        return FileLock(Path(self.folder) / f"{name}.lock", poll_interval=0.01)

    @contextmanager
    def turn(self, alone: bool) -> Iterator[None]:
        """Hold the machine for one cell, with the others unless it is to be `alone`.

        A run holds its own lane while a cell runs, and every lane to be alone. A run that waits
        keeps the gate, so that no other run can start its next cell in the meantime.
        """
        if self.folder is None:
            yield
            return
        lanes = range(LANES) if alone else [self.lane]
        with ExitStack() as held:
            with self.lock("gate"):
                for lane in lanes:
                    held.enter_context(self.lock(f"lane{lane}"))
            yield
