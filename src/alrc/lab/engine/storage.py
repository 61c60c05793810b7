"""A run's folder: what fixes it, its series, its last checkpoint, and what came of it."""

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import torch
from torch import Tensor, nn

from alrc.lab.engine.files import Damaged, digest, read_json, storing, write_json, written_whole
from alrc.lab.engine.naming import versions
from alrc.lab.engine.series import Series
from alrc.lab.engine.stored import check_result

__all__ = ["AnotherRun", "InUse", "RunFolder"]


class AnotherRun(ValueError):
    """A folder holds another run than the one that is to go on in it."""


class InUse(ValueError):
    """Another process is at this run."""


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
        InUse: If another process is at it.
        NotStored: If it can't be written to; one with a result need not.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path, self.config = path, config
        self._lock = filelock.FileLock(path / ".lock")
        self._lock_number: int | None = None
        self._can_be_read = False  # what is saved in checkpoints
        self.versions = [versions()]  # with which it was trained; they fix nothing

    def __enter__(self) -> "RunFolder":
        with self._in_words():
            self.path.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                for leftover in self.path.rglob(".*.part"):  # of a process killed while it wrote
                    leftover.unlink()
                if not self.check():
                    write_json(self.path / "config.json", self.config)
            except BaseException:
                self._lock.release()
                raise
        return self

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=0)  # the system frees it, however this process ends
        except filelock.Timeout:
            raise InUse(
                f"{self.path} must belong to one process at a time; another one is training this "
                "run. Wait for it, or pass another folder."
            ) from None
        except OSError:
            if not (self.path / "result.json").is_file():  # else nothing is written any more
                raise
        self._lock_number = self._number_of_lock()

    def _number_of_lock(self) -> int | None:
        file = self.path / ".lock"
        return file.stat().st_ino if file.exists() else None

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
        with self._in_words():
            stored = read_json(file, f"Remove {self.path}, or pass another folder.")
        if stored.get("format") != self.config["format"]:
            raise AnotherRun(
                f"{self.path} must hold a run of today's format to go on with it; its config.json "
                f"is of format {stored.get('format')!r}. Pass another folder; alrc lab report "
                "reads a finished one."
            )
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
        if not file.exists():
            return None
        mend = "Remove it, and the run is finished again."
        result = read_json(file, mend)
        try:
            check_result(result, self.config)
        except (ValueError, TypeError, AttributeError) as fault:
            raise Damaged(f"{file} must be the result of this run; {fault}. {mend}") from None
        return result

    def save_result(self, result: dict[str, Any]) -> None:
        """Finishes the run."""
        self._check_lock()
        write_json(self.path / "result.json", result)

    def load_checkpoint(self, device: str) -> tuple[dict[str, Any] | None, Series]:
        """The last checkpoint, or None before the first, and the series as they were then.

        Args:
            device: As for :meth:`read_checkpoint`.

        Raises:
            Damaged: If one of the files is.
        """
        state = self.read_checkpoint(device)
        with self._in_words():
            if state is None:
                return None, Series(self.path / "series")
            with self.reading_checkpoint():
                self.versions = list(dict.fromkeys([*state["versions"], *self.versions]))
                return state, Series(self.path / "series", dict(state["series"]))

    def read_checkpoint(self, device: str) -> dict[str, Any] | None:
        """The last checkpoint, or None before the first; nothing is changed, nothing locked.

        Args:
            device: Of the run; what was on it is there again. All else is on the CPU, as the
                states of torch's generators have to be.

        Raises:
            Damaged: If it is.
        """
        file = self.path / "checkpoint.pt"
        with self._in_words():
            if not file.exists():
                return None
            place = placing(torch.empty(0, device=device).device)  # outside: it may not be here
            with self.reading_checkpoint():
                with zipfile.ZipFile(file) as archive:  # torch.load ignores its checksums
                    if broken := archive.testzip():
                        raise ValueError(f"{broken} was changed")
                state: dict[str, Any] = torch.load(file, map_location=place, weights_only=True)
                if state["run"] != digest(self.config):
                    raise Damaged(
                        f"{file} must be a checkpoint of this run; it is one of another run. "
                        f"Remove {self.path}, and the run is trained anew."
                    )
                return state

    @contextmanager
    def reading_checkpoint(self) -> Iterator[None]:
        """Says that it can't be read, whatever comes of it."""
        try:
            with self._in_words():
                yield
        except (OSError, MemoryError, torch.OutOfMemoryError, Damaged):
            raise
        except Exception as error:  # whatever the bytes happen to spell
            damaged = Damaged(
                f"{self.path / 'checkpoint.pt'} must be a checkpoint of this run; it can't be read "
                f"({type(error).__name__}). Remove {self.path}, and the run is trained anew."
            )
            damaged.folder = self.path
            raise damaged from error

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            with storing(self.path):
                yield
        except Damaged as error:
            error.folder = self.path
            raise

    def save_checkpoint(self, state: dict[str, Any], series: Series) -> None:
        """Brings the series to the disk, then replaces the last checkpoint, whole.

        Raises:
            ValueError: If a checkpoint can't hold the state, or another process may be here too.
            NotStored: If it can't be written.
        """
        self._check_lock()
        with storing(self.path):
            manifest = series.commit(state["step"])
        known = {"run": digest(self.config), "versions": self.versions}
        state = {**known, **state, "series": manifest}
        content = _packed(state, check=not self._can_be_read)
        self._can_be_read = True
        with written_whole(self.path / "checkpoint.pt") as part:
            part.write_bytes(content.getbuffer())

    def _check_lock(self) -> None:
        number = self._number_of_lock()
        if number != self._lock_number:
            raise ValueError(
                f"{self.path / '.lock'} must stay there while the run is trained, because it keeps "
                f"other processes away; it was {'replaced' if number else 'removed'}. Nothing was "
                "stored since. When no other process is at it, the same command goes on."
            )


def placing(device: torch.device) -> Callable[[Any, str], Any]:
    """Where torch.load puts what it read into the CPU's memory, by where it was saved."""
    return lambda storage, saved: storage if saved == "cpu" else storage.to(device=device)


def _packed(state: dict[str, Any], check: bool) -> io.BytesIO:
    """In memory first: torch hides why it can't write to a disk."""
    content = io.BytesIO()
    try:
        torch.save(state, content)
        if check:
            content.seek(0)
            torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:
        for name, value in _others(state, ""):
            raise ValueError(
                f"{name} must be a tensor, number, text, list or dict, because it is kept in "
                f"checkpoints; it is of type {type(value).__name__}."
            ) from error
        raise
    return content


def _others(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What is none of these, in there."""
    if isinstance(value, dict):
        for key, x in value.items():
            yield from _others(x, f"{name}.{key}" if name else str(key))
    elif type(value) in (list, tuple):
        for i, x in enumerate(value):
            yield from _others(x, f"{name}.{i}")
    elif type(value) not in (Tensor, nn.Parameter, bool, int, float, str, type(None)):
        yield name, value


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
