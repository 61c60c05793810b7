"""What programs print while they train: names and numbers in running text.

OLMo, Megatron, nanoGPT, llm.c, CycleGAN, Keras, transformers, detectron2 and most of what people
write themselves. A row is a line with a number that has a name; lines that are set in belong to
the line above that says the step.
"""

import re

from alrc.replay.logs import columns
from alrc.replay.logs.cells import NUMBER, number
from alrc.replay.logs.table import Table

__all__ = ["ConsoleReader"]

WORD = r"[A-Za-z_](?:[\w/+&%-]|\.(?=\w)|\(\w+\))*"
SPLITS = (
    r"[tT]rain|[tT]raining|[vV]al|[vV]alid|[vV]alidation|[tT]est|[eE]val|lm|[gG]rad|[gG]radient|"
    r"[lL]earning|[gG]lobal"
)
# `name: 1.5` and `name=1.5`, of one word or a few; `name 1.5`, of one word.
PAIR = re.compile(
    rf"(?<![\w.])(?P<named>{WORD}(?:[ _]{WORD}){{0,4}}(?: \(\w+\))?)"
    rf"['\"]?\s*[:=]\s*['\"]?(?P<told>{NUMBER})(?!\w|\.\d)"
    rf"|(?<![\w.])(?P<word>(?:(?:{SPLITS})[ _])?{WORD})\s+[(\[]?\s*(?P<bare>{NUMBER})(?!\w|[.:]\d)"
)
# The name of a logger before its message: time, host, module:line, level.
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
PREFIX = re.compile(rf"^.*?\b(?:{'|'.join(LEVELS)})\b[\]\s:|-]*(?=\S)")
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
EPOCH_LINE = re.compile(r"^\s*epoch:?\s+(\d+)\s*(?:/\s*\d+)?\s*$", re.I)
PRINTED_LINES = re.compile(r"^(\d+) (train|val|hella) (\S+)$")
RULE = re.compile(r"^\s*[=*-]{4,}.*[A-Za-z].*[=*-]{4,}\s*$")
RESUMED = re.compile(r"\bresum(?:ed|ing)\b", re.I)
OF_EVALUATION = re.compile(r"\b(?:eval|evaluat\w+|valid|validation|validating|val|test)\b")
CYCLEGAN = re.compile(r"^\(epoch: \d+, iters: \d+,")

# Positions without a name of their own.
PLACES = (
    re.compile(r"^\[(?P<epoch>\d+),\s*(?P<step>\d+)\]"),  # [1,  2000] loss: 2.2
    re.compile(r"Train: (?P<epoch>\d+) \[\s*(?P<step>\d+)/"),  # timm
    re.compile(r"Epoch\s*(?:\(train\))?\s*\[(?P<epoch>\d+)\]\s*\[\s*(?P<step>\d+)/"),  # mmengine
    re.compile(r"Iter\(train\)\s*\[\s*(?P<step>\d+)/"),
    re.compile(r"Epoch:? (?P<epoch>\d+)\s*\[\s*(?P<step>\d+)/"),  # Train Epoch: 1 [640/60000
    re.compile(
        r"^\s*(?:Epoch\s+(?P<epoch>\d+):\s+)?(?:\d+%\|.*?\|\s*)?(?P<step>\d+)/\d+\s"
    ),  # a bar
)

# By how a line with a loss looks: who prints it, and whether that takes means.
PRINTERS: tuple[tuple[re.Pattern[str], str, bool | None], ...] = (
    (re.compile(r"^s:\d+ trl:"), "a log of llm.c", False),
    (CYCLEGAN, "a loss log of CycleGAN and pix2pix", False),
    (re.compile(r"train/CrossEntropyLoss="), "a console log of OLMo", False),
    (re.compile(r"iteration\s+\d+/\s*\d+ \|.*lm loss:"), "a console log of Megatron", True),
    (re.compile(r"^iter \d+: loss .*mfu"), "a console log of nanoGPT", False),
    (re.compile(r"^\d+ train "), "a log of build-nanogpt", False),
    (re.compile(r"^\{'loss': "), "a console log of transformers' Trainer", True),
    (re.compile(r"^\s*\d+/\d+ .*(?:/step|━|=>|\[=)"), "a progress bar of Keras", True),
    (re.compile(r"iter: \d+\s+total_loss:"), "a console log of detectron2", True),
)
DETECTRON_NOTE = (
    "detectron2 writes the median of the last twenty losses: a spike of a few steps is not in the "
    "log at all."
)
KERAS_NOTE = (
    "Keras' progress bar shows the mean since the epoch began: spikes fade in it, the more the "
    "later in the epoch. Log the loss of each batch for a verdict."
)


