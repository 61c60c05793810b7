"""How well ``alrc suspects`` finds wrong labels and broken targets, beside cleanlab.

::

    pip install cleanlab scikit-learn
    python benchmarks/suspects.py docs/suspects.csv

Each row is one way to rank the training examples of one seed: AUROC, precision among as many of
the worst as there are bad ones, how many the method itself would have one look at, and how many of
these are bad. For ALRC these are the examples that lost half of their gradients or more.
Writes the rows of a case as it is done, and goes on after those that the file holds.

The setting and the order that are recommended were chosen on seeds 0 to 7, before any run of those
that are reported (200 to 207), by ``--choose``, which needs no cleanlab::

    python benchmarks/suspects.py --choose docs/suspects-choice.csv

Candidates look on while a network is trained without limits. Chosen is, among those whose mean
AUROC is at least 0.97 in each of the twelve cases, the one of the greatest mean precision.
"""

import argparse
import csv
import itertools
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
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

SEEDS, CHOOSING_SEEDS = range(200, 208), range(8)
SHARES = (0.01, 0.05, 0.2)
SHIFTS = {"diabetes": (3.0, 30.0), "breast-cancer": (3.0,)}  # standard deviations
COLUMNS = ("data", "bad", "seed", "method", "auroc", "precision", "flagged", "right")
FOLDS = 5
ORDERS: tuple[Literal["share", "factor"], ...] = ("share", "factor")
LOWER = {"num_stddev": 0.75}  # recommended: what was chosen
# Which ALRC is watched, and whether it limits what is trained or only looks on.
WATCHED: dict[str, tuple[dict[str, Any], bool]] = {
    "`ALRC()` that limits": ({}, True),
    "lower limit that limits": (LOWER, True),
    "lower limit that looks on": (LOWER, False),
}
CANDIDATES: dict[str, dict[str, Any]] = {
    **{f"`ALRC(num_stddev={n:g})`": {"num_stddev": n} for n in (0.5, 0.75, 1.0, 1.5, 2.0)},
    **{
        f'`ALRC(num_stddev={n:g}, scale="linear")`': {"num_stddev": n, "scale": "linear"}
        for n in (0.5, 1.0, 1.5, 2.0, 3.0)
    },
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

    def watched(self, settings: list[dict[str, Any]], limits: bool) -> Iterator[Found]:
        """What spike logs of one training find, each by share and by factor; then its mean loss.

        The first of the ALRCs limits, if any does.
        """
        network, optimizer = self.network_and_optimizer()
        alrcs, total = [ALRC(**own) for own in settings], np.zeros(len(self.targets))
        everything = np.arange(len(self.targets))
        with tempfile.TemporaryDirectory() as folder:
            logs = [Path(folder) / f"{i}.csv" for i in range(len(alrcs))]
            with ExitStack() as stack:
                pairs = zip(alrcs, logs, strict=True)
                watches = [stack.enter_context(Watch(alrc, spikes=log)) for alrc, log in pairs]
                for which in self.batches(everything):
                    losses = self.losses(network, which)
                    for watch in watches:
                        watch.name_next(which)
                    limited = [alrc(losses if limits else losses.detach()) for alrc in alrcs]
                    loss = (limited[0] if limits else losses).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total[which] += losses.detach().numpy()
            for log in logs:
                for by in ORDERS:
                    yield self.found(rank_suspects([log], by=by).suspects)
        yield total, None

    def found(self, suspects: list[Suspect]) -> Found:
        place = np.zeros(len(self.targets))
        flagged = np.zeros(len(self.targets), dtype=bool)
        for i, suspect in enumerate(suspects):
            place[int(suspect.key)] = len(suspects) - i
            flagged[int(suspect.key)] = suspect.factor <= 0.5
        return place, flagged

    def confident(self) -> Found:
        """Confident learning, from the probabilities of networks that did not see an example."""
        from cleanlab import filter, rank

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
        flagged = filter.find_label_issues(labels, chances, n_jobs=1)
        return 1 - rank.get_label_quality_scores(labels, chances), flagged

    def confident_regression(self) -> Found:
        """cleanlab's regression with its own choice of a model."""
        from cleanlab.regression.learn import CleanLearning

        learning = CleanLearning(LinearRegression(), seed=self.seed)
        found = learning.find_label_issues(self.inputs.numpy(), self.targets.numpy())
        return 1 - found["label_quality"].to_numpy(), found["is_label_issue"].to_numpy()

    def methods(self) -> Iterator[tuple[str, Found]]:
        for name, (settings, limits) in WATCHED.items():
            *found, mean = self.watched([settings], limits)
            yield from zip((f"{name}, by {by}" for by in ORDERS), found, strict=True)
        yield "mean loss of training", mean  # of the last, which is plain training
        if self.is_labels:
            yield "cleanlab, 5 folds", self.confident()
        else:
            yield "cleanlab, linear", self.confident_regression()

    def candidates(self) -> Iterator[tuple[str, Found]]:
        *found, _ = self.watched([*CANDIDATES.values()], False)
        names = (f"{name}, by {by}" for name in CANDIDATES for by in ORDERS)
        yield from zip(names, found, strict=True)

    def rows(self, methods: Iterator[tuple[str, Found]]) -> Iterator[tuple[object, ...]]:
        for name, (score, flagged) in methods:
            worst = np.argsort(-score, kind="stable")[: self.bad.sum()]
            auroc, precision = roc_auc_score(self.bad, score), self.bad[worst].mean()
            counts = () if flagged is None else (flagged.sum(), (flagged & self.bad).sum())
            yield name, f"{auroc:.5f}", f"{precision:.5f}", *(counts or ("", ""))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--choose", action="store_true")
    arguments = parser.parse_args()
    out, columns = arguments.out, COLUMNS[:6] if arguments.choose else COLUMNS
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of cleanlab's own dependencies
    done = set()
    if out.exists():
        with out.open(encoding="utf-8") as file:
            done = {(row["data"], row["bad"], row["seed"]) for row in csv.DictReader(file)}
    else:
        out.write_text(",".join(columns) + "\n", encoding="utf-8")
    data = ["digits", *(f"{name} {x:g}" for name, shifts in SHIFTS.items() for x in shifts)]
    seeds = CHOOSING_SEEDS if arguments.choose else SEEDS
    for seed, name, bad in itertools.product(seeds, data, SHARES):
        if (name, str(bad), str(seed)) in done:
            continue
        case = Case(name, bad, seed)
        found = case.rows(case.candidates() if arguments.choose else case.methods())
        rows = [(name, bad, seed, *row)[: len(columns)] for row in found]
        with out.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
