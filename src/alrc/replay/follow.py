"""Logs that are still written: read from where they were left, and judged again."""

import json
import os
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from alrc.replay import show
from alrc.replay.curve import Curve
from alrc.replay.logs import LogReader, LogRefused
from alrc.replay.replay import Replay, replay
from alrc.settings import Settings

__all__ = ["Growing", "Log", "Piped", "follow", "lines", "live"]

INTERVAL = 0.5  # seconds from one look to the next
# A log is judged again when so many times as long has passed as that took: of long ones, too, no
# more than a tenth of a core is taken from the training. What is read meanwhile is read once.
REST = 9
PIECE = 1 << 20  # bytes that are read at once
KNOWN = 64  # last bytes by which a file is known again


class Log(ABC):
    """A log and what is said of it.

    Attributes:
        found: Its curves, as they were judged last.
        words: Why it could not be judged the last time; empty if it could.
        ended: Whether nothing follows.
    """

    def __init__(self, name: str, column: str | None) -> None:
        self.name, self._column = name, column
        self.found: list[tuple[Curve, Replay]] = []
        self.words = f"{name}: nothing to be read yet."
        self.ended = False
        self._reader = LogReader(name, column)

    def look(self) -> bool:
        """Reads what is new; returns whether anything is."""
        try:
            return self._look()
        except (LogRefused, OSError) as refusal:  # it is no log: more of it would not mend that
            self.words, self.ended, self.found = str(refusal), True, []
            return False

    @abstractmethod
    def _look(self) -> bool:
        """Reads what is new; returns whether anything is."""

    def judge(self, settings: Settings | None) -> None:
        """Says anew what the log shows, if it shows enough by now."""
        try:
            self.found = [(curve, replay(curve, settings)) for curve in self._reader.curves()]
            self.words = ""
        except ValueError as refusal:
            self.words = str(refusal)


class Growing(Log):
    """A file that grows, is not there yet, is cut off, or is put in the place of another."""

    def __init__(self, path: str, column: str | None) -> None:
        super().__init__(path, column)
        self._at, self._last = 0, b""

    def _look(self) -> bool:
        try:
            file = open(self.name, "rb")  # noqa: SIM115 (closed below)
        except FileNotFoundError:  # not yet, or moved away a moment ago
            return False
        with file:
            new = False
            file.seek(self._at - len(self._last))
            if file.read(len(self._last)) != self._last:  # another file, or this one begun anew
                self._reader, self._at, self._last = LogReader(self.name, self._column), 0, b""
                file.seek(0)
            while piece := file.read(PIECE):
                self._reader.feed(piece)
                self._at, self._last = self._at + len(piece), (self._last + piece)[-KNOWN:]
                new = True
        return new


class Piped(Log):
    """Standard input, which a thread waits for."""

    def __init__(self, column: str | None) -> None:
        super().__init__("standard input", column)
        self._pieces: queue.Queue[bytes] = queue.Queue(maxsize=64)
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        # Unbuffered: the interpreter could not end while a thread holds the buffer.
        while piece := os.read(sys.stdin.fileno(), PIECE):
            self._pieces.put(piece)
        self._pieces.put(b"")

    def _look(self) -> bool:
        new = False
        while not self._pieces.empty():
            piece, new = self._pieces.get(), True
            if piece:
                self._reader.feed(piece)
            else:
                self._reader.end()
                self.ended = True
        return new


Tell = Callable[[Sequence[Log]], None]


def follow(
    logs: Sequence[Log],
    settings: Settings | None,
    tell: Tell,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Reads logs and judges them again and again, until all have ended or Ctrl-C is pressed.

    Args:
        logs: What to follow.
        settings: Those of the rule.
        tell: Called with the logs whenever some were judged.
        pause: Waits for some seconds.
        clock: Tells how many have passed.
    """
    new: set[Log] = set()
    due = -float("inf")
    try:
        while True:
            new.update(log for log in logs if not log.ended and log.look())
            ended = all(log.ended for log in logs)
            begun = clock()
            if new and (begun >= due or ended):
                for log in new:
                    log.judge(settings)
                new.clear()
                tell(logs)
                due = clock() + REST * (clock() - begun)
            if ended:
                return
            pause(INTERVAL)
    except KeyboardInterrupt:
        return


def lines(as_json: bool, named: bool) -> Tell:
    """Prints a line whenever a verdict changes: its kind, or how often something happened."""
    last: dict[str, object] = {}

    def tell(logs: Sequence[Log]) -> None:
        for curve, found in (one for log in logs for one in log.found):
            key = [(finding.kind, len(finding.spans)) for finding in found.verdict.findings]
            if last.get(curve.name) == key:
                continue
            last[curve.name] = key
            name = f"{curve.name}, " if named else ""
            if as_json:
                print(json.dumps(show.record(curve, found), allow_nan=False), flush=True)
            else:
                print(f"{name}{len(curve):,} losses: {found.verdict.sentence}", flush=True)

    return tell


def live(
    logs: Sequence[Log],
    settings: Settings | None,
    console: Console,
    run: Callable[[Sequence[Log], Settings | None, Tell], None] = follow,
) -> None:
    """Follows logs on a terminal, where what is said of them is drawn in place."""

    def view() -> Group:
        found = [one for log in logs for one in log.found]
        shown = [part for one in found for part in show.view(*one, console.width, len(logs) > 1)]
        words = [Text(log.words) for log in logs if log.words]
        return Group(*shown, *words, Text("Following; Ctrl-C ends it.", "dim"))

    with Live(view(), console=console, auto_refresh=False) as screen:
        run(logs, settings, lambda _: screen.update(view(), refresh=True))
        screen.update(Group(*view().renderables[:-1]), refresh=True)
