"""Checkpoints: of this run and whole, or refused; all that a run draws from is in them."""

import zipfile
from collections.abc import Callable
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import faulty
import pytest
import stackable
import tiny
import torch
from mishaps import after, assert_as_if_alone, paused

from alrc.lab.engine import storage
from alrc.lab.engine.files import Damaged
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named, versions
from alrc.lab.engine.randomness import kept
from alrc.lab.engine.spec import Spec
from alrc.lab.engine.storage import RunFolder
from alrc.lab.engine.training import Stopped


def damaged(path: Path) -> str:
    spec = tiny.spec()
    with pytest.raises(Damaged) as caught, RunFolder(path, spec.config) as folder:
        folder.load_checkpoint("cpu")
    return str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"\0" * len(content),
        lambda content: b"\x80\x02.",
    ],
)
def test_a_checkpoint_that_is_none_is_refused(change: Callable, tmp_path: Path) -> None:
    _, path = paused(tmp_path)
    (path / "checkpoint.pt").write_bytes(change((path / "checkpoint.pt").read_bytes()))
    assert damaged(path) == (
        f"{path}/checkpoint.pt must be a checkpoint of this run; it can't be read (BadZipFile). "
        f"Remove {path}, and the run is trained anew."
    )


def test_a_checkpoint_of_which_a_bit_was_changed_is_refused(tmp_path: Path) -> None:
    """PyTorch reads it without a word."""
    _, path = paused(tmp_path)
    file = path / "checkpoint.pt"
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data/1"))
        number = archive.read(name)
    content[content.index(number)] ^= 1
    file.write_bytes(content)
    torch.load(file)
    assert damaged(path).startswith(f"{file} must be a checkpoint of this run; it can't be read (")


def test_something_else_that_torch_saved_is_refused(tmp_path: Path) -> None:
    _, path = paused(tmp_path)
    torch.save({"step": 3}, path / "checkpoint.pt")
    assert "it can't be read (KeyError)" in damaged(path)
    torch.save(torch.ones(2), path / "checkpoint.pt")
    assert "it can't be read (IndexError)" in damaged(path)


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def reshaped(state: dict[str, Any]) -> dict[str, Any]:
    weight = {"0.weight": torch.ones(1, 4), "0.bias": torch.ones(1)}
    return {**state, "networks": {"line": weight}}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (without("networks"), "KeyError"),
        (without("run"), "KeyError"),
        (reshaped, "RuntimeError"),
        (lambda state: {**state, "series": None}, "TypeError"),
        (lambda state: {**state, "series": {"loss.raw": {}}}, "KeyError"),
        (lambda state: [state], "TypeError"),
    ],
)
def test_a_checkpoint_of_another_form_is_refused(
    change: Callable[[Any], Any], kind: str, tmp_path: Path
) -> None:
    spec, path = paused(tmp_path)
    file = path / "checkpoint.pt"
    torch.save(change(torch.load(file)), file)
    with pytest.raises(Damaged) as caught:
        run_job(Job({"run": spec}), tmp_path)
    assert str(caught.value) == (
        f"{file} must be a checkpoint of this run; it can't be read ({kind}). Remove {path}, and "
        "the run is trained anew."
    )
    assert caught.value.folder == path


def test_the_checkpoint_and_series_of_another_run_are_refused(tmp_path: Path) -> None:
    _, path = paused(tmp_path / "0")
    other = tiny.job("run", seed=1)
    with pytest.raises(Stopped):
        run_job(other, tmp_path / "1", stop=after(6))
    (tmp_path / "1" / "run" / "config.json").rename(path / "config.json")
    with pytest.raises(Damaged) as caught:
        run_job(other, tmp_path / "0")
    assert str(caught.value) == (
        f"{path}/checkpoint.pt must be a checkpoint of this run; it is one of another run. Remove "
        f"{path}, and the run is trained anew."
    )


