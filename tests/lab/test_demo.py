"""Two runs side by side in real processes, and what is said about them."""

import io
import multiprocessing
import os

import numpy as np
import pytest
from rich.console import Console

from alrc.lab.cli.side_by_side import RunError, Timed, compare, run_side_by_side, verdict
from alrc.lab.data.images import Images
from alrc.lab.engine.training import Run, RunConfig, train
from alrc.lab.tasks.supersampling.task import Supersampling


def small_task() -> Supersampling:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 32, 32), np.uint8)
    return Supersampling(Images("noise", images, images[:1]), width=1)


def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_runs_side_by_side_are_those_run_alone() -> None:
    configs = {"plain": RunConfig(20), "ALRC": RunConfig(20, num_stddev=1.0)}
    screen = console()
    results = run_side_by_side(small_task(), configs, screen)
    assert list(results) == ["plain", "ALRC"]
    for name, config in configs.items():
        alone = train(small_task(), config)
        assert results[name].run.config == config
        np.testing.assert_array_equal(results[name].run.losses, alone.losses)
        np.testing.assert_array_equal(results[name].run.clipped, alone.clipped)
    lines = screen.file.getvalue().splitlines()
    last = {line.split()[0]: line for line in lines}
    error, clipped = alone.losses[-1, 0], alone.clipped.sum()
    limit = alone.limits[-1]
    assert last["ALRC"] == f"ALRC       20/20 error {error:7.3g} limit {limit:5.3g} clipped " + (
        f"{clipped:5}"
    )
    assert "\x1b" not in screen.file.getvalue()  # no live bars where there is no terminal
    assert not multiprocessing.active_children()


def test_a_failed_run_shows_its_traceback() -> None:
    broken = Supersampling(images=None)
    with pytest.raises(RunError) as caught:
        run_side_by_side(broken, {"plain": RunConfig(20)}, console())
    lines = str(caught.value).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == "AttributeError: 'NoneType' object has no attribute 'training'"
    assert lines[-1] == "the plain run failed; its traceback is above."
    assert not multiprocessing.active_children()


class EndsItsReceiver:
    """As if the system had killed the worker: unpickling this ends the process at once."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


def test_a_killed_worker_is_noticed() -> None:
    with pytest.raises(RunError) as caught:
        run_side_by_side(EndsItsReceiver(), {"plain": RunConfig(20)}, console())
    assert str(caught.value) == "a run was ended from outside; was there too little memory?"
    assert not multiprocessing.active_children()


def make_run(final: float, num_stddev: float | None = None) -> Run:
    losses = np.full((1000, 1), 2.0, np.float32)
    losses[-100:] = final
    losses[300] = 80.25
    clipped = np.zeros((1000, 1), bool)
    clipped[:12] = num_stddev is not None
    limited = np.where(clipped, losses / 2, losses)
    config = RunConfig(1000, num_stddev=num_stddev)
    return Run(config, losses, np.full(1000, np.inf), limited, np.zeros(1))


def test_table() -> None:
    screen = console()
    results = {"plain": Timed(make_run(1.25), 90.4), "ALRC": Timed(make_run(1.0, 3.0), 95.6)}
    screen.print(compare(results))
    rows = [
        [cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")]
        for line in screen.file.getvalue().splitlines()
        if line[0] in "┃│"
    ]
    header = [" ".join(cells).strip() for cells in zip(*rows[:-2], strict=True)]
    assert header == [
        "",
        "mean error, last 100",
        "largest spike after 200",
        "losses clipped",
        "time",
    ]
    assert rows[-2:] == [
        ["plain", "1.25", "80.25", "-", "90 s"],
        ["ALRC", "1", "80.25", "12 (1.20%)", "96 s"],
    ]


@pytest.mark.parametrize(
    ("plain", "alrc", "sentence"),
    [
        (1.25, 1.0, "With this seed the mean error of the last tenth is 20.0% lower with ALRC"),
        (
            1.0,
            1.25,
            "No gain with this seed: the mean error of the last tenth is 25.0% higher with ALRC",
        ),
        (1.0, 1.0, "No gain with this seed: the mean errors of the last tenth are equal"),
        (np.nan, 1.0, "With this seed the plain run diverged and the run with ALRC did not"),
        (np.inf, 1.0, "With this seed the plain run diverged and the run with ALRC did not"),
        (1.0, np.inf, "No gain with this seed: the run with ALRC diverged"),
        (np.nan, np.nan, "No gain with this seed: the run with ALRC diverged"),
    ],
)
def test_verdict(plain: float, alrc: float, sentence: str) -> None:
    expected = f"{sentence}; one seed is a lead, not a result."
    assert verdict(make_run(plain), make_run(alrc, 3.0)) == expected
