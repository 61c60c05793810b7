"""Which examples were limited most often: where bad data are looked for first."""

import csv
import math
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TextIO

from alrc.integrations.spikes import files_of_ranks, spikes_of
from alrc.integrations.visits import is_visits, read_visits, visits_beside

__all__ = ["Ranking", "Suspect", "rank_suspects", "write_csv"]


class Suspect(NamedTuple):
    """An example of which at least one loss was limited, or was not finite.

    Attributes:
        key: What :meth:`~alrc.integrations.loggers.Watch.name_next` called it.
        visits: How many losses it had that count.
        limited: How many of them were limited, from above.
        nonfinite: How many were NaN, infinite, or too large for the moments.
        share: (limited + nonfinite) / visits.
        factor: What is left of its gradients: the geometric mean of what they were multiplied by,
            which is 1 where nothing was limited, over its visits. Where a loss was not finite, the
            smallest factor of any loss stands for its. Smaller is worse.
    """

    key: str
    visits: int
    limited: int
    nonfinite: int
    share: float
    factor: float


@dataclass(frozen=True)
class Ranking:
    """The suspects of some spike logs.

    Attributes:
        suspects: Worst first.
        visits: Losses that count, of all named examples.
        limited: How many were limited, from above; of named examples, like all that follow.
        nonfinite: How many were NaN, infinite, or too large for the moments.
        notes: What one should know of them, in sentences.
    """

    suspects: list[Suspect]
    visits: int
    limited: int
    nonfinite: int
    notes: tuple[str, ...]


def rank_suspects(
    spikes: Iterable[str | os.PathLike[str]],
    *,
    by: Literal["factor", "share"] = "factor",
    min_visits: int = 1,
) -> Ranking:
    """Ranks examples by how often and how hard their losses were limited, from spike logs.

    Losses that were not finite count as limited. Losses that a lower limit raised do not count.

    Memory grows with the number of examples that were ever limited, not with that of visits.

    Args:
        spikes: What each :class:`~alrc.integrations.loggers.Watch` was given as ``spikes``: files
            of rank 0, beside which those of other ranks and the logs of visits are found. An
            example that several logs name, of ranks or of runs, is one example.
        by: "factor" ranks by what is left of an example's gradients over its visits, so by how
            often and how hard it was limited; "share" by the share of its visits in which it was
            limited, and only equal shares by the factor.
        min_visits: Examples with fewer losses that count are left out. Larger trusts the share
            of those that remain more.

    Raises:
        FileNotFoundError: If there is no such spike log, or no log of visits beside one that names
            examples.
        ValueError: If a file is none of these logs, if no example was named, or if ``by`` is
            neither of the two.

    Example:
        >>> import tempfile, torch
        >>> from alrc.integrations.loggers import Watch
        >>> from alrc.suspects import rank_suspects
        >>> from alrc.torch import ALRC
        >>> alrc = ALRC(3, 0.999, 1.0, 2.0, scale="linear")  # limit: 1 + 3 * 1
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Watch(alrc, spikes=f"{folder}/spikes.csv") as watch:
        ...         for losses in [[0.5, 8.0, 0.5], [0.5, 16.0, 5.0]]:
        ...             watch.name_next(["cat.png", "dog.png", "eel.png"])
        ...             limited = alrc(torch.tensor(losses))
        ...     ranking = rank_suspects([f"{folder}/spikes.csv"])
        >>> [(x.key, x.visits, x.limited, x.share) for x in ranking.suspects]
        [('dog.png', 2, 2, 1.0), ('eel.png', 2, 1, 0.5)]
        >>> [x.key for x in ranking.suspects if x.factor <= 0.5]  # lost half of their gradients
        ['dog.png']
    """
    if by not in ("factor", "share"):
        raise ValueError(
            "suspects: by must be factor (how often and how hard) or share (how often); got "
            f'{by}. Pass by="factor".'
        )
    files = _files(spikes)
    counts = _Counts()
    for file in files:
        is_named, beside = counts.add_spikes(file), visits_beside(file)
        if is_named and not beside.exists():
            raise FileNotFoundError(
                "suspects: beside a spike log must be its log of visits, because it says how often "
                f"each example was seen; {beside} does not exist. Copy it from where the run "
                "wrote both, or let this version of Watch log another run."
            )
    visits = sum(map(counts.add_visits, map(visits_beside, files)))
    if not visits:
        raise ValueError(
            "suspects: the examples must have names, because these are what is ranked; "
            f"{', '.join(map(str, files))} names none. Call watch.name_next(keys) before each call "
            "of ALRC, with an index or a file name for each loss."
        )
    suspects = sorted(counts.suspects(), key=_by_share if by == "share" else _by_factor)
    kept = [suspect for suspect in suspects if suspect.visits >= min_visits]
    notes = [*counts.notes(), *_of_visits(kept, len(suspects) - len(kept), min_visits)]
    return Ranking(kept, visits, sum(counts.limited), sum(counts.nonfinite), tuple(notes))


