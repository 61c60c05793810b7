"""What a curve of losses shows, and what limits would have done to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from alrc.replay import advice, rivals, table
from alrc.replay.curve import Curve
from alrc.replay.outcomes import Judge, Outcome, compared_with
from alrc.replay.rules import Limits, Mask, Numbers
from alrc.replay.signals import Signals, signals
from alrc.replay.verdict import Verdict, verdict
from alrc.settings import Settings

FEWEST = 20


@dataclass(frozen=True, eq=False)
class Replay:
    """A curve, what it shows, and what limits would have done to it.

    Attributes:
        verdict: What the curve shows.
        mattered: Whether limiting the losses would have mattered, in sentences.
        remedy: What to do now.
        notes: What this cannot answer, and what it was taken for.
        suggestion: Settings to paste.
        outcome: What the settings that were asked for would have done.
        outcomes: The same for others, to compare.
        rivals: For rules that look at the norm of the gradient; empty where it is not known.
        limits: (N,) limits that each row met, with the settings that were asked for.
        limited: (N,) which rows they would have limited.
        seen: Level and noise of the curve.
        losses: (N,) the losses.
    """

    verdict: Verdict
    mattered: tuple[str, ...]
    remedy: str
    notes: tuple[str, ...]
    suggestion: str
    outcome: Outcome
    outcomes: tuple[Outcome, ...]
    rivals: tuple[Outcome, ...]
    limits: Limits = field(repr=False)
    limited: Mask = field(repr=False)
    seen: Signals = field(repr=False)
    losses: Numbers = field(repr=False)

    def __str__(self) -> str:
        lines = [finding.sentence for finding in self.verdict.findings]
        lines += ["", *self.mattered, "", *table.lines(self.rules)]
        lines += ["", *self.notes, "", self.remedy]
        return "\n".join([*lines, advice.to_paste(self.verdict, self.suggestion)])

    @property
    def rules(self) -> tuple[Outcome, ...]:
        """All outcomes, that of the settings that were asked for first."""
        return (self.outcome, *self.outcomes, *self.rivals)

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, for JSON; None for what is not known."""
        return {
            "verdict": {
                "kind": self.verdict.kind,
                "values": self.verdict.num_values,
                "nonfinite": self.verdict.num_nonfinite,
                "findings": [
                    {
                        "kind": finding.kind,
                        "sentence": finding.sentence,
                        "rows": [[span.first, span.end] for span in finding.spans],
                    }
                    for finding in self.verdict.findings
                ],
                "period": self.verdict.period and self.verdict.period.length,
            },
            "mattered": list(self.mattered),
            "remedy": self.remedy,
            "notes": list(self.notes),
            "suggestion": self.suggestion,
            "outcome": self.outcome.to_dict(),
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
            "rivals": [outcome.to_dict() for outcome in self.rivals],
        }


