"""The command that completes partial scans, with a stand-in for the task that trains for it."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typer.testing import CliRunner

from alrc.lab.api import Metric, Networks, Task, Training
from alrc.lab.cli.commands import app
from alrc.lab.engine import naming
from alrc.lab.engine.jobs import Job, run_job
from alrc.lab.engine.naming import Named
from alrc.lab.engine.spec import Spec

SIDE = 16


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(0.5)


@dataclass(frozen=True)
class Planes(Task):
    """Completes planes, whose height it learns: it ends 0.3 above the true one."""

    goal: float = 0.3
    side: int = SIDE

    average: ClassVar = 1
    path: ClassVar = "infill"
    spiral_side: ClassVar[int | None] = 61
    visited: ClassVar = 0.2
    metrics: ClassVar = (Metric("held-out error"),)

    def build(self, seed: int) -> Networks:
        return {"net": Shift()}

    def batches(self, seed: int, batch_size: int, start: int) -> Iterator[Tensor]:
        return repeat(torch.zeros(()))

    def step(self, networks: Networks, batch: Tensor) -> Mapping[str, Tensor]:
        return {"loss": (networks["net"].shift - self.goal).square()}

    def evaluate(self, networks: Networks) -> Mapping[str, float]:
        return {"held-out error": abs(networks["net"].shift.item() - self.goal)}

    def baselines(self) -> Mapping[str, Mapping[str, float]]:
        return {"image mean": {"held-out error": 1e-3}}

    def complete(self, networks: Networks, values: Tensor, mask: Tensor) -> Tensor:
        net = networks["net"]
        assert not net.training
        assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 1
        assert values.shape == mask.shape == (1, self.side, self.side)
        assert values.dtype == mask.dtype == torch.float32
        rows, columns = torch.meshgrid(*[torch.arange(float(self.side))] * 2, indexing="ij")
        terms = torch.stack([torch.ones_like(rows), rows, columns], -1)
        there = mask[0] > 0
        fit = torch.linalg.lstsq(terms[there].double(), values[0][there].double()[:, None]).solution
        whole = (terms.double() @ fit)[None, ..., 0].float()
        return net.dropout(2 * whole - 1 + net.shift)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end of a test, Planes is the task that is installed as partial-stem."""
    found = naming._installed

    def installed(kind: Any, name: str) -> Any:
        return Planes if name == "partial-stem" else found(kind, name)

    monkeypatch.setattr(naming, "_installed", installed)


def trained(folder: Path, task: str = "partial-stem", **options: Any) -> Path:
    how = Training(200, optimizer="sgd", learning_rate=0.1, **options)
    given = (("goal", 0.3),) if task == "partial-stem" else ()
    spec = Spec(Named("task", task, given), Named("arm", "off"), how, 0)
    run_job(Job({"run": spec}), folder)
    return folder / "run"


