"""The scalars in TensorBoard, Weights & Biases, MLflow and CSV files, of one rank and of two."""

import json
import math
import sys

import pytest
from launching import TORCHRUN, launch
from watching import Oracle, assert_same_scalars, assert_same_spikes, rows, train

from alrc.integrations.loggers import Watch, read_spikes, to_csv, to_tensorboard
from alrc.torch import ALRC

# The real tools


def run_with(log, every: int = 5):
    """Trains with a log, and returns what the oracle says it got."""
    settings = {
        "num_stddev": 3,
        "scale": "linear",
        "decay": 0.98,
        "warmup": 7,
    }  # no limit at the first time: inf
    alrc = ALRC(**settings)
    with Watch(alrc, log, every=every):
        seen = train(alrc)
    _, scalars = Oracle(**settings).run([(losses, {}) for losses in seen], every)
    assert scalars[0][1]["alrc/limit"] == math.inf
    assert math.isfinite(scalars[-1][1]["alrc/limit"])
    return scalars


def by_step(scalars, name: str):
    return [(step, numbers[name]) for step, numbers in scalars]


def test_csv_holds_the_scalars(tmp_path) -> None:
    scalars = run_with(to_csv(tmp_path / "scalars.csv"))
    found = rows(tmp_path / "scalars.csv")
    read = [(int(row.pop("step")), {k: float(v) for k, v in row.items()}) for row in found]
    assert_same_scalars(read, scalars)


def test_tensorboard_holds_the_scalars(tmp_path, monkeypatch) -> None:
    # TensorBoard's own way to leave TensorFlow alone, which takes many seconds to import.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", type(sys)("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        scalars = run_with(to_tensorboard(writer))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == set(scalars[0][1])
    for name in scalars[0][1]:
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert read == [
            (step, pytest.approx(number, rel=1e-4)) for step, number in by_step(scalars, name)
        ]


def test_weights_and_biases_holds_the_scalars(tmp_path, monkeypatch) -> None:
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    import wandb

    found = []
    try:
        with wandb.init(mode="offline", dir=tmp_path, project="test") as run:

            def log(scalars, step):
                run.log(scalars, step=step)
                run.log({"loss": 1.0}, step=step + 1)  # the user's own, which completes the step
                summary = dict(run.summary)
                found.append((step, {k: v for k, v in summary.items() if "alrc/" in k}))

            scalars = run_with(log)
    finally:
        wandb.teardown()
    assert_same_scalars(found, scalars)


def test_mlflow_holds_the_scalars(tmp_path, monkeypatch) -> None:
    # A store of plain files is all that mlflow-skinny has, and has to be asked for.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            scalars = run_with(mlflow.log_metrics)
        client = mlflow.MlflowClient()
        for name in scalars[0][1]:
            history = client.get_metric_history(run.info.run_id, name)
            assert [(metric.step, metric.value) for metric in history] == [
                (step, pytest.approx(number, rel=1e-4)) for step, number in by_step(scalars, name)
            ]
    finally:
        mlflow.set_tracking_uri(before)


# Many ranks

RANK = """
import json, sys
import torch
import torch.distributed as dist
from alrc.integrations.loggers import Watch, to_csv
from alrc.torch import ALRC

torch.set_num_threads(1)
folder = sys.argv[1]
dist.init_process_group("gloo")
rank = dist.get_rank()
exchanges, all_reduce = 0, dist.all_reduce

def counting(*args, **kwargs):
    global exchanges
    exchanges += 1
    return all_reduce(*args, **kwargs)

dist.all_reduce = counting
results = []
for sync in True, False:
    exchanges = 0
    alrc = ALRC(decay=0.9, num_stddev=1.5, center="mean", scale="linear", sync=sync)
    random, seen = torch.Generator().manual_seed(rank), []
    logs = to_csv(f"{folder}/{sync}/scalars.csv")
    watch = Watch(alrc, logs, every=10, spikes=f"{folder}/{sync}/spikes.csv")
    for step in range(35):
        losses = torch.rand(4, generator=random) + rank
        losses[step % 4] += 5.0 * (step % 7 == rank)
        seen.append(losses.tolist())
        watch.name_next([f"rank {rank}, {step}, {i}" for i in range(4)])
        alrc(losses)
    if not sync:
        dist.barrier()
        dist.destroy_process_group()  # before the last numbers are written
    watch.close()
    results.append([seen, exchanges])
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(results[::-1], file)
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The folder that two processes logged to, and for each what it saw and how often it spoke."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(TORCHRUN, RANK, folder)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("sync", [False, True])
def test_two_ranks_log_to_one_path_without_damage(two_ranks, sync) -> None:
    folder = two_ranks[0] / str(sync)
    seen = [results[sync][0] for results in two_ranks[1]]
    keys = [[[f"rank {r}, {step}, {i}" for i in range(4)] for step in range(35)] for r in range(2)]

    def oracle(losses, keys):
        calls = [(x, {"keys": k}) for x, k in zip(losses, keys, strict=True)]
        return Oracle(decay=0.9, num_stddev=1.5, center="mean").run(calls, every=10)

    if sync:
        together = [[x + y for x, y in zip(*ranks, strict=True)] for ranks in (seen, keys)]
        spikes, scalars = oracle(*together)
        spikes = [spike._replace(rank=spike.index // 4, index=spike.index % 4) for spike in spikes]
    else:
        spikes, scalars = oracle(seen[0], keys[0])
        spikes += [spike._replace(rank=1) for spike in oracle(seen[1], keys[1])[0]]
        spikes.sort(key=lambda spike: spike[:3])
    assert {spike.rank for spike in spikes} == {0, 1}
    assert_same_spikes(read_spikes(folder / "spikes.csv"), spikes)
    assert {spike["rank"] for spike in rows(folder / "spikes-rank1.csv")} == {"1"}

    # Limit and counts are those of all ranks that share them; the mean loss is that of rank 0.
    own = oracle(seen[0], keys[0])[1]
    found = rows(folder / "scalars.csv")
    assert [int(row["step"]) for row in found] == [10, 20, 30, 35]
    for row, (_, right), (_, alone) in zip(found, scalars, own, strict=True):
        for name in ("limit", "mean", "stddev", "clipped_fraction"):
            assert float(row[f"alrc/{name}"]) == pytest.approx(right[f"alrc/{name}"], rel=1e-4)
        assert float(row["alrc/loss"]) == pytest.approx(alone["alrc/loss"], rel=1e-5)


def test_watching_starts_no_exchange_between_ranks(two_ranks) -> None:
    for rank in range(2):
        exchanges = [count for _, count in two_ranks[1][rank]]
        assert exchanges == [0, 35]  # one for each call with sync: ALRC's own
