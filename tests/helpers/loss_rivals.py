"""Arms that act on losses, their oracles, losses to try them with, and how they are compared."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import loss_oracles as oracles
import numpy as np
import torch
from loss_oracles import Oracle
from torch import Tensor

from alrc.lab.api import Arm
from alrc.lab.arms.alrc_clamp import AlrcClamp
from alrc.lab.arms.alrc_drop import AlrcDrop
from alrc.lab.arms.alrc_log import AlrcLog
from alrc.lab.arms.gce import GCE
from alrc.lab.arms.huber import Huber
from alrc.lab.arms.huberise import Huberise
from alrc.lab.arms.limiter import LimiterArm
from alrc.lab.arms.loss_dropper import LossDropper
from alrc.lab.arms.sce import SCE
from alrc.lab.arms.trim import Trim

CPU = torch.device("cpu")
BELOW = {"num_stddev": 2.0, "num_stddev_below": 1.5, "decay": 0.97}
STARTS = {"mu1_start": 2.0, "mu2_start": 9.0}
CASES: dict[str, tuple[Callable[[], Arm], Callable[[], Oracle]]] = {
    "huber": (lambda: Huber(0.3), lambda: oracles.huber(0.3, 2)),
    "huber quartic": (lambda: Huber(2.0, 4.0), lambda: oracles.huber(2, 4)),
    "huberise": (Huberise, lambda: oracles.huberise(1)),
    "huberise lower": (lambda: Huberise(0.2), lambda: oracles.huberise(0.2)),
    "trim": (Trim, lambda: oracles.trim("0.1")),
    "trim more": (lambda: Trim(0.55), lambda: oracles.trim("0.55")),
    "loss-dropper": (lambda: LossDropper(memory=50), lambda: oracles.loss_dropper(0.4, 50)),
    "loss-dropper less": (lambda: LossDropper(0.1, 70), lambda: oracles.loss_dropper(0.1, 70)),
    "gce": (GCE, lambda: oracles.gce(0.7)),
    "sce": (SCE, lambda: oracles.sce(0.1, 1.0, 4.0)),
    "alrc-clamp": (lambda: AlrcClamp(2.0), lambda: oracles.alrc_clamp(num_stddev=2.0)),
    "alrc-clamp below": (lambda: AlrcClamp(**BELOW), lambda: oracles.alrc_clamp(**BELOW)),
    "alrc-drop": (lambda: AlrcDrop(1.0), lambda: oracles.alrc_drop(num_stddev=1.0)),
    "alrc-drop starts": (lambda: AlrcDrop(**STARTS), lambda: oracles.alrc_drop(**STARTS)),
    "alrc-log": (lambda: AlrcLog(1.5), lambda: oracles.alrc_log(1.5)),
    "alrc-log below": (
        lambda: AlrcLog(2.0, 0.97, num_stddev_below=1.5, warmup=3),
        lambda: oracles.alrc_log(2, 1.5, 0.97, 3),
    ),
    "alrc-log recency": (lambda: AlrcLog(1.0, recency=4), lambda: oracles.alrc_log(1, recency=4)),
    "alrc-drop recency": (
        lambda: AlrcDrop(1.0, recency=4.0),
        lambda: oracles.alrc_drop(num_stddev=1.0, recency=4.0),
    ),
    "alrc-log starts": (
        lambda: AlrcLog(1.0, **STARTS),
        lambda: oracles.alrc_log(1, starts=(2.0, 9.0)),
    ),
}


def stream(steps: int = 180, shape: tuple[int, ...] = (8,)) -> Iterator[Tensor]:
    """Losses that spread over decades, some of them 0, NaN, infinite, or a thousand times too
    large; once a batch of nothing else than NaN."""
    rng = np.random.default_rng(8)
    for step in range(steps):
        losses = rng.lognormal(0.0, 1.5, shape) * np.where(rng.random(shape) < 0.02, 1000, 1)
        losses[rng.random(shape) < 0.03] = 0.0
        losses.flat[0] = {20: math.nan, 40: math.inf, 60: 0.0}.get(step % 80, losses.flat[0])
        yield torch.tensor(losses if step != 130 else losses * math.nan, dtype=torch.float32)


def begun(arm: Arm) -> Arm:
    arm.begin(CPU)
    return arm


def changed(arm: Arm, losses: Tensor) -> tuple[Tensor, Tensor]:
    """The losses to train with, and the gradient of their sum."""
    leaf = losses.clone().requires_grad_()
    limited = arm.limit("loss", leaf)
    return limited.detach(), torch.autograd.grad(limited.sum(), leaf)[0]


def state_of(arm: Arm) -> Mapping[str, Any]:
    if isinstance(arm, LossDropper):
        return {"cutoff": arm.cutoff["loss"], "latest": arm.latest["loss"].sort().values}
    if isinstance(arm, AlrcLog):
        moments = arm.limiter("loss").state_dict()
        mean = moments["geometric_mean"].double().log()
        return {"mean": mean, "variance": moments["log_variance"], **moments}
    if isinstance(arm, LimiterArm):
        return {**arm.limiter("loss").state_dict(), "upper": arm.threshold("loss")}
    return {}


def assert_follows(arm: Arm, oracle: Oracle) -> None:
    """Compares values, gradients and state at every step."""
    begun(arm)
    differing = 0
    for losses in stream():
        values, factors, state = oracle(losses.double().tolist())
        own = [x.double().numpy() for x in changed(arm, losses)]
        np.testing.assert_allclose(own[0], values, rtol=2e-5, atol=1e-7)
        np.testing.assert_allclose(own[1], factors, rtol=2e-5, atol=1e-7)
        mine = state_of(arm)
        for name, expected in state.items():
            numbers = mine[name].double().flatten().numpy()
            wanted = np.full(numbers.shape, np.nan)  # places of the memory that are still empty
            wanted[: np.size(expected)] = expected
            np.testing.assert_allclose(numbers, wanted, rtol=1e-4, atol=1e-6, err_msg=name)
        differing += factors != [1.0] * len(factors)
    assert differing > 10
