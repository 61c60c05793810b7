"""Workers on a Ray cluster, which trains the runs of a study on all of its machines."""

import logging
import os
import socket
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from alrc.lab.engine.grid import Job, StudyTask
from alrc.lab.engine.training import RunConfig
from alrc.lab.exec.progress import State
from alrc.lab.exec.workers import Message, run_one, throttled

__all__ = ["RayWorkers"]

REPORT_SECONDS = 2.0
WAIT_SECONDS = 0.5


class RayWorkers:
    """Sends runs to a Ray cluster, one core to each.

    The folder of the study has to be on storage that all machines share: a run whose machine is
    lost goes on elsewhere from the checkpoint there.

    Args:
        address: Of the cluster, as ``ray.init`` takes it; ``"auto"`` starts one on this machine.
        count: Runs at a time; None for as many as the cluster has room for.

    Raises:
        ValueError: If Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str, count: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unless asked for
        try:
            import ray
        except ModuleNotFoundError:
            raise ValueError(
                "--ray must find Ray, which is not installed here. Install it with: "
                'pip install "alrc[ray]"'
            ) from None
        self.ray, self.count = ray, count
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
        except (ConnectionError, ValueError) as error:
            raise _no_cluster(address, error) from None
        # Restarts of a run are counted by the study, the same for all workers.
        self.train: Any = ray.remote(num_cpus=1, max_retries=0)(_train)
        self.board: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()
        self.tasks: dict[int, Any] = {}  # each is sent to the cluster once, not with every run
        self.names: dict[Any, str] = {}  # of the runs that were started

    @property
    def free(self) -> bool:
        return self.count is None or len(self.names) < self.count

    def start(self, name: str, job: Job, folder: Path) -> None:
        key = id(job.task)
        if key not in self.tasks:
            self.tasks[key] = self.ray.put(job.task)
        ref = self.train.remote(name, self.tasks[key], job.config, folder.resolve(), self.board)
        self.names[ref] = name

    def wait(self) -> list[tuple[str, Message]]:
        done, _ = self.ray.wait([*self.names], num_returns=1, timeout=WAIT_SECONDS)
        messages: list[tuple[str, Message]] = []
        for ref in done:
            name = self.names.pop(ref)
            try:
                messages.append((name, self.ray.get(ref)))
            except self.ray.exceptions.RayTaskError as error:  # before the run began
                messages.append((name, str(error)))
            except self.ray.exceptions.RayError:  # the worker, or its whole machine, is gone
                messages.append((name, None))
        with suppress(self.ray.exceptions.RayError):  # nothing but a display is missed
            running = set(self.names.values())
            states = self.ray.get(self.board.take.remote())
            messages += [(name, state) for name, state in states.items() if name in running]
        return messages

    def stop(self) -> None:
        with suppress(self.ray.exceptions.RayError):
            for ref in self.names:
                self.ray.cancel(ref, force=True)
        self.ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> ValueError:
    return ValueError(
        "--ray must be the address of a running Ray cluster, such as 10.0.0.1:6379, or auto, "
        f"which starts one on this machine; got {address} ({error})."
    )


class _Board:
    """Where runs leave how far they have come."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}

    def show(self, name: str, state: State) -> None:
        self.states[name] = state

    def take(self) -> dict[str, State]:
        states, self.states = self.states, {}
        return states


def _train(name: str, task: StudyTask, config: RunConfig, folder: Path, board: Any) -> Message:
    """On the cluster: one run, and its result or traceback."""
    torch.set_num_threads(1)
    try:
        if not (folder / "config.json").exists():
            raise FileNotFoundError(
                f"{folder} must be on storage that all machines of the cluster share; it is not "
                f"on {os.uname().nodename}. Pass such a folder as --out."
            )
        report = throttled(lambda state: board.show.remote(name, state), REPORT_SECONDS)
        return run_one(task, config, folder, report)
    except Exception:
        return traceback.format_exc()
