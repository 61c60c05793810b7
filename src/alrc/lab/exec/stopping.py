"""Ctrl-C and SIGTERM, which a study sees to when it can."""

import signal
import threading
import time
from types import FrameType

__all__ = ["Signals", "StudyStopped"]

SOON = 0.5  # seconds: a terminal and a wrapper may both send what was typed once


class StudyStopped(Exception):
    """A study ended before its runs did; the message says why, and what was kept.

    Args:
        message: For the user.
        exit_code: For the command.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Signals:
    """In its block SIGINT and SIGTERM interrupt nothing; they are kept for who looks for them.

    Args:
        second_interrupts: Whether a second one raises KeyboardInterrupt.
    """

    def __init__(self, second_interrupts: bool = False) -> None:
        self.second_interrupts = second_interrupts
        self.first: int | None = None
        self.came, self.repeated = 0.0, False

    def __enter__(self) -> "Signals":
        self.before = {}
        if threading.current_thread() is threading.main_thread():  # others may not
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.first is None:
            self.first, self.came = number, time.monotonic()
        elif time.monotonic() - self.came > SOON:
            self.repeated = True
            if self.second_interrupts:
                raise KeyboardInterrupt
