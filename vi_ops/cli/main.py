"""The command `vi-ops`: options that hold everywhere, and the one place where errors are printed."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from vi_ops.errors import ViOpsError

app = typer.Typer(
    name="vi-ops",
    help="GPU virtual machines on Proxmox, from bare node to a supervised pipeline.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> NoReturn:
    """Run the command line; every expected failure ends here as a message and an exit code."""
    try:
        app()
    except ViOpsError as error:
        print(f"error [{error.code}]: {error.message}", file=sys.stderr)  # noqa: T201
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(os.EX_OK)
