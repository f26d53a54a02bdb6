"""The report of a bug: laid out so that it can be pasted into an issue, with no secret in it."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from pathlib import Path

from vi_ops import __version__


def write_report(error: BaseException) -> Path:
    """Write the report to a private file in the temporary folder and give its path.

    Tracebacks hold code lines, not values; the arguments of the command line are names, never secrets.
    """
    lines = [
        "### What happened",
        f"`{' '.join(['vi-ops', *sys.argv[1:]])}` failed: {type(error).__name__}",
        "",
        "### Where",
        f"vi-ops {__version__}, Python {platform.python_version()}, {platform.platform()}",
        "",
        "### Traceback",
        "```",
        "".join(traceback.format_exception(error)).rstrip(),
        "```",
    ]
    handle, name = tempfile.mkstemp(prefix="vi-ops-bug-", suffix=".md")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return Path(name)