def write_csv(suspects: Iterable[Suspect], file: TextIO) -> None:
    """Writes a row for each suspect, below their columns.

    Example:
        >>> import sys
        >>> from alrc.suspects import Suspect, write_csv
        >>> write_csv([Suspect("dog.png", 2, 2, 0, 1.0, 0.25)], sys.stdout)
        rank,key,visits,limited,nonfinite,share,factor
        1,dog.png,2,2,0,1.0,0.25
    """
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["rank", *Suspect._fields])
    rows.writerows([place, *suspect] for place, suspect in enumerate(suspects, 1))


class _Counts:
    """Of each example that has a row in a spike log: where it is in the columns, and these."""

    def __init__(self) -> None:
        self.place: dict[str, int] = {}
        # Numbers of 8 bytes each, where objects would take hundreds for each example.
        self.limited, self.nonfinite, self.visits = array("q"), array("q"), array("q")
        self.log_factor, self.hardest = array("d"), 0.0
        self.unnamed = self.raised = self.behind = 0

    def add_spikes(self, file: Path) -> bool:
        """Whether a row names its example."""
        is_named = False
        for spike in spikes_of(file, "suspects"):
            if not spike.key:
                self.unnamed += 1
                continue
            is_named = True
            if spike.limit > spike.loss:
                self.raised += 1
                continue
            i = self.place.setdefault(spike.key, len(self.place))
            if i == len(self.limited):
                for column in (self.limited, self.nonfinite, self.visits, self.log_factor):
                    column.append(0)
            if math.isnan(spike.limit):
                self.nonfinite[i] += 1
            else:
                self.limited[i] += 1
                self.log_factor[i] += (log := math.log(spike.factor))
                self.hardest = min(self.hardest, log)
        return is_named

    def add_visits(self, file: Path) -> int:
        """How many there are in a file, of all examples."""
        total = 0
        for _, losses, keys in read_visits(file):
            total += losses * len(keys)
            for key in keys:
                if (i := self.place.get(key)) is not None:
                    self.visits[i] += losses
        return total

    def suspects(self) -> Iterator[Suspect]:
        for key, i in self.place.items():
            limited, nonfinite = self.limited[i], self.nonfinite[i]
            bad = limited + nonfinite
            self.behind += bad > self.visits[i]
            visits = max(self.visits[i], bad)
            factor = math.exp((self.log_factor[i] + nonfinite * self.hardest) / visits)
            yield Suspect(key, visits, limited, nonfinite, bad / visits, factor)

    def notes(self) -> Iterator[str]:
        if self.unnamed:
            yield f"Rows of the spike logs that name no example were left out: {self.unnamed:,}."
        if self.raised:
            yield f"Losses that a lower limit raised do not count here: {self.raised:,}."
        if self.behind:
            yield (
                "Examples that were limited more often than the log of visits has them, because it "
                f"is behind while a run goes on: {self.behind:,}. Their share was set to 1."
            )


# Smallest for the worst; equal ones stay in the order in which they were limited first.


def _by_factor(suspect: Suspect) -> tuple[float, ...]:
    return suspect.factor, -suspect.share


def _by_share(suspect: Suspect) -> tuple[float, ...]:
    return -suspect.share, -suspect.nonfinite, suspect.factor


def _of_visits(kept: list[Suspect], left_out: int, min_visits: int) -> Iterator[str]:
    if left_out:
        yield f"Examples with fewer than {min_visits} visits were left out: {left_out:,}."
    once = sum(suspect.visits == 1 for suspect in kept)
    if once > len(kept) / 2:
        yield (
            f"Of {len(kept):,} examples, {once:,} had a single visit: their share is 1, and only "
            "the factor ranks them. Several passes over the data tell more."
        )


def _files(spikes: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The spike logs of all ranks, each once, though a shell's * may have named them as well."""
    paths = [Path(path) for path in spikes]
    named = [path for path in paths if not is_visits(path)]
    if not named:
        raise ValueError(
            "suspects: there must be a spike log, because it says which losses were limited; got "
            f"{', '.join(map(str, paths)) or 'none'}. Pass what Watch was given as spikes."
        )
    files = [file for path in named for file in files_of_ranks(path, "suspects")]
    return list({file.resolve(): file for file in files}.values())