@pytest.mark.parametrize(
    ("what", "kind"),
    [("deque", "deque"), ("number of NumPy", "float32"), ("function", "function")],
)
def test_what_a_checkpoint_can_not_hold_is_refused_when_the_first_is_saved(
    what: str, kind: str, tmp_path: Path
) -> None:
    arm = Named("arm", f"{faulty.__file__}:Keeping", (("what", what),))
    with pytest.raises(ValueError, match="checkpoints") as caught:
        run_job(tiny.job("run", arm=arm), tmp_path, stop=after(3))
    assert str(caught.value) == (
        "arms.step.past.values.1 must be a tensor, number, text, list or dict, because it is kept "
        f"in checkpoints; it is of type {kind}."
    )
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("task", ["Milestones", "Dicing"])
def test_all_that_changes_or_is_drawn_is_in_them(task: str, tmp_path: Path) -> None:
    how = {"evaluate_every": 5}
    job = tiny.job("run", task, faulty.__file__, training=how)
    for steps in (4, 3):
        with pytest.raises(Stopped):
            run_job(job, tmp_path / "runs", stop=after(steps))
        faulty.random.seed(steps)  # what else goes on in the process does not matter
        faulty.np.random.seed(steps)
    run_job(job, tmp_path / "runs")
    assert_as_if_alone(tmp_path / "runs", job, tmp_path / "alone")


def test_a_generator_on_a_gpu_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    where = {"cuda:1": torch.tensor([7])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: where[str(device)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda s, d: where.update({str(d): s}))
    with kept(torch.device("cuda:1")):
        where["cuda:1"] = torch.tensor([8])
    assert where["cuda:1"].tolist() == [7]


@pytest.mark.parametrize("together", [False, True])
def test_what_was_on_a_gpu_is_there_again_and_all_else_on_the_cpu(
    together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands for a GPU: seven numbers of an arm's state are saved as if they had been there."""
    arm = Named("arm", f"{faulty.__file__}:Remembering")
    job = tiny.job("run", arm=arm)
    if together:
        like = [stackable.spec("Dense", "off", seed) for seed in (0, 1)]
        job = Job({str(x.seed): Spec(x.task, arm, x.training, x.seed) for x in like})
    tagged = torch.serialization.location_tag

    def tag(storage: torch.UntypedStorage) -> str:
        return "cuda:3" if storage.nbytes() == 4 * 7 else tagged(storage)

    moved = list[tuple[int, str]]()

    def to(x: torch.UntypedStorage, *, device: torch.device) -> torch.UntypedStorage:
        moved.append((x.nbytes(), str(device)))
        return x

    monkeypatch.setattr(torch.serialization, "location_tag", tag)
    with pytest.raises(Stopped):
        run_job(job, tmp_path / "runs", stop=after(4))
    monkeypatch.setattr(torch.UntypedStorage, "to", to)
    run_job(job, tmp_path / "runs")
    assert moved == [(4 * 7, "cpu")] * len(job.specs)  # the device of these runs
    moved.clear()
    there, place = torch.ones(7).untyped_storage(), storage.placing(torch.device("cuda:1"))
    assert place(there, "cuda:0") is place(there, "cpu") is there
    assert moved == [(4 * 7, "cuda:1")]


@pytest.mark.parametrize("together", [False, True])
def test_another_version_goes_on_and_the_result_names_both(
    together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny.job("run")
    if together:
        job = Job({str(seed): stackable.spec("Dense", "off", seed) for seed in (0, 1)})
    for version in ("alrc 1", "alrc 1", "alrc 2"):
        monkeypatch.setattr(storage, "versions", lambda version=version: version)
        with pytest.raises(Stopped):
            run_job(job, tmp_path / "runs", stop=after(2))
    results = run_job(job, tmp_path / "runs")
    assert [result["versions"] for result in results.values()] == [["alrc 1", "alrc 2"]] * len(
        results
    )
    assert versions().split(", ")[-1] == f"torch {torch.__version__}"
    assert versions().startswith(f"alrc {version_of('alrc')}, ")
