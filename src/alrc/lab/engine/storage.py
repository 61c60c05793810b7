"""A run's folder: what fixes it, its losses, its last checkpoint, and what came of it."""

import dataclasses
import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import numpy as np
import torch

from alrc.lab.engine.files import written_whole
from alrc.lab.engine.training import Run, RunConfig

__all__ = ["RunFolder"]


class RunFolder:
    """Keeps one run in a folder, for one process at a time; use it in a ``with`` block.

    ``config.json`` fixes the run. ``losses.npy``, ``limits.npy``, ``limited.npy`` and
    ``held_out.npy`` are written step by step, memory-mapped; ``checkpoint.pt`` and
    ``result.json`` appear whole. A process may be killed at any moment: what was written after
    the last checkpoint is written again with the same numbers.

    Args:
        path: The folder; made if it is not there.
        description: What fixes the task, as plain values.
        config: How it is trained.

    Raises:
        ValueError: If the folder holds another run, or a running one.
    """

    def __init__(self, path: Path, description: dict[str, Any], config: RunConfig) -> None:
        self.path, self.config = path, config
        self._fixed = {**description, **dataclasses.asdict(config)}
        self._lock = filelock.FileLock(path / ".lock")

    def __enter__(self) -> "RunFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)  # the system frees it, however this process ends
        except filelock.Timeout:
            raise ValueError(
                f"{self.path} must belong to one process at a time; another one is training this "
                "run. Wait for it, or pass another folder."
            ) from None
        try:
            for leftover in self.path.glob(".*.part"):  # of a process killed while it wrote
                leftover.unlink()
            self._check_or_write_config()
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

    def _check_or_write_config(self) -> None:
        file = self.path / "config.json"
        # To JSON and back, so that both sides are what JSON can say.
        fixed = json.loads(json.dumps(self._fixed))
        if not file.exists():
            _write_json(file, fixed)
            return
        stored = json.loads(file.read_text())
        names = sorted(n for n in stored.keys() | fixed.keys() if stored.get(n) != fixed.get(n))
        if names:
            changes = ", ".join(f"{n} {fixed.get(n)!r} (there: {stored.get(n)!r})" for n in names)
            raise ValueError(
                f"{self.path} must hold this very run to go on with it; it holds another one: got "
                f"{changes}. Pass another folder, or the settings of that run."
            )

    def open_run(self, config: RunConfig) -> Run:
        """The stored run, whose arrays are the files themselves."""
        arrays = {}
        for name, shape in Run.shapes(config).items():
            file = self.path / f"{name}.npy"
            if not file.exists():
                with written_whole(file) as part, part.open("wb") as stream:
                    np.save(stream, np.full(shape, np.nan, np.float32))
            arrays[name] = np.asarray(np.lib.format.open_memmap(file, mode="r+"))
        return Run(config, **arrays)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or None before the first."""
        file = self.path / "checkpoint.pt"
        if not file.exists():
            return None
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return state

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the last checkpoint, whole."""
        with written_whole(self.path / "checkpoint.pt") as part:
            torch.save(state, part)

    def save_result(self, run: Run) -> dict[str, Any]:
        """Writes what came of a finished run, and returns it; None stands for NaN and inf."""
        errors = {
            "final_error": run.final_error,
            "largest_spike": run.largest_spike,
            "held_out_error": float(run.held_out[-1]),
        }
        result = {
            **{name: error if math.isfinite(error) else None for name, error in errors.items()},
            "num_clipped": int(run.clipped.sum()),
            "num_losses": run.losses.size,
        }
        _write_json(self.path / "result.json", result)
        return result


def _write_json(file: Path, value: dict[str, Any]) -> None:
    with written_whole(file) as part:
        part.write_text(json.dumps(value, indent=2) + "\n")
