"""The console script ``alrc``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command line, or says in one line what to install for it."""
    try:
        from alrc.lab.cli.commands import app

        app()
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        sys.exit(
            f"alrc: {package} is not installed here. Install what the command line needs with: "
            'pip install "alrc[lab]"'
        )
