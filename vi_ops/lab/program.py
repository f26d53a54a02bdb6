"""Programs that the lab runs to their end: qemu-img, cp, the maker of ISO files."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vi_ops.lab.guest_error import GuestError

Log = Callable[[str], None]

# Debian's and Ubuntu's names, for the one thing to do when a program is absent.
_PACKAGES: Final = {
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "xorriso": "xorriso",
    "cp": "coreutils",
}


def silent(_text: str) -> None:
    """A log that nobody reads."""


async def run(*argv: str, deadline_s: float = 3600.0) -> str:
    """Run a program and give what it printed. Raises GuestError with its last words; kills it when late."""
    if shutil.which(argv[0]) is None:
        raise GuestError(
            f"command '{argv[0]}' not found: install the package {_PACKAGES.get(argv[0], argv[0])}"
        )
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(deadline_s):
            printed, complaint = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise GuestError(f"command '{' '.join(argv[:2])}' failed: got timeout") from error
        raise
    if process.returncode:
        words = complaint.decode(errors="replace").strip() or f"exit code {process.returncode}"
        raise GuestError(f"command '{' '.join(argv[:2])}' failed: {words}")
    return printed.decode(errors="replace")


async def qemu_img(command: str, *arguments: str | Path, log: Log = silent) -> str:
    """Run `qemu-img command ...`; what it prints goes to the log as well."""
    text = await run("qemu-img", command, *(str(argument) for argument in arguments))
    for line in text.splitlines() if log is not silent else ():
        log(line)
    return text
