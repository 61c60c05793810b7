"""Runs of one setting, trained together, and stored as if each had been trained alone.

They come out the same up to rounding. Until the end, all of them have one checkpoint and one set of
series, in ``ensembles/KEY`` beside ``runs/``: a disk takes some milliseconds to confirm a file, and
hundreds of runs have thousands.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from alrc.lab.engine.batched import Ensemble
from alrc.lab.engine.files import read_json, storing, sync_all, written_together
from alrc.lab.engine.series import Series, is_present, read_series
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.stored import FORMAT
from alrc.lab.engine.training import Progress, Trained, finish, go_on, train

__all__ = ["train_together"]


def train_together(
    specs: Mapping[str, Spec],
    folders: Mapping[str, RunFolder],
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, dict[str, Any]]:
    """Trains runs as one network to the end, from their last checkpoint if there is one.

    Those that are finished are left as they are. On one machine, with one thread, the same runs
    give the same numbers, bit for bit, however often they were stopped and taken up again.

    Args:
        specs: What is trained, by the names of the runs.
        folders: Where each is kept at the end; beside each other.
        report: Called after every step.
        stop: Asked after every step whether to stop now.

    Returns:
        What each result.json holds.

    Raises:
        Stopped: If ``stop`` said so; a checkpoint was written.
        ValueError: If the runs can't be trained together, or a stored file is damaged.
    """
    runs = next(iter(folders.values())).path.parent
    place = runs.parent / "ensembles"
    waiting = [name for name in specs if folders[name].result is None]
    members = dict(specs)
    if not (place / _key(specs) / "checkpoint.pt").exists():
        # Else some were finished when the last attempt was killed, which has all in its state.
        members = {name: specs[name] for name in waiting}
    if len(members) == 1:
        ((name, spec),) = members.items()
        train(spec, folders[name], report, stop)
    elif waiting:
        path = place / _key(members)
        config = {"format": FORMAT, "members": {n: s.digest for n, s in sorted(members.items())}}
        with RunFolder(path, config) as folder:
            state, series = folder.load_checkpoint(next(iter(members.values())).training.device)
            ensemble = Ensemble(members, series)
            evaluations = go_on(ensemble, folder, state, report, stop)
            _store(ensemble, folder, {name: folders[name] for name in waiting}, evaluations)
    _clean(place, runs)
    return {name: folders[name].result or {} for name in specs}


def _clean(place: Path, runs: Path) -> None:
    """Removes ensembles of which every member is finished, there or alone."""
    for file in place.glob("*/config.json"):
        with suppress(OSError, ValueError):  # another process removed it, or it is damaged
            members = read_json(file, f"Remove {file.parent}.")["members"]
            if all((runs / name / "result.json").exists() for name in members):
                shutil.rmtree(file.parent)


def _key(specs: Mapping[str, Spec]) -> str:
    """Tells these very runs, in whatever order, from all others."""
    text = json.dumps(sorted((name, spec.digest) for name, spec in specs.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _store(
    ensemble: Ensemble,
    folder: RunFolder,
    folders: Mapping[str, RunFolder],
    evaluations: list[Any],
) -> None:
    """Writes what came of the runs into their folders, as if each had been trained alone."""
    manifest = ensemble.series.manifest
    stored = {name: read_series(folder.path, {"series": manifest}, name) for name in manifest}
    order = list(ensemble.specs)
    written = {}
    for name, own in folders.items():
        with storing(own.path):
            (own.path / "checkpoint.pt").unlink(missing_ok=True)  # of other series than these
            written[name] = series = Series(own.path / "series")
            for there, here, row in ensemble.series_of(order.index(name), stored):
                if is_present(own_rows := stored[there][:, row]).any():  # alone it has none else
                    series.write(here, own_rows)
    sync_all(p for own in folders.values() for p in (own.path / "series").iterdir())
    with written_together():
        for name, own in folders.items():
            i = order.index(name)
            mean = ensemble.store == "mean"
            member = Trained(
                ensemble.task,
                ensemble.stack.networks[i],
                written[name],
                ensemble.step,
                ensemble.seconds / len(order),
                ensemble.tallies.of(i) if mean else None,
            )
            rows = [[float(step), *metrics[i]] for step, *metrics in evaluations]
            own.versions = folder.versions
            finish(ensemble.specs[name], own, member, rows, trained_with=len(order))
