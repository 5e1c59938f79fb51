"""The command `vdd`: one small file a command; each imports what it needs when it runs, so that `--help` is quick.

Knows: arguments, printing. Does not know: arithmetic.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vdd._check import UserError
from vdd._version import __version__
from vdd.cli.advise import advise
from vdd.cli.align import align
from vdd.cli.analyse import analyses
from vdd.cli.app_page import app_page
from vdd.cli.ask import ask
from vdd.cli.demo import demo
from vdd.cli.evaluate import evaluations
from vdd.cli.influence import influences
from vdd.cli.prefer import preferences
from vdd.cli.report import report
from vdd.cli.score import scores
from vdd.cli.search import search
from vdd.cli.toy import toy_data, train_toy

INTERRUPTED = 130
"""Exit code that typer makes of Ctrl-C."""

app = typer.Typer(
    name="vdd",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make vision-language models answer from the image, not from the priors of their language model.",
)
app.command()(demo)
app.command()(ask)
app.add_typer(evaluations, name="eval")
app.add_typer(scores, name="score")
app.add_typer(influences, name="influence")
app.add_typer(preferences, name="prefer")
app.command()(align)
app.command()(report)
app.add_typer(analyses, name="analyse")
app.command("app")(app_page)
app.command()(search)
app.command()(advise)
app.command()(toy_data)
app.command()(train_toy)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vdd {__version__}")
        raise typer.Exit


@app.callback()
def _vdd(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command as a whole."""


def main() -> None:
    """Run the command line: a user's mistake ends with its message and exit code 2, an interruption with 130."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        typer.echo(f"error: {error.filename}: {error.strerror}", err=True)
        sys.exit(2)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            typer.echo("interrupted; what was written stays, and the same command goes on from there", err=True)
        raise