def replay(
    losses: ArrayLike | Curve,
    settings: Settings | None = None,
    *,
    gradient_norm: ArrayLike | None = None,
    steps_per_row: float = 1,
    averaged: bool | None = None,
    starts: Sequence[int] = (0,),
    epochs: ArrayLike | None = None,
    steps: ArrayLike | None = None,
) -> Replay:
    """Says what a curve of losses shows, and what limits would have done to it.

    Training would have gone on differently with limits: this says what they would have been, and
    which rows they would have met.

    Args:
        losses: (N,) training losses in the order in which they were made, at least 20 of them
            finite. NaN and infinite ones are looked at as such. Or a curve that was read from a
            log, ``replay(read_log("run.log"))``, which brings all but settings along.
        settings: Those of the rule. None: the defaults; or, if losses are negative, those for
            losses of either sign.
        gradient_norm: (N,) norm of the gradient in each row, NaN where unknown.
        steps_per_row: Training steps from one row to the next, > 0. The rule then remembers
            ``decay**steps_per_row`` a row.
        averaged: Whether a row is the mean of these steps rather than the loss of one of them;
            None if unknown.
        starts: Rows at which runs begin, the first of them 0; the moments begin anew there.
        epochs: (N,) epoch of each row, whole or not.
        steps: (N,) step of each row, for the words. None: rows are counted from 0.

    Raises:
        TypeError: If settings are no :class:`alrc.Settings`.
        ValueError: If there is nothing to judge, or shapes do not fit.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> losses = 2 + 0.1 * rng.normal(size=1000)
        >>> losses[700] = 9
        >>> found = replay(losses)
        >>> found.verdict.kind, found.outcome.num_limited > 0, bool(found.limited[700])
        ('isolated spikes', True, True)
        >>> print(found.verdict.sentence)
        isolated spikes: 1, at row 700; the largest reached 9 where 2.005 is usual. The losses are \
back within 1 row.
    """
    if isinstance(losses, Curve):
        beside = any(one is not None for one in (gradient_norm, averaged, epochs, steps))
        alone = not beside and steps_per_row == 1 and tuple(starts) == (0,)
        return _of_curve(losses, settings, alone)
    losses = _row_numbers("losses", losses)
    num_finite = int(np.isfinite(losses).sum())
    if num_finite < FEWEST:
        raise ValueError(
            f"replay: at least {FEWEST} losses must be finite, because fewer show no level to "
            f"judge by; got {num_finite} among {losses.size}. Pass the losses of training steps, "
            "not those of epochs."
        )
    if not 0 < steps_per_row < math.inf:
        raise ValueError(
            "replay: steps_per_row must be greater than 0 and finite, because it says how many "
            f"training steps lie between rows; got {steps_per_row}. Pass 1 if each step has a row."
        )
    starts = _checked_starts(starts, losses.size)
    rows = {
        name: None if array is None else _row_numbers(name, array, losses.size)
        for name, array in (("gradient_norm", gradient_norm), ("epochs", epochs), ("steps", steps))
    }
    chosen = _chosen(losses, settings)
    seen = signals(losses, starts)
    name = _namer(rows["steps"])
    found = verdict(losses, seen, starts, rows["epochs"], name)
    judge = Judge(losses, seen, found, starts, steps_per_row)
    bounds, limited, outcome = judge.limits(chosen)
    outcomes = tuple(judge.limits(other)[2] for other in compared_with(chosen))
    norms = rows["gradient_norm"]
    compared: tuple[Outcome, ...] = ()
    follows = None
    if norms is not None and int(np.isfinite(norms).sum()) >= FEWEST:
        counted = int(np.isfinite(norms).sum())
        compared = (
            Outcome("ZClip", None, counted, int(rivals.zclip(norms).sum())),
            Outcome("skip-step", None, losses.size, int(rivals.skip_step(losses, norms).sum())),
        )
        follows = advice.follows(found, norms, starts)
    return Replay(
        verdict=found,
        mattered=advice.mattered(found, outcome, limited, follows),
        remedy=advice.remedy(found, follows, chosen),
        notes=advice.notes(losses, steps_per_row, averaged, found, chosen, settings),
        suggestion=advice.suggestion(found, outcome, outcomes),
        outcome=outcome,
        outcomes=outcomes,
        rivals=compared,
        limits=bounds,
        limited=limited,
        seen=seen,
        losses=losses,
    )


def _of_curve(curve: Curve, settings: Settings | None, alone: bool) -> Replay:
    if not alone:
        raise ValueError(
            "replay: a curve must be given alone or with settings, because it brings steps, starts "
            "and all else along; got more. To change what it brings, pass "
            "dataclasses.replace(curve, steps_per_row=10)."
        )
    return replay(
        curve.losses,
        settings,
        gradient_norm=curve.gradient_norm,
        steps_per_row=curve.steps_per_row,
        averaged=curve.averaged,
        starts=curve.starts,
        epochs=curve.epochs,
        steps=curve.steps,
    )


def _chosen(losses: Numbers, settings: Settings | None) -> Settings:
    if settings is None:
        finite = losses[np.isfinite(losses)]
        if (finite < 0).mean() > 0.01:
            return Settings(3.0, scale="linear", center="mean")
        return Settings()
    if not isinstance(settings, Settings):
        raise TypeError(
            f"replay: settings must be alrc.Settings; got {settings!r} of type "
            f"{type(settings).__name__}. Pass Settings(num_stddev=3.0), or None for the defaults."
        )
    if settings.num_groups is not None:
        raise ValueError(
            "replay: num_groups must be None, because a curve does not say which group a loss is "
            f"of; got {settings.num_groups}. Replay the losses of each group alone."
        )
    return settings


def _namer(steps: Numbers | None) -> Any:
    if steps is None:
        return "row {}".format
    if (np.diff(steps) > 0).all():
        return lambda row: f"step {steps[row]:.15g}"
    # Steps come again, in a run that was resumed or in the next one.
    return lambda row: f"row {row} (step {steps[row]:.15g})"


def _row_numbers(name: str, array: ArrayLike, size: int | None = None) -> Numbers:
    numbers = np.asarray(array)
    if numbers.ndim != 1 or numbers.dtype.kind not in "fiu":
        raise ValueError(
            f"replay: {name} must be one number for each row, because a curve is a sequence; got "
            f"{numbers.dtype} of shape {numbers.shape}. Pass a list of floats or an array (N,)."
        )
    if size is not None and numbers.size != size:
        raise ValueError(
            f"replay: {name} must have as many numbers as there are losses, one for each row; got "
            f"{numbers.size} for {size} losses. Put math.nan where a row has none."
        )
    return numbers.astype(np.float64, copy=False)


def _checked_starts(starts: Sequence[int], size: int) -> tuple[int, ...]:
    rows = tuple(map(int, starts))
    if not rows or rows[0] != 0 or any(a >= b for a, b in pairwise((*rows, size))):
        raise ValueError(
            "replay: starts must be rows in rising order, the first of them 0, because runs follow "
            f"one another; got {list(rows)[:6]} for {size} losses. Pass starts=(0,) for one run."
        )
    return rows
