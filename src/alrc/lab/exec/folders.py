"""The folder of a study, and those of its runs that can't be gone on with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from alrc.lab.engine.storage import AnotherRun, RunFolder

__all__ = ["locked", "refuse_another", "set_aside"]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps other commands away from a study.

    Raises:
        ValueError: If one is at it, or it is no folder to write to.
    """
    lock = filelock.FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(
            f"{out} must belong to one command at a time; another one is at this study. Wait for "
            "it, or pass another folder."
        ) from None
    except OSError as error:
        raise ValueError(
            f"{out} must be a folder to write to; it is not ({error.strerror}). Pass another one."
        ) from None
    try:
        yield
    finally:
        lock.release()


def refuse_another(folder: RunFolder) -> None:
    """Refuses a folder that holds another run.

    Raises:
        AnotherRun: If it does.
    """
    try:
        folder.check()
    except AnotherRun:
        raise
    except (ValueError, OSError):
        pass  # this run alone will fail, and say so


def set_aside(folder: Path, damaged: Path) -> Path:
    """Moves a folder into that of the damaged ones, and says where it is now.

    Raises:
        OSError: If it can't be moved.
    """
    place, number = damaged / folder.name, 2
    while place.exists():
        place, number = damaged / f"{folder.name}-{number}", number + 1
    damaged.mkdir(exist_ok=True)
    folder.rename(place)
    return place
