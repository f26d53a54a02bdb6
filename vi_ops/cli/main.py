"""The command `vi-ops`: options that hold everywhere, and the one place where errors are printed."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from vi_ops import __version__
from vi_ops.cli import doctor, explain, init, schema, vm
from vi_ops.cli.later import LaterGroup
from vi_ops.cli.plain import hide_types, in_our_words
from vi_ops.cli.say import say_error
from vi_ops.errors import ViOpsError

# What `vi-ops --help` says of a group, without reading its module.
GROUPS = {
    "image": "Fetch, build and send cloud images.",
    "node": "Look at Proxmox nodes, their rights, their certificates.",
    "lab": "Run a Proxmox node without Proxmox, here.",
}
# Click's own base of what is wrong with a command line; Typer does not give it a public name.
_UsageError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
_INTERRUPTED = 130
# The system said no to a file: that is no bug.
_FILE_TROUBLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
}


class Commands(TyperGroup):
    """All commands: those on VMs first, then the groups, each of which is read when it is used."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for name, summary in GROUPS.items():
            self.add_command(LaterGroup(name, summary))


hide_types()
app = typer.Typer(
    name="vi-ops",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
vm.register(app)
app.command("explain")(explain.explain)
app.command("schema")(schema.schema)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vi-ops {__version__}")
        raise typer.Exit


@app.callback()
def root(
    inventory: Annotated[
        Path | None,
        typer.Option(
            "-i",
            "--inventory",
            metavar="DIR",
            help="The site: an Ansible inventory folder; else VI_OPS_INVENTORY, else ./inventory.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """GPU virtual machines on Proxmox, from bare node to a supervised pipeline.

    \b
    Examples:
      vi-ops plan vm106        # what would change, why, and when it takes effect
      vi-ops provision vm106   # make it so; a second run changes nothing
      vi-ops -i my-site plan --all
      vi-ops lab up            # a Proxmox node without Proxmox, to try this on
    """
    if inventory is not None:
        os.environ["VI_OPS_INVENTORY"] = str(inventory)
    if debug:
        os.environ["VI_OPS_DEBUG"] = "1"


def main() -> NoReturn:
    """Run the command line; every failure ends here as a message and an exit code."""
    try:
        code = app(prog_name="vi-ops", standalone_mode=False) or os.EX_OK
        if code == _INTERRUPTED:
            raise KeyboardInterrupt  # Typer made an exit code of it
        sys.exit(code)
    except ViOpsError as error:
        _show_trace(error)
        say_error(error.code, error.message, error.hint)
        sys.exit(error.exit_code)
    except _UsageError as error:
        sys.exit(_say_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        if sys.stderr.isatty():
            typer.echo("", err=True)  # the shell's prompt begins a line of its own
        sys.exit(_INTERRUPTED)
    except (BrokenPipeError, SystemExit) as end:
        # Typer makes an exit of a broken pipe.
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise
        # The reader went away (`vi-ops plan | head`): no more output, and no complaint at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(os.EX_OK)
    except Exception as error:
        _show_trace(error)
        if isinstance(error, OSError) and error.errno in _FILE_TROUBLE and error.filename:
            say_error(
                "file-refused", f"{error.filename}: {error.strerror}", "check path, owner and free space"
            )
            sys.exit(1)
        from vi_ops.cli.bug import write_report

        say_error("bug", f"{type(error).__name__}: {error}", f"report written to {write_report(error)}")
        sys.exit(3)


def _show_trace(error: Exception) -> None:
    """With `--debug`: where it comes from. The message and the exit code stay what they are."""
    if os.environ.get("VI_OPS_DEBUG"):
        import traceback

        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)


def _say_usage(error: Any) -> int:
    """What is wrong with the command line; without any words on it, the help. The exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        words = str(error.format_message()).rstrip(".")
        path = error.ctx.command_path if getattr(error, "ctx", None) else "vi-ops"
        hint = _where_it_goes(getattr(error, "option_name", ""), path)
        say_error("usage", in_our_words(words), hint or f"`{path} --help` shows options and examples")
    return int(error.exit_code)


def _where_it_goes(option: str, path: str) -> str | None:
    """What to do about an option that the command does not know, but another place does."""
    own = "-i goes right behind `vi-ops`, before the command"
    is_ours = option in {"-i", "--inventory"}
    if path == "vi-ops ssh":
        guests = "options of the guest's command go behind two dashes: `vi-ops ssh VM -- COMMAND`"
        return f"{guests}; {own}" if is_ours else guests
    return f"{own}: `vi-ops -i DIR {path.removeprefix('vi-ops ')}`" if is_ours else None
