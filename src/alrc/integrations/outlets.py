"""Where scalars go: functions of ``(scalars, step=...)``; needs no PyTorch."""

import os
from pathlib import Path
from typing import Any, Protocol

from alrc.integrations.spikes import Table, csv_lines


class Log(Protocol):
    """Whatever takes scalars by name and the step they belong to."""

    def __call__(self, scalars: dict[str, float], /, *, step: int) -> object: ...


def to_csv(path: str | os.PathLike[str]) -> Log:
    """Makes a log that appends to a CSV file: a column for the step, and one for each scalar.

    The file is complete up to the last line whenever the program ends. Going on with one that
    exists, a line that was cut short is removed, and so are lines of the same and later steps:
    after a crash, training goes on from a checkpoint and logs these steps once more.

    Args:
        path: The file; its folder is made if need be.

    Raises:
        ValueError: From the log, if the file has other columns.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from alrc.integrations.loggers import to_csv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = to_csv(f"{folder}/scalars.csv")
        ...     log({"alrc/loss": 0.5, "alrc/limit": 4.0}, step=100)
        ...     print(Path(folder, "scalars.csv").read_text())
        step,alrc/loss,alrc/limit
        100,0.5,4.0
        <BLANKLINE>
    """
    table = Table("to_csv", Path(path))

    def log(scalars: dict[str, float], /, *, step: int) -> None:
        table.append(("step", *scalars), step, csv_lines([(step, *scalars.values())]))

    return log


def to_tensorboard(writer: Any) -> Log:
    """Makes a log of TensorBoard's ``SummaryWriter``, or of anything that has ``add_scalar``.

    Args:
        writer: Closed by whoever made it.

    Example:
        >>> from alrc.integrations.loggers import to_tensorboard
        >>> class Writer:  # from torch.utils.tensorboard import SummaryWriter
        ...     def add_scalar(self, name, value, step):
        ...         print(name, value, step)
        >>> to_tensorboard(Writer())({"alrc/loss": 0.5}, step=100)
        alrc/loss 0.5 100
    """

    def log(scalars: dict[str, float], /, *, step: int) -> None:
        for name, number in scalars.items():
            writer.add_scalar(name, number, step)

    return log
