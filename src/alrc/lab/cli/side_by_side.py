"""Two runs side by side, plain and with ALRC, that differ in nothing else."""

import math
import multiprocessing
import signal
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from alrc.lab.engine.training import Run, RunConfig, Task, train
from alrc.lab.exec.progress import Show, State, show_progress

__all__ = ["RunError", "Timed", "compare", "run_side_by_side", "verdict"]

REPORT_SECONDS = 0.25


class Timed(NamedTuple):
    """A finished run, and the seconds it took."""

    run: Run
    seconds: float


class RunError(RuntimeError):
    """A run ended without a result; the message holds its traceback, if it left one."""


def run_side_by_side(
    task: Task, configs: Mapping[str, RunConfig], console: Console
) -> dict[str, Timed]:
    """Trains every configuration in a process of its own, one thread each, showing progress.

    However this ends, no process is left running. Only for the main thread: it sees to Ctrl-C.

    Args:
        task: What to learn; has to be picklable.
        configs: Name of each run, and what fixes it.
        console: Where to show progress: live on a terminal, else a line per tenth of a run.

    Raises:
        RunError: If a run ends without a result.
    """
    try:
        with _workers(configs) as names, show_progress(configs, console) as show:
            for connection, name in names.items():
                connection.send((task, configs[name]))
            results = dict(_results(names, show))
    except (EOFError, ConnectionError):
        raise RunError("a run was ended from outside; was there too little memory?") from None
    return {name: results[name] for name in configs}


@contextmanager
def _workers(names: Iterable[str]) -> Iterator[dict[Connection, str]]:
    """A process for each name, each at the other end of a connection, until the block ends."""
    context = multiprocessing.get_context("spawn")
    workers, connections = [], {}
    try:
        # Workers inherit this, so that Ctrl-C reaches this process alone, which then stops them.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for name in names:
                connection, other_end = context.Pipe()
                worker = context.Process(target=_work, args=(other_end,), name=name, daemon=True)
                worker.start()
                other_end.close()  # or the end of the worker would not end the conversation
                workers.append(worker)
                connections[connection] = name
        finally:
            signal.signal(signal.SIGINT, interrupt)
        yield connections
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _results(names: dict[Connection, str], show: Show) -> Iterator[tuple[str, Timed]]:
    """Passes on what the workers report until each has sent its result."""
    while names:
        for connection in set(names).intersection(wait(list(names))):
            name, message = names[connection], connection.recv()
            match message:
                case State():
                    show(name, message)
                case Timed():
                    del names[connection]
                    yield name, message
                case _:
                    raise RunError(f"{message}the {name} run failed; its traceback is above.")


def _work(connection: Connection) -> None:
    """A worker: receives task and configuration; sends states, then the result or a traceback."""
    torch.set_num_threads(1)
    last = 0.0

    def report(step: int, run: Run) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_SECONDS or step == run.config.iterations:
            last = now
            connection.send(State.of(step, run))

    try:
        task, config = connection.recv()
        start = time.perf_counter()
        run = train(task, config, report)
        connection.send(Timed(run, time.perf_counter() - start))
    except (BrokenPipeError, EOFError):
        pass  # nobody is listening any more
    except Exception:
        connection.send(traceback.format_exc())


def compare(results: Mapping[str, Timed]) -> Table:
    """A table of what came of the runs, a row each."""
    iterations = next(iter(results.values())).run.config.iterations
    table = Table("")
    table.add_column(f"mean error, last {iterations // 10:,}", justify="right")
    table.add_column(f"largest spike after {iterations // 5:,}", justify="right")
    table.add_column("losses clipped", justify="right")
    table.add_column("time", justify="right")
    for name, (run, seconds) in results.items():
        count, share = run.clipped.sum(), run.clipped.mean()
        table.add_row(
            name,
            f"{run.final_error:.4g}",
            f"{run.largest_spike:.4g}",
            f"{count:,} ({share:.2%})" if run.config.num_stddev is not None else "-",
            f"{seconds:.0f} s",
        )
    return table


def verdict(plain: Run, alrc: Run) -> str:
    """One sentence on whether the mean error of the last tenth is lower with ALRC."""
    before, after = plain.final_error, alrc.final_error
    if not math.isfinite(after):
        outcome = "No gain with this seed: the run with ALRC diverged"
    elif not math.isfinite(before):
        outcome = "With this seed the plain run diverged and the run with ALRC did not"
    elif after < before:
        outcome = (
            "With this seed the mean error of the last tenth is "
            f"{1 - after / before:.1%} lower with ALRC"
        )
    elif after > before:
        outcome = (
            "No gain with this seed: the mean error of the last tenth is "
            f"{after / before - 1:.1%} higher with ALRC"
        )
    else:
        outcome = "No gain with this seed: the mean errors of the last tenth are equal"
    return f"{outcome}; one seed is a lead, not a result."
