"""What tells that a guest is ready: its addresses by MAC, and who holds the package locks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from vi_ops.errors import FactError

# One process in the guest, without root: /proc/locks names the owner of every lock by inode. dpkg and apt
# take POSIX record locks, which flock(1) would not see. A unit that is `activating` is about to take them.
APT_BUSY_SCRIPT = """
for file in lib/dpkg/lock-frontend lib/dpkg/lock lib/apt/lists/lock cache/apt/archives/lock; do
  inode=$(stat -c %i "/var/$file" 2>/dev/null) || continue
  pid=$(awk -v inode="$inode" \
    '$2 == "POSIX" { split($6, id, ":"); if (id[3] == inode) { print $5; exit } }' /proc/locks)
  [ -z "$pid" ] || echo "lock /var/$file $pid $(cat "/proc/$pid/comm" 2>/dev/null)"
done
for unit in apt-daily.service apt-daily-upgrade.service; do
  state=$(systemctl is-active "$unit" 2>/dev/null)
  [ "$state" != activating ] || echo "unit $unit"
done
echo end
"""


def addresses_of(interfaces: Iterable[Mapping[str, Any]], mac: str) -> tuple[str, ...]:
    """Addresses of the interface with that MAC as `192.168.1.106/24`, IPv4 first, link-local ones left out.

    Takes: the `result` of the agent's `network-get-interfaces`.
    Gives: nothing when the interface is absent or has no address yet.
    """
    found: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface] = []
    for interface in interfaces:
        if str(interface.get("hardware-address", "")).lower() != mac.lower():
            continue
        for entry in interface.get("ip-addresses", ()):
            address = ipaddress.ip_interface(f"{entry['ip-address'].partition('%')[0]}/{entry['prefix']}")
            if not address.is_link_local and not address.is_loopback:
                found.append(address)
    return tuple(str(address) for address in sorted(found, key=lambda one: one.version))


def parse_apt_busy(text: str) -> tuple[str, ...]:
    """Who is at the packages, in words; empty when nobody is.

    Takes: what APT_BUSY_SCRIPT printed. Raises: FactError when its last line is missing.
    """
    lines = text.splitlines()
    if not lines or lines[-1] != "end":
        raise FactError("apt-busy", f"the answer about package locks was cut off: {text[-200:]!r}")
    busy: list[str] = []
    for line in lines[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "unit":
            busy.append(f"{rest} is running")
            continue
        file, pid, *name = rest.split(" ", 2)
        busy.append(f"{name[0] if name and name[0] else 'a process'} (pid {pid}) holds {file}")
    return tuple(busy)