def alrc(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["lab", "complete", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def plane(shape: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = np.indices(shape)
    return 500 + 2.0 * rows + 5.0 * columns


def partial(path: Path, shape: tuple[int, int] = (SIDE, SIDE), **how: Any) -> NDArray[np.float64]:
    """Writes a scan of which a fifth was visited, and gives the whole one."""
    whole = plane(shape)
    visited = np.random.default_rng(2).random(shape) < 0.2
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, np.where(visited, whole, 0).astype(np.float32), **how)
    return whole


def shifted(whole: NDArray[np.float64], scan: Path) -> NDArray[np.float64]:
    """What the trained stand-in makes of a scan of one tile: half the range times 0.3 higher."""
    given = tifffile.imread(scan)
    return whole + 0.3 / 2 * np.ptp(given[given != 0])


def test_a_scan_is_completed_by_the_trained_network_in_its_own_units(tmp_path: Path) -> None:
    run, scan, out = trained(tmp_path), tmp_path / "a.tif", tmp_path / "whole.tif"
    how = {"imagej": True, "resolution": (5.0, 5.0), "metadata": {"unit": "nm", "Info": "HAADF"}}
    whole = partial(scan, **how)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    torch.set_num_threads(2)
    assert alrc("--checkpoint", run, "--scan", scan, "--out", out) == (0, f"{out}\n")
    with tifffile.TiffFile(out) as file:
        np.testing.assert_allclose(file.asarray(), shifted(whole, scan), rtol=1e-4)
        known: Any = file.imagej_metadata
        assert (known["unit"], known["Info"]) == ("nm", "HAADF")
        tags: Any = file.pages[0].tags
        assert tags[282].value[0] / tags[282].value[1] == 5
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert sorted(os.listdir(tmp_path)) == ["a.tif", "run", "whole.tif"]


def test_a_scan_along_another_path_is_completed_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scan = trained(tmp_path), tmp_path / "a.tif"
    partial(scan)  # a fifth of it was visited
    share = f"{(tifffile.imread(scan) > 0).mean():.2g}"
    for expected, is_told in ((0.15, False), (0.05, True), (0.9, True)):
        monkeypatch.setattr(Planes, "visited", expected)
        out = tmp_path / f"{expected}.tif"
        told = (
            f"alrc: {scan}: a share of {share} of its pixels was visited, and {expected} of each "
            "scan that the network learned from, so its completion may be poor. Pass --mask if "
            "other pixels were visited, or a run trained with the scan's --path and --coverage.\n"
        )
        assert alrc("--checkpoint", run, "--scan", scan, "--out", out) == (
            0,
            told * is_told + f"{out}\n",
        )
        assert out.is_file()


def test_a_network_that_learned_in_a_range_that_is_not_known_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scans = trained(tmp_path), tmp_path / "scans"
    for name in ("a.tif", "b.tif"):
        partial(scans / name)
    told = (
        f"alrc: {run}: its network learned from scans in the range of the whole image (path = "
        "dwell), and of a partial scan only that of its visited pixels is known, so completions "
        "may be too bright, too dark or too flat. Pass a run trained with --path infill.\n"
    )
    for path in ("infill", "dwell"):
        monkeypatch.setattr(Planes, "path", path)
        out = tmp_path / path
        files = "".join(f"{out / name}\n" for name in ("a.tif", "b.tif"))
        expected = told * (path == "dwell") + files
        assert alrc("--checkpoint", run, "--scan", scans, "--out", out) == (0, expected)


def test_a_network_that_learned_nothing_or_of_averaged_scans_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scan = trained(tmp_path), tmp_path / "a.tif"
    partial(scan)
    monkeypatch.setattr(Planes, "average", 2)
    result = json.loads((run / "result.json").read_text())
    assert result["metrics"]["held-out error"] < 1e-6 < 1e-3
    averaged = (
        f"alrc: {run}: its network learned from scans averaged over 2 x 2 pixels, so it is for "
        "scans that are averaged as well. Pass a run trained with --average 1 for scans as they "
        "are.\n"
    )
    poor = (
        f"alrc: {run}: its network is no better than the mean of each image (held-out error 0.5 "
        "against 0.001). Train it for more --steps, or with another --learning-rate.\n"
    )
    diverged = (
        f"alrc: {run}: its training diverged (of itself). Train it with another seed or arm.\n"
    )
    cases = [
        ({}, averaged),
        ({"metrics": {"held-out error": 0.5}}, poor + averaged),
        ({"diverged": "of itself"}, diverged + averaged),
    ]
    for i, (changes, told) in enumerate(cases):
        (run / "result.json").write_text(json.dumps({**result, **changes}))
        out = tmp_path / f"{i}.tif"
        assert alrc("--checkpoint", run, "--scan", scan, "--out", out) == (0, f"{told}{out}\n")


def test_a_hot_pixel_is_told_of(tmp_path: Path) -> None:
    run, scan, out = trained(tmp_path), tmp_path / "a.tif", tmp_path / "whole.tif"
    partial(scan, (40, 61))
    pixels = tifffile.imread(scan)
    rows, columns = np.nonzero(pixels)
    pixels[rows[7], columns[7]] = 1e5
    tifffile.imwrite(scan, pixels)
    visited = np.sort(pixels[pixels > 0])
    far = (visited[-1] - visited[0]) / (visited[-2] - visited[1])
    assert alrc("--checkpoint", run, "--scan", scan, "--out", out) == (
        0,
        f"alrc: {scan}: it goes to {far:,.0f} times the range of nearly all of its visited pixels, "
        "and is scaled by its range, so its completion may be poor. Take out single pixels far "
        f"beyond all others, in ImageJ: Process > Noise > Remove Outliers.\n{out}\n",
    )


def test_of_a_folder_the_mask_and_what_is_hidden_are_no_scans(tmp_path: Path) -> None:
    run, scans, out = trained(tmp_path), tmp_path / "scans", tmp_path / "whole"
    partial(scans / "a.tif")
    (scans / "._a.tif").write_bytes(b"Of a Mac.")
    mask = scans / "mask.tif"
    tifffile.imwrite(mask, (tifffile.imread(scans / "a.tif") > 0).astype(np.uint8))
    words = ("--checkpoint", run, "--scan", scans, "--mask", mask, "--out", out)
    assert alrc(*words) == (0, f"{out}/a.tif\n")


def test_a_scan_larger_than_the_spirals_that_were_learned_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scan = trained(tmp_path), tmp_path / "a.tif"
    partial(scan, (40, 61))
    for i, (side, is_told) in enumerate(((None, True), (61, False))):
        monkeypatch.setattr(Planes, "spiral_side", side)
        told = (
            f"alrc: {scan}: it has 40 x 61 pixels, and the network learned from whole spirals of "
            "16 x 16, so its completion may be poor. Pass a run trained with --spiral-side 61.\n"
        )
        out = tmp_path / f"{i}.tif"
        code, said = alrc("--checkpoint", run, "--scan", scan, "--out", out)
        assert (code, said.startswith(told)) == (0, is_told)
        assert said.endswith(f"{out}\n")


def test_large_scans_and_folders_of_them_are_completed(tmp_path: Path) -> None:
    run, out = trained(tmp_path), tmp_path / "whole"
    shapes = {"b.tif": (40, 61), "c.tiff": (16, 20)}
    for name, shape in shapes.items():
        partial(tmp_path / "scans" / name, shape)
    (tmp_path / "scans" / "notes.txt").write_text("Of Tuesday.")
    partial(tmp_path / "a.tif")
    code, told = alrc(
        "--checkpoint", run, "--scan", tmp_path / "a.tif", "--scan", tmp_path / "scans",
        "--out", out,
    )  # fmt: skip
    assert code == 0
    assert told.split() == [str(out / name) for name in ("a.tif", "b.tif", "c.tif")]
    large, whole = tifffile.imread(out / "b.tif"), plane((40, 61))
    # Each tile is 0.15 of its own range higher: at most that of a tile, 15 * (2 + 5).
    assert (large > whole).all()
    assert (large < whole + 0.15 * 15 * 7 + 0.1).all()
    assert tifffile.imread(out / "c.tif").shape == (16, 20)


def test_a_mask_says_which_pixels_were_visited(tmp_path: Path) -> None:
    run, scan, out = trained(tmp_path), tmp_path / "a.tif", tmp_path / "whole.tif"
    whole = partial(scan)
    given = tifffile.imread(scan)
    tifffile.imwrite(tmp_path / "mask.tif", (given != 0).astype(np.uint8) * 255)
    tifffile.imwrite(tmp_path / "full.tif", np.where(given != 0, given, -1e5).astype(np.float32))
    code, _ = alrc(
        "--checkpoint", run, "--scan", tmp_path / "full.tif", "--mask", tmp_path / "mask.tif",
        "--out", out,
    )  # fmt: skip
    assert code == 0
    np.testing.assert_allclose(tifffile.imread(out), shifted(whole, scan), rtol=1e-4)


def refused(*words: object) -> str:
    code, told = alrc(*words)
    assert code == 2
    assert told.startswith("alrc: ")
    return told.removeprefix("alrc: ").removesuffix("\n")


def test_a_folder_that_is_no_finished_run_of_the_task_is_refused(tmp_path: Path) -> None:
    scan, out = tmp_path / "a.tif", tmp_path / "whole.tif"
    partial(scan)
    rest = ("--scan", scan, "--out", out)
    empty = tmp_path / "empty"
    assert refused("--checkpoint", empty, *rest) == (
        f"{empty} must be the folder of a finished run of partial-stem, which has a config.json; "
        f"it is not. Train one with: alrc lab run partial-stem --out {empty}"
    )
    other = trained(tmp_path / "other", "heavy-tails", batch_size=4)
    assert refused("--checkpoint", other, *rest) == (
        f"{other} must be a run of the task partial-stem, whose networks do this; it is one of "
        "heavy-tails. Pass another folder."
    )
    run = trained(tmp_path)
    checkpoint = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").unlink()
    assert refused("--checkpoint", run, *rest) == (
        f"{run / 'checkpoint.pt'} must hold the trained networks; it is not there. Train the run "
        "alone, with alrc lab run partial-stem, which keeps them."
    )
    (run / "checkpoint.pt").write_bytes(checkpoint[:100])
    assert refused("--checkpoint", run, *rest).startswith(
        f"{run / 'checkpoint.pt'} must be a checkpoint of this run; it can't be read (BadZipFile)."
    )
    (run / "result.json").unlink()
    assert refused("--checkpoint", run, *rest) == (
        f"{run} must be a finished run; this one has no result yet. Type the command that began it "
        "again, and it goes on to its end."
    )
    lean = trained(tmp_path / "lean", store="mean")
    assert "it was trained with store = mean, which keeps none." in refused(
        "--checkpoint", lean, *rest
    )
    assert not out.exists()


def test_scans_and_places_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    run, scan, small = trained(tmp_path), tmp_path / "a.tif", tmp_path / "small.tif"
    partial(scan)
    partial(small, (15, 40))
    whole, folder = tmp_path / "whole.tif", tmp_path / "folder"
    partial(tmp_path / "scans" / "a.tif")
    cases: list[tuple[tuple[Path, ...], Path, str]] = [
        (
            (scan, small),
            folder,
            f"{small} must have at least 16 x 16 pixels, because the network was trained with so "
            "many; it has 15 x 40. Pass a larger scan, or a run trained with a smaller side.",
        ),
        (
            (scan,),
            folder,
            "--out must end in .tif, because a completed scan is a TIFF file; got "
            f"{folder}. Did you mean {folder / 'a.tif'}?",
        ),
        (
            (scan, small),
            whole,
            f"--out must be a folder, because there are 2 scans or a folder of them; got {whole}.",
        ),
        (
            (scan, tmp_path / "scans"),
            folder,
            "scans must have different names, because they are those of the completed ones; there "
            "are several called a. Complete them one by one.",
        ),
        (
            (scan,),
            scan,
            f"{scan} must not be there yet, because nothing is replaced; it is. Remove it, or pass "
            "another --out.",
        ),
        (
            (tmp_path / "none.tif",),
            whole,
            "--scan must be a file, or a folder of files that end in .tif, .tiff, .npy, "
            ".dm3, .dm4; "
            f"{tmp_path / 'none.tif'} is not.",
        ),
    ]
    for scans, out, words in cases:
        given = [word for path in scans for word in ("--scan", path)]
        assert refused("--checkpoint", run, *given, "--out", out) == words
    assert not whole.exists()
    assert not folder.exists()


def test_networks_that_diverged_are_refused(tmp_path: Path) -> None:
    run, scan = trained(tmp_path), tmp_path / "a.tif"
    partial(scan)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["networks"]["net"]["shift"].fill_(float("nan"))
    torch.save(state, run / "checkpoint.pt")
    assert refused("--checkpoint", run, "--scan", scan, "--out", tmp_path / "b.tif") == (
        f"{run} must hold networks that give finite numbers; they give NaN, so the run diverged. "
        "Train it with another seed or arm."
    )
    del state["networks"]["net"]["shift"]
    torch.save(state, run / "checkpoint.pt")
    words = refused("--checkpoint", run, "--scan", scan, "--out", tmp_path / "b.tif")
    assert "must hold the networks that partial-stem builds today; it holds others" in words
    assert json.loads((run / "result.json").read_text())["versions"][0] in words
    assert not (tmp_path / "b.tif").exists()
