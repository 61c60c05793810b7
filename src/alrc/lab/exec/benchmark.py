"""A benchmark: of each part, arms are tuned on some seeds, and then all are run on others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from alrc.lab.engine.benchmark_file import Benchmark, Workload
from alrc.lab.engine.grid import named
from alrc.lab.engine.jobs import plan
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.tuning import read_tuning
from alrc.lab.exec.messages import Workers
from alrc.lab.exec.study import run_study

__all__ = ["run_part"]

PLAIN = Named("arm", "off")  # what it reaches is the target of all others
Work = Mapping[str, tuple[Sequence[Named], Sequence[int]]]  # arms and seeds of workloads


def run_part(
    benchmark: Benchmark,
    part: str,
    out: Path,
    make_workers: Callable[[], Workers],
    console: Console,
    retry: bool = False,
) -> dict[str, Path]:
    """Tunes arms on the tuning seeds, then trains all arms and the chosen trials on the others.

    Args:
        benchmark: All of it.
        part: Which of its workloads.
        out: The folder of the part: the trials are in ``tuning`` there.
        make_workers: Gives those that train; they are stopped after each of both.
        console, retry: As for :func:`alrc.lab.exec.study.run_study`.

    Returns:
        The logs of the runs that failed. If trials failed, nothing else was trained.

    Raises:
        ValueError: If a workload can't be trained, or the folder holds something else.
        StudyStopped: If it was stopped before all runs had ended.
    """
    workloads = {workload.name: workload for workload in benchmark.of(part)}
    tuning: Work = {
        name: (
            [PLAIN, *(t for trials in w.trials.values() for t in trials)],
            benchmark.tuning_seeds,
        )
        for name, w in workloads.items()
    }
    # Both are made before anything is trained, so that what can't be is refused at once.
    _runs(workloads, {name: (w.arms, w.seeds) for name, w in workloads.items()}, out)
    specs, names = _runs(workloads, tuning, out / "tuning")
    seeds = benchmark.tuning_seeds
    record = {
        name: {
            "plain": [names[name, PLAIN.spelled, seed] for seed in seeds],
            "trials": {
                arm: {t.spelled: [names[name, t.spelled, seed] for seed in seeds] for t in trials}
                for arm, trials in workload.trials.items()
            },
        }
        for name, workload in workloads.items()
    }
    console.print(f"{part}: tuning", markup=False, highlight=False)
    failed = _train(specs, out / "tuning", make_workers(), console, retry, record)
    if failed:
        return failed
    tuned = read_tuning(out / "tuning")
    chosen = {
        name: {arm: _trial(workload, arm, tuned[name].chosen[arm]) for arm in workload.trials}
        for name, workload in workloads.items()
    }
    main: Work = {
        name: ([*w.arms, *chosen[name].values()], w.seeds) for name, w in workloads.items()
    }
    specs, names = _runs(workloads, main, out)
    record = {
        name: {
            "table": workload.table,
            "runs": {
                arm.spelled: [names[name, arm.spelled, seed] for seed in workload.seeds]
                for arm in workload.arms
            },
            "tuned": {
                arm: [names[name, trial.spelled, seed] for seed in workload.seeds]
                for arm, trial in chosen[name].items()
            },
        }
        for name, workload in workloads.items()
    }
    console.print(f"{part}: all arms", markup=False, highlight=False)
    return _train(specs, out, make_workers(), console, retry, record)


def _trial(workload: Workload, arm: str, spelled: str) -> Named:
    return next(trial for trial in workload.trials[arm] if trial.spelled == spelled)


def _runs(
    workloads: Mapping[str, Workload], work: Work, out: Path
) -> tuple[dict[str, Spec], dict[tuple[str, str, int], str]]:
    """Runs by name, and the names by workload, arm and seed."""
    digests: dict[str, str] = {}
    specs: list[tuple[list[str], Spec]] = []
    keys: dict[tuple[str, str, int], str] = {}
    for name, (arms, seeds) in work.items():
        for spec in workloads[name].specs(arms, seeds):
            arm, digest = spec.config["arm"], spec.digest
            if (other := digests.setdefault(digest, name)) != name:
                raise ValueError(
                    f"{workloads[name].grid['file']}: workloads of a part must differ in task or "
                    f"training; {other} is the same. Remove one of them."
                )
            keys[name, arm, spec.seed] = digest
            specs.append(([name, arm], spec))
    found = named(specs, _there(out))
    by_digest = {spec.digest: name for name, spec in found.items()}
    return found, {key: by_digest[digest] for key, digest in keys.items()}


def _there(out: Path) -> Iterable[str]:
    return (path.name for path in out.glob("runs/*"))


def _train(
    specs: Mapping[str, Spec],
    out: Path,
    workers: Workers,
    console: Console,
    retry: bool,
    record: Mapping[str, Any],
) -> dict[str, Path]:
    said = {"runs": list(specs), "cores": workers.count, "workloads": record}
    return run_study(plan(specs), out, workers, console, retry, said)
