"""``alrc lab study`` of a benchmark: its parts, one after another, and what is kept of each."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from alrc.lab.cli.options import fail

if TYPE_CHECKING:
    from alrc.lab.exec.messages import Workers

__all__ = ["draw", "run_benchmark"]


def run_benchmark(
    file: Path,
    changes: Mapping[str, Any],
    parts: Sequence[str],
    out: Path,
    make_workers: Callable[[str], "Workers"],
    retry: bool,
) -> None:
    """Runs the parts, stores what came of each in ``compact``, and draws the report.

    Args:
        file: That of the benchmark.
        changes, parts: What takes the place of what it says.
        out: Its folder.
        make_workers: Gives those for a device.
        retry: Whether runs that failed are run again.
    """
    from rich.console import Console

    from alrc.lab.engine.benchmark_file import Benchmark
    from alrc.lab.exec.benchmark import run_part
    from alrc.lab.report.compact import write_compact

    benchmark, console, failed = Benchmark.read(file, changes, parts), Console(stderr=True), False
    device = str(changes.get("training.device", "cpu"))
    for part in benchmark.parts:
        logs = run_part(benchmark, part, out / part, lambda: make_workers(device), console, retry)
        for name, log in logs.items():
            typer.echo(f"{name}: {log}", err=True)
        failed = failed or bool(logs)
        for written in [] if logs else write_compact(out / part, out / "compact"):
            typer.echo(written)
    if (out / "compact").is_dir():
        draw(out / "compact", out)
    if failed:
        fail("some runs failed, with the logs above; --retry runs them again.", 1)


def draw(folder: Path, out: Path) -> None:
    """The report of a benchmark, from its compact results alone."""
    from alrc.lab.report.benchmark import draw_benchmark

    draw_benchmark(folder, out)