class ConsoleReader:
    """Reads names and numbers from running text."""

    def __init__(self) -> None:
        self._line = 0
        self._open: dict[str, float] | None = None  # a row to which lines may still belong
        self._epoch: float | None = None
        self._table = Table("a console log")
        self._printer_known = False

    @property
    def table(self) -> Table:
        self._close()
        return self._table

    def feed(self, text: str) -> None:
        """Takes whole lines."""
        for line in text.removesuffix("\n").split("\n"):
            self._line += 1
            if not line or line.isspace():
                continue
            if "\x1b" in line or "\x08" in line:
                line = COLOURS.sub("", line).rpartition("\x08")[2]
            self._read(line)

    def _read(self, line: str) -> None:
        # Each search costs more than all of these questions, and few lines need it.
        if RULE.match(line) or ("esum" in line and RESUMED.search(line)):
            self._close()
            self._table.begin()
            return
        if epoch := EPOCH_LINE.match(line):
            self._epoch = float(epoch[1])
            return
        cells = self._cells(line)
        if not cells:
            self._miss(line)
            return
        if self._open is not None and line[0].isspace() and not _is_placed(cells):
            self._open |= cells
            self._recognise(line, cells)
            return
        self._close()
        self._recognise(line, cells)
        if not (_is_placed(cells) or any(columns.is_loss(name) for name in cells)):
            return
        if self._epoch is not None and not any(columns.is_epoch(name) for name in cells):
            cells["epoch"] = self._epoch
        self._open = cells

    def _cells(self, line: str) -> dict[str, float]:
        """The numbers of a line, by name."""
        if printed := PRINTED_LINES.match(line):
            name = f"{printed[2]} loss" if printed[2] != "hella" else "hella"
            return {"step": float(printed[1]), name: _told(printed[3])}
        message = PREFIX.sub("", line) if any(level in line for level in LEVELS) else line
        cells: dict[str, float] = {}
        if "[" in message or "/" in message:
            for place in PLACES:
                if found := place.search(message):
                    cells |= {name: float(at) for name, at in found.groupdict().items() if at}
                    break
        for pair in PAIR.finditer(message):
            name = pair["named"] or pair["word"]
            # A mean of the loss often follows in brackets, as in timm's `Loss: 6.9 (7.0)`.
            cells.setdefault(name.strip(), _told(pair["told"] or pair["bare"]))
        if any(columns.is_evaluation(name) for name in cells):
            return cells
        lower = message.lower()
        if (
            ("val" in lower or "test" in lower)
            and OF_EVALUATION.search(lower)
            and not re.search(r"\btrain", lower)
        ):
            return {f"eval {n}" if columns.is_loss(n) else n: v for n, v in cells.items()}
        return cells

    def _close(self) -> None:
        if self._open is not None:
            self._table.add(self._open)
            self._open = None

    def _recognise(self, line: str, cells: dict[str, float]) -> None:
        if self._printer_known:
            return
        for pattern, printer, averaged in PRINTERS:
            if pattern.search(line):
                self._printer_known = True
                self._table.format, self._table.averaged = printer, averaged
                if pattern is CYCLEGAN:
                    places = ("epoch", "iters", "time", "data")
                    self._table.losses = tuple(name for name in cells if name not in places)
                    self._table.not_losses = ("time", "data")
                if "Keras" in printer:
                    self._table.running = KERAS_NOTE
                elif "detectron2" in printer:
                    self._table.running = DETECTRON_NOTE
                return

    def _miss(self, line: str) -> None:
        """Text between the numbers is usual; it is only told where there is nothing else."""
        if not self._table.rows and self._open is None:
            self._table.first_text = self._table.first_text or (self._line, line)


def _told(text: str) -> float:
    value = number(text)
    assert value is not None, text  # the pattern takes no blanks
    return value


def _is_placed(cells: dict[str, float]) -> bool:
    return any(columns.is_step(name) for name in cells)
