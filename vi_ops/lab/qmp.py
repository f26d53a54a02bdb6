"""One conversation with a guest's QEMU over its monitor socket. One client at a time, one deadline."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError

from vi_ops.lab.guest_error import GuestError

_turn: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)


class Monitor:
    """A connected monitor: `ask` runs one command and gives what it returns."""

    def __init__(self, vmid: int, client: QMPClient) -> None:
        self._vmid = vmid
        self._client = client

    async def ask(self, command: str, **arguments: object) -> Any:
        """Run `command`; underscores in argument names become dashes. Raises GuestError with QEMU's words."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            return await self._client.execute(command, named or None)
        except ExecuteError as error:
            raise GuestError(f"VM {self._vmid} qmp command '{command}' failed - {error}") from error


@asynccontextmanager
async def monitor(vmid: int, socket: Path, timeout_s: float = 5.0) -> AsyncIterator[Monitor]:
    """Talk to the guest's QEMU. Everything inside the block shares one deadline of `timeout_s` seconds.

    Raises GuestError: the guest is gone, or QEMU did not answer in time.
    """
    client = QMPClient(f"vm{vmid}")
    try:
        async with asyncio.timeout(timeout_s), _turn[socket]:
            await client.connect(str(socket))
            try:
                yield Monitor(vmid, client)
            finally:
                await _hang_up(client)
    except TimeoutError as error:
        raise GuestError(f"VM {vmid} qmp command failed - got timeout") from error
    except (QMPError, OSError) as error:
        raise GuestError(
            f"VM {vmid} qmp command failed - unable to connect to VM {vmid} qmp socket"
        ) from error


async def _hang_up(client: QMPClient) -> None:
    # QEMU may be gone already, which is what `quit` is for: what the connection died of is no news.
    try:
        await client.disconnect()
    except (QMPError, OSError, EOFError):
        return
