"""What a study is about and how long it takes, before most of it is trained."""

import json
from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from typing import Any

from alrc.lab.engine.jobs import Job
from alrc.lab.engine.spec import Spec

__all__ = ["data_lines", "duration", "estimate", "first_of_each_setting", "setting_of"]

MOST_SETTINGS = 8  # that are looked at before the estimate, so that it comes soon


def data_lines(specs: Iterable[Spec]) -> list[str]:
    """A line for each task and the data that it says it has."""
    spellings: dict[tuple[str, str], set[str]] = {}
    for spec in specs:
        facts = ", ".join(f"{n} {_short(x)}" for n, x in spec.config["task_facts"].items())
        spellings.setdefault((spec.task.short_name, facts), set()).add(spec.config["task"])
    lines = []
    for (name, facts), spelled in spellings.items():
        task = next(iter(spelled)) if len(spelled) == 1 else f"{name} in {len(spelled)} settings"
        lines.append(f"{task}: {facts or 'no data of its own'}")
    return lines


def _short(fact: Any) -> str:
    words = fact if isinstance(fact, str) else json.dumps(fact)
    is_checksum = len(words) >= 32 and set(words) <= set("0123456789abcdef")
    return words[:8] if is_checksum else words


def setting_of(job: Job) -> str:
    """What decides how long its steps take: all but arms and seeds."""
    config = next(iter(job.specs.values())).config
    return json.dumps([config["task"], config["training"], len(job.specs)], sort_keys=True)


def first_of_each_setting(jobs: Sequence[Job], at_least: int) -> list[Job]:
    """The first job of each of the settings, or of those with the most examples; and others, until
    there are so many."""
    first: dict[str, Job] = {}
    examples: dict[str, int] = {}
    for job in jobs:
        key = setting_of(job)
        first.setdefault(key, job)
        examples[key] = examples.get(key, 0) + job.examples
    longest = sorted(first, key=lambda key: examples[key], reverse=True)
    chosen = [first[key] for key in longest[:MOST_SETTINGS]]
    others = [job for job in jobs if job not in chosen]
    return chosen + others[: max(at_least - len(chosen), 0)]


def estimate(
    jobs: Mapping[str, Job], steps: Mapping[str, int], paces: Mapping[str, float], count: int | None
) -> str | None:
    """How long jobs take, in words.

    Args:
        jobs: What is to be trained, by name.
        steps: How many steps of each are done.
        paces: Seconds that a step takes, by setting; of others, as many an example.
        count: Jobs at a time, if known.

    Returns:
        The words; None if no pace is known.
    """
    known: dict[str, float] = {}  # seconds of an example
    for job in jobs.values():
        if not isnan(pace := paces.get(setting_of(job), nan)):
            known[setting_of(job)] = pace * job.steps / job.examples
    if not known:
        return None
    usual = sum(known.values()) / len(known)
    seconds = [
        known.get(setting_of(job), usual) * job.examples * (1 - steps.get(name, 0) / job.steps)
        for name, job in jobs.items()
    ]
    devices = {s.training.device for job in jobs.values() for s in job.specs.values()}
    words = f"about {duration(sum(seconds), 'core-' if devices == {'cpu'} else 'device-')}"
    if count is not None:
        longest = max(sum(seconds) / count, max(seconds))
        workers = "1 worker" if count == 1 else f"{count} workers"
        words += f", {duration(longest)} on {workers}"
    return f"{words}, as fast as the first steps; evaluations come on top"


def duration(seconds: float, of: str = "") -> str:
    """In the unit that fits."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {of}{unit}"
    count = max(round(seconds), 1)
    return f"{count} {of}second{'' if count == 1 else 's'}"
