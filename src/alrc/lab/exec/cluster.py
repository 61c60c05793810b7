"""Workers on a Ray cluster, which trains the runs of a study on all of its machines."""

import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from alrc.lab.engine.jobs import Job
from alrc.lab.engine.training import Progress
from alrc.lab.exec.messages import Failed, Gone, Message, throttled, train_job

__all__ = ["RayWorkers"]

REPORT_SECONDS = 2.0
WAIT_SECONDS = 0.5


class RayWorkers:
    """Sends jobs to a Ray cluster, one core to each, and a GPU if it trains on one.

    The folder of the study, and files with tasks or arms of one's own, have to be on storage that
    all machines share: a run whose machine is lost goes on elsewhere from the checkpoint there.

    Args:
        address: Of the cluster, as ``ray.init`` takes it; ``"auto"`` starts one on this machine.
        count: Jobs at a time; None for as many as the cluster has room for.
        gpus_per_run: Share of a GPU that a run on ``cuda`` takes, > 0: 0.25 lets four share one.

    Raises:
        ValueError: If Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str, count: int | None = None, gpus_per_run: float = 1.0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unless asked for
        try:
            import ray
        except ModuleNotFoundError as error:
            lack = "is not installed" if error.name == "ray" else f"lacks {error.name}"
            raise ValueError(
                f'--ray must find Ray, which {lack} here. Install it with: pip install "alrc[ray]"'
            ) from None
        self.ray, self.count, self.gpus_per_run = ray, count, gpus_per_run
        if address != "auto":
            _check_reachable(address)
        local: dict[str, Any] = {"num_cpus": count, "include_dashboard": False}
        try:
            ray.init(
                address="local" if address == "auto" else address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local if address == "auto" else {},
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, error) from None
        # Restarts of a run are counted by the study, the same for all workers.
        self.train: Any = ray.remote(num_cpus=1, max_retries=0)(_train)
        self.board: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()
        self.names: dict[Any, str] = {}  # of the jobs that were started
        self.seen = set[str]()  # of those that have done a step
        self.asked = False  # whether they are to stop

    @property
    def free(self) -> bool:
        return self.count is None or len(self.names) < self.count

    def start(self, job: Job, runs: Path, seconds: float | None = None) -> None:
        train = self.train
        device = next(iter(job.specs.values())).training.device
        if device.startswith("cuda"):
            if device != "cuda":
                raise ValueError(
                    "training.device must be cuda on a Ray cluster, which chooses a GPU for each "
                    f"run; got {device}."
                )
            train = train.options(num_gpus=self.gpus_per_run)
        self.names[train.remote(job, runs.resolve(), seconds, self.board)] = job.name

    def wait(self) -> list[tuple[str, Message]]:
        done, _ = self.ray.wait([*self.names], num_returns=1, timeout=WAIT_SECONDS)
        messages: list[tuple[str, Message]] = []
        for ref in done:
            name = self.names.pop(ref)
            try:
                messages.append((name, self.ray.get(ref)))
            except self.ray.exceptions.RayTaskError as error:  # before the run began
                messages.append((name, Failed.of(error)))
            except self.ray.exceptions.RayError:  # the worker, or its whole machine, is gone
                messages.append((name, Gone()))
        with suppress(self.ray.exceptions.RayError):  # nothing but a display is missed
            running = set(self.names.values())
            states = self.ray.get(self.board.take.remote(self.asked))
            self.seen |= states.keys()
            messages += [(name, state) for name, state in states.items() if name in running]
        return messages

    def ask_to_stop(self) -> None:
        self.asked = True
        with suppress(self.ray.exceptions.RayError):
            self.ray.get(self.board.ask_to_stop.remote(), timeout=REPORT_SECONDS)
        with suppress(self.ray.exceptions.RayError):
            for ref, name in self.names.items():
                if name not in self.seen:  # it waits for a free machine
                    self.ray.cancel(ref)

    def stop(self) -> None:
        with suppress(self.ray.exceptions.RayError):
            for ref in self.names:
                self.ray.cancel(ref, force=True)
        self.names = {}
        self.ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> ValueError:
    return ValueError(
        "--ray must be the address of a running Ray cluster, such as 10.0.0.1:6379, or auto, "
        f"which starts one on this machine; got {address} ({error})."
    )


class _Board:
    """Where jobs leave how far they have come, and look whether they are to stop."""

    def __init__(self) -> None:
        self.states: dict[str, Progress] = {}
        self.asked = False

    def show(self, name: str, state: Progress) -> None:
        self.states[name] = state

    def take(self, asked: bool) -> dict[str, Progress]:
        self.asked = asked  # which one that was started anew does not know
        states, self.states = self.states, {}
        return states

    def ask_to_stop(self) -> None:
        self.asked = True

    def is_asked(self) -> bool:
        return self.asked


def _train(job: Job, runs: Path, seconds: float | None, board: Any) -> Message:
    """On the cluster: one job, and how it ended."""
    import ray

    torch.set_num_threads(1)
    looked, is_asked = time.monotonic(), False

    def asked() -> bool:
        nonlocal looked, is_asked
        if time.monotonic() - looked >= REPORT_SECONDS:
            looked = time.monotonic()
            with suppress(ray.exceptions.RayError):
                is_asked = ray.get(board.is_asked.remote(), timeout=REPORT_SECONDS)
        return is_asked

    try:
        check_shared(job, runs)
    except FileNotFoundError as error:
        return Failed.of(error)
    report = throttled(lambda state: board.show.remote(job.name, state), REPORT_SECONDS)
    return train_job(job, runs, seconds, report, asked)


def check_shared(job: Job, runs: Path) -> None:
    """Refuses a machine that does not have the files of the study."""
    needed = {runs / name / "config.json": "Pass such a folder as --out" for name in job.specs}
    for spec in job.specs.values():
        needed |= dict.fromkeys(spec.own_files, "Move it there")
    for path, mend in needed.items():
        if not path.exists():
            raise FileNotFoundError(
                f"{path} must be on storage that all machines of the cluster share; it is not on "
                f"{os.uname().nodename}. {mend}."
            )
