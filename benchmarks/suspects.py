"""How well ``alrc suspects`` finds wrong labels and broken targets, beside cleanlab.

::

    pip install cleanlab scikit-learn
    python benchmarks/suspects.py docs/suspects.csv

Each row is one way to rank the training examples of one seed: AUROC, precision among as many of
the worst as there are bad ones, how many the method itself would have one look at, and how many of
these are bad. For ALRC these are the examples that were limited in half of their visits or more.
Settings were chosen on seeds 0 to 7; these are others. Writes the rows of a case as it is done,
and goes on after those that the file holds.
"""

import argparse
import csv
import itertools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from cleanlab.regression.learn import CleanLearning
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import cross_entropy

from alrc.integrations.loggers import Watch
from alrc.lab.data.order import example_order
from alrc.lab.data.tables import some
from alrc.lab.tasks.dense import DenseNetwork
from alrc.lab.tasks.digits import Digits
from alrc.lab.tasks.regression import Regression
from alrc.suspects import Suspect, rank_suspects
from alrc.torch import ALRC

SEEDS = range(100, 110)
SHARES = (0.01, 0.05, 0.2)
SHIFTS = {"diabetes": (3.0, 30.0), "breast-cancer": (3.0,)}  # standard deviations
COLUMNS = ("data", "bad", "seed", "method", "auroc", "precision", "flagged", "right")
FOLDS = 5
# Which ALRC is watched, and whether it limits what is trained or only looks on.
WATCHED: dict[str, tuple[dict[str, Any], bool]] = {
    "`ALRC()` that limits": ({}, True),
    "lower limit that limits": ({"num_stddev": 1.0, "scale": "linear"}, True),
    "lower limit that looks on": ({"num_stddev": 1.0, "scale": "linear"}, False),
}
Numbers = NDArray[np.float64]
# How suspect each example is; and which are flagged, if the method says so.
Found = tuple[Numbers, NDArray[np.bool_] | None]


class Case:
    """One training set with bad targets, and the network that the lab trains with it."""

    def __init__(self, data: str, bad: float, seed: int) -> None:
        self.seed = seed
        name, _, shift = data.partition(" ")
        self.task = (
            Digits(wrong=bad)
            if name == "digits"
            else Regression(data=name, broken=bad, shift=float(shift))  # type: ignore[arg-type]
        )
        self.inputs, self.targets = self.task.training(seed)
        self.bad = np.zeros(len(self.targets), dtype=bool)
        self.bad[some(len(self.targets), seed, bad)] = True

    @property
    def is_labels(self) -> bool:
        return isinstance(self.task, Digits)

    def losses(self, network: Any, which: NDArray[np.int64]) -> Tensor:
        outputs = network(self.inputs[which])
        if self.is_labels:
            return cross_entropy(outputs, self.targets[which], reduction="none")
        return (outputs.squeeze(1) - self.targets[which]).square()

    def batches(self, within: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        steps, size = self.task.defaults["steps"], self.task.defaults["batch_size"]
        order = within[example_order(len(within), self.seed, 0, steps * size)]
        return iter(order.reshape(steps, size))

    def network_and_optimizer(self) -> tuple[DenseNetwork, torch.optim.Optimizer]:
        network: Any = self.task.build(self.seed)["network"]
        rate = self.task.defaults["learning_rate"]
        return network, torch.optim.Adam(network.parameters(), rate)

    def watched(self, settings: dict[str, Any], limits: bool) -> Iterator[Found]:
        """What a spike log finds: by share, by factor; and the mean loss of the same training."""
        network, optimizer = self.network_and_optimizer()
        alrc, total = ALRC(**settings), np.zeros(len(self.targets))
        everything = np.arange(len(self.targets))
        with tempfile.TemporaryDirectory() as folder:
            spikes = Path(folder) / "spikes.csv"
            with Watch(alrc, spikes=spikes) as watch:
                for which in self.batches(everything):
                    losses = self.losses(network, which)
                    watch.name_next(which)
                    limited = alrc(losses if limits else losses.detach())
                    loss = (limited if limits else losses).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total[which] += losses.detach().numpy()
            yield self.found(rank_suspects([spikes], by="share").suspects)
            yield self.found(rank_suspects([spikes]).suspects)
        yield total, None

    def found(self, suspects: list[Suspect]) -> Found:
        place = np.zeros(len(self.targets))
        flagged = np.zeros(len(self.targets), dtype=bool)
        for i, suspect in enumerate(suspects):
            place[int(suspect.key)] = len(suspects) - i
            flagged[int(suspect.key)] = suspect.share >= 0.5
        return place, flagged

    def confident(self) -> Found:
        """Confident learning, from the probabilities of networks that did not see an example."""
        scores = torch.empty(len(self.targets), 10)
        parts = np.arange(len(self.targets)) % FOLDS  # in random order, as they are
        for fold in range(FOLDS):
            network, optimizer = self.network_and_optimizer()
            for which in self.batches(np.flatnonzero(parts != fold)):
                optimizer.zero_grad()
                self.losses(network, which).mean().backward()
                optimizer.step()
            with torch.no_grad():
                scores[parts == fold] = network(self.inputs[parts == fold])
        chances = scores.softmax(1).double().numpy()
        labels = self.targets.numpy()
        flagged = find_label_issues(labels, chances, n_jobs=1)
        return 1 - get_label_quality_scores(labels, chances), flagged

    def confident_regression(self) -> Found:
        """cleanlab's regression with its own choice of a model."""
        learning = CleanLearning(LinearRegression(), seed=self.seed)
        found = learning.find_label_issues(self.inputs.numpy(), self.targets.numpy())
        return 1 - found["label_quality"].to_numpy(), found["is_label_issue"].to_numpy()

    def methods(self) -> Iterator[tuple[str, Found]]:
        for name, (settings, limits) in WATCHED.items():
            share, factor, mean = self.watched(settings, limits)
            yield f"{name}, by share", share
        # Of the last, which is plain training.
        yield f"{name}, by factor", factor
        yield "mean loss of training", mean
        if self.is_labels:
            yield "cleanlab, 5 folds", self.confident()
        else:
            yield "cleanlab, linear", self.confident_regression()

    def rows(self) -> Iterator[tuple[object, ...]]:
        for name, (score, flagged) in self.methods():
            worst = np.argsort(-score, kind="stable")[: self.bad.sum()]
            auroc, precision = roc_auc_score(self.bad, score), self.bad[worst].mean()
            counts = () if flagged is None else (flagged.sum(), (flagged & self.bad).sum())
            yield name, f"{auroc:.5f}", f"{precision:.5f}", *(counts or ("", ""))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of cleanlab's own dependencies
    done = set()
    if out.exists():
        with out.open(encoding="utf-8") as file:
            done = {(row["data"], row["bad"], row["seed"]) for row in csv.DictReader(file)}
    else:
        out.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    data = ["digits", *(f"{name} {x:g}" for name, shifts in SHIFTS.items() for x in shifts)]
    for seed, name, bad in itertools.product(SEEDS, data, SHARES):
        if (name, str(bad), str(seed)) in done:
            continue
        rows = [(name, bad, seed, *row) for row in Case(name, bad, seed).rows()]
        with out.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
