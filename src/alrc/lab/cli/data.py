"""The commands of ``alrc lab data``. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import Annotated

import typer

from alrc.lab.cli.options import fail, make_app

app = make_app(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Data sets for the experiments."""


@app.command()
def cifar10(
    url: Annotated[
        str | None,
        typer.Option(
            help="Address of the binary archive, for a mirror; its checksum has to be the same.",
            show_default="that of CIFAR-10's page",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            help="Folder to put it into, or that holds it already.",
            show_default="cifar-10 in the user's cache of alrc",
        ),
    ] = None,
) -> None:
    """Download CIFAR-10, 162 MB, once, and print the folder of its binary files.

    If they are there already they are checked, and nothing is fetched.
    """
    import pooch

    from alrc.lab.data.downloads import DownloadError, download_cifar10
    from alrc.lab.data.images import CIFAR10_URL

    folder = folder or pooch.os_cache("alrc") / "cifar-10"
    try:
        typer.echo(download_cifar10(folder, CIFAR10_URL if url is None else url))
    except DownloadError as failure:
        fail(failure, 1)
    except (ValueError, OSError) as refusal:
        fail(refusal, 2)
    except KeyboardInterrupt:
        fail("stopped; nothing was kept.", 130)
