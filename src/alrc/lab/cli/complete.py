"""``alrc lab complete``: whole scans from partial ones, by a network that was trained for it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alrc.lab.cli.options import check_device, fail

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alrc.lab.data.stem.partial import Partial

__all__ = ["complete"]

TASK = "partial-stem"


def complete(
    checkpoint: Annotated[
        Path, typer.Option(help="Folder of a finished run of the task partial-stem.")
    ],
    scan: Annotated[
        list[Path],
        typer.Option(
            help="Partial scan, as TIFF, .npy, .dm3 or .dm4, or a folder of them; may be given "
            "several times."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="TIFF file of the completed scan; a folder where there are several."),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Which pixels were visited, for all scans: those that are not 0. Of numbers from "
            "0 to 1, how long each was.",
            show_default="those of each scan that are not NaN or, without NaN, not 0",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Complete partial scans with a trained network, as TIFF files that ImageJ opens.

    Scans larger than those trained with are completed in tiles that overlap. Pixel size,
    description and notes stay; pixels are float32 in the units of the partial scan. All pixels are
    the network's, visited ones too, which it frees of noise.
    """
    import torch

    from alrc.lab.data.stem.partial import read_mask, read_partial, write_completed
    from alrc.lab.data.stem.tiles import complete_by_tiles
    from alrc.lab.engine.files import written_whole
    from alrc.lab.engine.finished import open_run

    torch.set_num_threads(1)  # small tiles gain nothing by more, and lose much on a busy machine
    try:
        check_device(device)
        task, networks = open_run(checkpoint, TASK, device)
        files = _files(scan, mask)
        targets = _targets(files, is_single=len(files) == 1 and files == scan, out=out)
        side, given = int(task.side), None if mask is None else read_mask(mask)  # type: ignore[attr-defined]
        _tell(checkpoint, _doubts_of_network(checkpoint, task))
        for file in files:  # all of them, before minutes are spent on the first
            partial = read_partial(file, given)
            _check_size(file, partial, side)
            _tell(file, _doubts_of_scan(partial, task))
        for file, target in zip(files, targets, strict=True):
            partial = read_partial(file, given)
            with _progress(file.name) as report:
                tile = _completion(task, networks, device)
                try:
                    whole = complete_by_tiles(partial.pixels, partial.mask, side, tile, report)
                except ValueError as fault:
                    raise ValueError(f"{file}: {fault}") from None
            _check_finite(whole, checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(target) as part:
                write_completed(part, whole, partial)
            typer.echo(target)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    except KeyboardInterrupt:
        fail("stopped; the scans that are there are whole.", 130)


def _completion(task: Any, networks: Any, device: str) -> Any:
    """What completes one tile. One at a time: what a network makes of a tile must not depend on
    others beside it, as it would where it normalises over a batch."""
    import torch

    from alrc.lab.engine.outcome import evaluating

    def of_tile(values: "NDArray[np.float32]", mask: "NDArray[np.float32]") -> Any:
        given = (torch.from_numpy(x)[None].to(device) for x in (values, mask.copy()))
        with evaluating(networks):
            return task.complete(networks, *given)[0].cpu().numpy()

    return of_tile


def _files(scans: Sequence[Path], mask: Path | None) -> list[Path]:
    """All that are named, and those in the folders that are, but for the mask."""
    from alrc.lab.data.stem.reading import SUFFIXES, scans_among

    files = list[Path]()
    for scan in scans:
        found = [scan]
        if scan.is_dir():
            found = scans_among(sorted(scan.iterdir()))
            found = [file for file in found if mask is None or not file.samefile(mask)]
        if not found or not all(file.is_file() for file in found):
            raise ValueError(
                "--scan must be a file, or a folder of files that end in "
                f"{', '.join(SUFFIXES)}; {scan} is not."
            )
        files += found
    return files


def _targets(files: Sequence[Path], is_single: bool, out: Path) -> list[Path]:
    """Where each completed scan is to be; nothing that is there is replaced."""
    is_tiff = out.suffix.lower() in (".tif", ".tiff")
    if is_single and not is_tiff:
        raise ValueError(
            f"--out must end in .tif, because a completed scan is a TIFF file; got {out}. Did you "
            f"mean {out / files[0].with_suffix('.tif').name}?"
        )
    if not is_single and (is_tiff or out.is_file()):
        raise ValueError(
            f"--out must be a folder, because there are {len(files):,} scans or a folder of them; "
            f"got {out}."
        )
    targets = [out] if is_single else [out / file.with_suffix(".tif").name for file in files]
    for i, target in enumerate(targets):
        if target in targets[:i]:
            raise ValueError(
                "scans must have different names, because they are those of the completed ones; "
                f"there are several called {files[i].stem}. Complete them one by one."
            )
        if target.exists():
            raise ValueError(
                f"{target} must not be there yet, because nothing is replaced; it is. Remove it, "
                "or pass another --out."
            )
    return targets


def _check_size(file: Path, partial: "Partial", side: int) -> None:
    if min(partial.pixels.shape) < side:
        height, width = partial.pixels.shape
        raise ValueError(
            f"{file} must have at least {side} x {side} pixels, because the network was trained "
            f"with so many; it has {height} x {width}. Pass a larger scan, or a run trained with a "
            "smaller side."
        )


def _tell(path: Path, doubts: Iterator[str]) -> None:
    for doubt in doubts:
        typer.echo(f"alrc: {path}: {doubt}", err=True)


def _doubts_of_network(checkpoint: Path, task: Any) -> Iterator[str]:
    """Why completions by a network may be poor, whatever is completed."""
    from alrc.lab.engine.files import read_json

    result = read_json(checkpoint / "result.json", "Pass the folder of another run.")
    name = "held-out error"
    error = result["metrics"].get(name)
    trivial = (result.get("baselines") or {}).get("image mean", {}).get(name)
    if result["diverged"]:
        yield f"its training diverged ({result['diverged']}). Train it with another seed or arm."
    elif None not in (error, trivial) and not error < trivial:
        yield (
            f"its network is no better than the mean of each image ({name} {error:.3g} against "
            f"{trivial:.3g}). Train it for more --steps, or with another --learning-rate."
        )
    if task.path == "dwell":
        yield (
            "its network learned from scans in the range of the whole image (path = dwell), and of "
            "a partial scan only that of its visited pixels is known, so completions may be too "
            "bright, too dark or too flat. Pass a run trained with --path infill."
        )
    if task.average > 1:
        yield (
            f"its network learned from scans averaged over {task.average} x {task.average} pixels, "
            "so it is for scans that are averaged as well. Pass a run trained with --average 1 for "
            "scans as they are."
        )


def _doubts_of_scan(partial: "Partial", task: Any) -> Iterator[str]:
    """Why the completion of a scan may be poor, by whatever network of this task."""
    from alrc.lab.data.stem.reading import BEYOND, outermost

    share = float((partial.mask > 0).mean())
    if not 0.5 < share / task.visited < 2:
        yield (
            f"a share of {share:.2g} of its pixels was visited, and "
            f"{task.visited:.2g} of each scan that the network learned from, so its completion may "
            "be poor. Pass --mask if other pixels were visited, or a run trained with the scan's "
            "--path and --coverage."
        )
    height, width = partial.pixels.shape
    if task.spiral_side is None and max(height, width) > task.side:
        yield (
            f"it has {height} x {width} pixels, and the network learned from whole "
            f"spirals of {task.side} x {task.side}, so its completion may be poor. Pass a run "
            f"trained with --spiral-side {max(height, width)}."
        )
    if (far := outermost(partial.pixels[partial.mask > 0])) > BEYOND:
        yield (
            f"it goes to {far:,.0f} times the range of nearly all of its visited "
            "pixels, and is scaled by its range, so its completion may be poor. Take out single "
            "pixels far beyond all others, in ImageJ: Process > Noise > Remove Outliers."
        )


def _check_finite(whole: "NDArray[np.float32]", checkpoint: Path) -> None:
    import numpy as np

    if not np.isfinite(whole).all():
        raise ValueError(
            f"{checkpoint} must hold networks that give finite numbers; they give NaN, so the run "
            "diverged. Train it with another seed or arm."
        )


@contextmanager
def _progress(name: str) -> Iterator[Any]:
    """Gives a function that shows how many tiles are done, live on a terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    with progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bars:
        bar = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
