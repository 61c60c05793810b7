"""Whether the losses of runs that are trained together are those of runs alone."""

from pathlib import Path
from typing import Any

import numpy as np

from alrc.lab.api import Training
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.series import read_series
from alrc.lab.engine.spec import Spec, task_of


def assert_together_is_alone(task: str, folder: Path, rtol: float = 1e-3, **options: Any) -> None:
    """For some steps of two seeds, with two arms."""
    named = Named.parse("task", task, folder)
    training = Training(**{**task_of(named).defaults, "steps": 10, **options})
    specs = {
        f"{arm} {seed}": Spec(named, Named("arm", arm), training, seed)
        for arm in ("off", "clip-grad-norm")
        for seed in (0, 1)
    }
    losses = {}
    together = run_job(Job(specs), folder / "together")
    for name, spec in specs.items():
        alone = run_job(Job({name: spec}), folder / "alone")
        for way, result in (("together", together[name]), ("alone", alone[name])):
            losses[way, name] = read_series(folder / way / name, result, "loss.raw")
        np.testing.assert_allclose(losses["together", name], losses["alone", name], rtol=rtol)
    first, other = (losses["alone", f"off {seed}"] for seed in (0, 1))
    assert not np.allclose(first, other)
