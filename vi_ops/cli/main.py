"""The command `vi-ops`: options that hold everywhere, and the one place where errors are printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from vi_ops import __version__
from vi_ops.cli import doctor, explain, image, init, lab, node, schema, vm
from vi_ops.errors import ViOpsError

app = typer.Typer(
    name="vi-ops",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("doctor")(doctor.doctor)
app.command("explain")(explain.explain)
vm.register(app)
app.add_typer(image.app, name="image")
app.command("init")(init.init)
app.add_typer(lab.app, name="lab")
app.add_typer(node.app, name="node")
app.command("schema")(schema.schema)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vi-ops {__version__}")
        raise typer.Exit


@app.callback()
def root(
    inventory: Annotated[
        Path | None,
        typer.Option("-i", "--inventory", metavar="DIR", help="The site: an Ansible inventory folder."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """GPU virtual machines on Proxmox, from bare node to a supervised pipeline.

    \b
    Examples:
      vi-ops plan vm106           # what would change, why, and when it takes effect
      vi-ops provision vm106      # make it so; a second run changes nothing
      vi-ops lab up               # a Proxmox node without Proxmox, to try all of this
    """
    if inventory is not None:
        os.environ["VI_OPS_INVENTORY"] = str(inventory)
    if debug:
        os.environ["VI_OPS_DEBUG"] = "1"


def main() -> NoReturn:
    """Run the command line; every failure ends here as a message and an exit code."""
    try:
        app()
    except ViOpsError as error:
        if os.environ.get("VI_OPS_DEBUG"):
            raise
        _tell(error.code, error.message, error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader went away (`vi-ops plan | head`): no more output, and no complaint at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(os.EX_OK)
    except Exception as error:
        if os.environ.get("VI_OPS_DEBUG"):
            raise
        from vi_ops.cli.bug import write_report

        _tell("bug", f"{type(error).__name__}: {error}", f"report written to {write_report(error)}")
        sys.exit(3)
    sys.exit(os.EX_OK)


def _tell(code: str, message: str, hint: str | None) -> None:
    if "--json" in sys.argv:
        import json

        typer.echo(json.dumps({"error": {"code": code, "message": message, "hint": hint}}), err=True)
        return
    typer.echo(f"error [{code}]: {message}", err=True)
    if hint:
        typer.echo(f"  hint: {hint}", err=True)
