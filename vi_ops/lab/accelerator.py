"""Whether KVM works here. A device file proves nothing: a firmware has to run from reset to its boot menu."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from vi_ops.lab.store import read_json, write_json
from vi_ops.lab.volume import FIRMWARE

# What OVMF prints when it is through with its own work. It runs in long mode with paging, where SeaBIOS alone
# proves too little: seen on a cloud machine whose /dev/kvm ran SeaBIOS and hung or aborted in OVMF.
_SIGN: Final = b"BdsDxe"
# OVMF is there after 4 s under TCG on two cores; a working KVM needs less.
_DEADLINE_S: Final = 12.0


async def has_kvm(home: Path) -> bool:
    """Whether guests can use KVM; asked once for each boot of this machine; the lab keeps the verdict."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    verdict_file = home / "kvm.json"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict = read_json(verdict_file, {})
    if verdict.get("boot_id") != boot:
        verdict = {"boot_id": boot, "works": await _runs_firmware()}
        write_json(verdict_file, verdict)
    return bool(verdict["works"])


async def _runs_firmware() -> bool:
    with tempfile.TemporaryDirectory(prefix="vi-ops-kvm-") as scratch:
        variables, serial = Path(scratch) / "vars.fd", Path(scratch) / "serial"
        try:
            shutil.copyfile(FIRMWARE / "OVMF_VARS_4M.fd", variables)
        except FileNotFoundError:
            return False
        process = await asyncio.create_subprocess_exec(
            *("qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "256"),
            *("-no-user-config", "-nodefaults", "-display", "none", "-serial", f"file:{serial}"),
            *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.fd'}"),
            *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DEADLINE_S):
                    while process.returncode is None:
                        if serial.exists() and _SIGN in serial.read_bytes():
                            return True
                        await asyncio.sleep(0.1)
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
