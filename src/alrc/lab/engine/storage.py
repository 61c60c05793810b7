"""A run's folder: what fixes it, its series, its last checkpoint, and what came of it."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import torch

from alrc.lab.engine.files import Damaged, read_json, write_json, written_whole
from alrc.lab.engine.series import Series

__all__ = ["AnotherRun", "RunFolder"]


class AnotherRun(ValueError):
    """A folder holds another run than the one that is to go on in it."""


class RunFolder:
    """Keeps one run in a folder, for one process at a time; use it in a ``with`` block.

    ``config.json`` fixes the run. ``series/*.npy`` grow with each checkpoint, which says how much
    of them counts. All other files appear whole. A process may be killed at any moment: what came
    after the last checkpoint is trained again, to the same numbers.

    Args:
        path: The folder; made if it is not there.
        config: What fixes the run, as plain values.

    Raises:
        AnotherRun: If the folder holds another run.
        Damaged: If it is a file, or its config.json can't be read.
        ValueError: If another process is at it.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config
        self._lock = filelock.FileLock(path / ".lock")

    def __enter__(self) -> "RunFolder":
        if self.path.exists() and not self.path.is_dir():
            with self._naming_folder():
                raise Damaged(
                    f"{self.path} must be a folder, because a run is kept in it; it is a file. "
                    "Pass another path."
                )
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)  # the system frees it, however this process ends
        except filelock.Timeout:
            raise ValueError(
                f"{self.path} must belong to one process at a time; another one is training this "
                "run. Wait for it, or pass another folder."
            ) from None
        try:
            for leftover in self.path.rglob(".*.part"):  # of a process killed while it wrote
                leftover.unlink()
            if not self.check():
                write_json(self.path / "config.json", self.config)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def check(self) -> bool:
        """Whether it holds this run, or nothing yet; another one is refused."""
        file = self.path / "config.json"
        if not file.exists():
            return False
        with self._naming_folder():
            stored = read_json(file, f"Remove {self.path}, or pass another folder.")
        changes = [
            f"{name} {new!r} (there: {old!r})"
            for name, old, new in _differences(stored, self.config)
        ]
        if changes:
            raise AnotherRun(
                f"{self.path} must hold this very run to go on with it; it holds another one: got "
                f"{', '.join(changes)}. Pass another folder, or the settings of that run."
            )
        return True

    @property
    def result(self) -> dict[str, Any] | None:
        """What came of the run, or None if it is not finished."""
        file = self.path / "result.json"
        return (
            read_json(file, f"Remove {file}, and the run is finished again.")
            if file.exists()
            else None
        )

    def save_result(self, result: dict[str, Any]) -> None:
        """Finishes the run."""
        write_json(self.path / "result.json", result)

    def load_checkpoint(self) -> tuple[dict[str, Any] | None, Series]:
        """The last checkpoint, or None before the first, and the series as they were then.

        Raises:
            Damaged: If one of the files is.
        """
        file = self.path / "checkpoint.pt"
        if not file.exists():
            return None, Series(self.path / "series")
        with self._naming_folder():
            state = _load(file, f"Remove {self.path}, and the run is trained anew.")
            return state, Series(self.path / "series", state["series"])

    @contextmanager
    def _naming_folder(self) -> Iterator[None]:
        try:
            yield
        except Damaged as error:
            error.folder = self.path
            raise

    def save_checkpoint(self, state: dict[str, Any], series: Series) -> None:
        """Brings the series to the disk, then replaces the last checkpoint, whole."""
        manifest = series.commit(state["step"])
        with written_whole(self.path / "checkpoint.pt") as part, part.open("wb") as stream:
            try:
                torch.save({**state, "series": manifest}, stream)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # a full disk, which it does not name
                    raise error.__context__ from None
                raise


def _load(file: Path, mend: str) -> dict[str, Any]:
    """A checkpoint, verified."""
    try:
        with zipfile.ZipFile(file) as archive:  # torch.load does not look at its checksums
            if broken := archive.testzip():
                raise ValueError(f"{broken} was changed")
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        state["series"]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever the bytes happen to spell
        raise Damaged(
            f"{file} must be a checkpoint of this run; it can't be read ({type(error).__name__}). "
            f"{mend}"
        ) from None
    return state


def _differences(stored: Any, given: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted names of the values that differ, what is stored, and what is given."""
    if isinstance(stored, dict) and isinstance(given, dict):
        return [
            difference
            for key in sorted(stored.keys() | given.keys())
            for difference in _differences(
                stored.get(key), given.get(key), f"{name}.{key}" if name else key
            )
        ]
    return [] if stored == given else [(name, stored, given)]
