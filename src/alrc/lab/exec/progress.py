"""How far runs have come, shown live on a terminal and in lines elsewhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from alrc.lab.engine.training import Run, RunConfig

__all__ = ["Show", "State", "show_progress"]


class State(NamedTuple):
    """How far a run has come."""

    iteration: int
    error: float  # mean of the last hundredth of the run
    limit: float
    num_clipped: int

    @classmethod
    def of(cls, step: int, run: Run) -> "State":
        window = max(run.config.iterations // 100, 1)
        return cls(
            step,
            float(run.losses[max(step - window, 0) : step].mean()),
            float(run.limits[step - 1]),
            int(run.clipped[:step].sum()),
        )

    def __str__(self) -> str:
        return f"error {self.error:7.3g} limit {self.limit:5.3g} clipped {self.num_clipped:5,}"


Show = Callable[[str, State], None]


def show_progress(
    configs: Mapping[str, RunConfig], console: Console
) -> AbstractContextManager[Show]:
    """Gives a function that shows the state of the run of a name."""
    return (_bars if console.is_terminal else _lines)(configs, console)


@contextmanager
def _lines(configs: Mapping[str, RunConfig], console: Console) -> Iterator[Show]:
    """A line for each tenth of each run."""
    shown = dict.fromkeys(configs, 0)

    def show(name: str, state: State) -> None:
        total = configs[name].iterations
        if (tenth := 10 * state.iteration // total) > shown[name]:
            shown[name] = tenth
            console.print(f"{name:5} {state.iteration:7,}/{total:,} {state}")

    yield show


@contextmanager
def _bars(configs: Mapping[str, RunConfig], console: Console) -> Iterator[Show]:
    """A live bar for each run."""
    columns = (
        TextColumn("{task.description:5}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,}/{task.total:,} {task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        bars = {
            name: progress.add_task(name, total=config.iterations, state="starting")
            for name, config in configs.items()
        }

        def show(name: str, state: State) -> None:
            progress.update(bars[name], completed=state.iteration, state=str(state))

        yield show
