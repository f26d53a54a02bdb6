"""Measure vi-ops against something real in the same run, and hold the results against scripts/budgets.toml.

A machine's speed changes from hour to hour, a ratio of two things measured in turn does not: that is why most
budgets are ratios. Results go to docs/benchmarks.json and, as a table, to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUDGETS = tomllib.loads((ROOT / "scripts/budgets.toml").read_text("utf-8"))
BOOT_DEADLINE_S = 420.0
OVMF = Path("/usr/share/OVMF")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what boots no guest")
    parser.add_argument(
        "--runs", type=int, default=2, help="cold provisions, and boots by hand in turn with them"
    )
    arguments = parser.parse_args()
    results = {"help_start": help_start(), "plan_200": plan_200()}
    if not arguments.quick:
        results |= provision(arguments.runs)
    for name, result in results.items():
        result.update(BUDGETS[name], ok=result["value"] <= BUDGETS[name]["budget"])
    write(results, is_whole=not arguments.quick)
    return int(not all(result["ok"] for result in results.values()))


def help_start(runs: int = 15) -> dict[str, Any]:
    """Start-up of `--help` and of a bare typer, in turn."""
    ours = [shutil.which("vi-ops") or "vi-ops", "--help"]
    bare = [sys.executable, "-c", "import typer"]
    pairs = [(seconds(ours), seconds(bare)) for _ in range(runs)]
    return {
        "value": round(statistics.median(a / b for a, b in pairs), 2),
        "vi_ops_s": round(statistics.median(a for a, _ in pairs), 3),
        "bare_s": round(statistics.median(b for _, b in pairs), 3),
        "runs": runs,
    }


def plan_200(runs: int = 3) -> dict[str, Any]:
    """200 VMs that the node has, as described and stopped: how long their plans take, and how many calls."""
    with lab() as home:
        site = many_vms(home, count=200)
        command = ["vi-ops", "-i", str(site), "plan", "--all", "--json"]
        times = [seconds(command) for _ in range(runs)]
        calls = calls_during(home, lambda: vi_ops(*command[1:]))
    return {"value": round(statistics.median(times), 2), "calls": len(calls), "runs": runs}


def provision(runs: int) -> dict[str, dict[str, Any]]:
    """Cold `provision` up to a verified SSH login against a start by hand, in turn; then a no-op plan."""
    rows = []
    with lab() as home:
        site = copy_lab_site(home)
        vi_ops("-i", site, "image", "push", "debian-13", "--node", "pve1")
        for turn in range(runs):
            if turn:
                vi_ops("-i", site, "destroy", "vm106", "--yes-destroy", "vm106")
            by_hand_s = boot_by_hand(image_path(), home)
            rows.append((*timed_provision(site), by_hand_s))
        calls = calls_during(home, lambda: vi_ops("-i", site, "plan", "vm106", "--detect", "--json"))
    ratio = {
        "value": round(statistics.median(ssh / hand for ssh, _, hand in rows), 2),
        "to_ssh_s": [round(row[0], 1) for row in rows],
        "with_base_packages_s": [round(row[1], 1) for row in rows],
        "by_hand_s": [round(row[2], 1) for row in rows],
        "runs": runs,
    }
    return {"provision": ratio, "noop_plan_calls": {"value": len(calls), "calls": calls}}


def seconds(command: list[str]) -> float:
    """Wall time of a command that must succeed."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - begin


def vi_ops(*words: str | Path) -> str:
    """Run vi-ops and give its standard output; a failure shows what it said."""
    done = subprocess.run(["vi-ops", *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"vi-ops {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout


@contextmanager
def lab() -> Iterator[Path]:
    """A lab of its own on a free port, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vi-ops-bench-") as folder:
        home = Path(folder) / "lab"
        with socket.socket() as free, socket.socket() as free_ssh:
            free.bind(("127.0.0.1", 0))
            free_ssh.bind(("127.0.0.1", 0))
            port, ssh_port = free.getsockname()[1], free_ssh.getsockname()[1]
        settings = {"url": "", "release": "9.2", "node": "pve1", "ssh_port_base": ssh_port - 106}
        home.mkdir()
        (home / "lab.json").write_text(json.dumps(settings))
        os.environ.update(
            VI_OPS_LAB_DIR=str(home), VI_OPS_LAB_PORT=str(port), VI_OPS_STATE_DIR=str(Path(folder) / "state")
        )
        vi_ops("lab", "up", "--port", str(port))
        try:
            yield home
        finally:
            vi_ops("lab", "down")


def calls_during(home: Path, work: Callable[[], object]) -> list[str]:
    """The requests that the lab logged while `work` ran."""
    log = home / "log/access.jsonl"
    before = len(log.read_text().splitlines())
    work()
    lines = [json.loads(line) for line in log.read_text().splitlines()[before:]]
    return [f"{line['method']} {line['path']}" for line in lines]


def copy_lab_site(home: Path) -> Path:
    site = home.with_name("site")
    shutil.copytree(ROOT / "inventory/lab", site)
    return site


def many_vms(home: Path, count: int) -> Path:
    """A site of `count` VMs, and a node that has them: made from one VM by copying its config file."""
    site = copy_lab_site(home)
    text = (site / "host_vars/vm106.yml").read_text()
    names = {f"vm{vmid}": vmid for vmid in range(1000, 1000 + count)}
    for name, vmid in names.items():
        (site / f"host_vars/{name}.yml").write_text(one_of_many(text, vmid))
    write_hosts(site, list(names))
    made_from_plan(home, site, names)
    return site


def one_of_many(text: str, vmid: int) -> str:
    return (
        text.replace("vmid: 106", f"vmid: {vmid}")
        .replace("name: video-intelligence", f"name: worker-{vmid}")
        .replace("192.168.1.106", f"192.168.1.{vmid - 998}")
    )


def write_hosts(site: Path, names: list[str]) -> None:
    guests = "".join(f"        {name}:\n          ansible_port: {22000 + int(name[2:])}\n" for name in names)
    hosts = "all:\n  children:\n    nodes:\n      hosts:\n        pve1:\n    guests:\n      hosts:\n"
    (site / "hosts.yml").write_text(hosts + guests)


def made_from_plan(home: Path, site: Path, names: dict[str, int]) -> None:
    """Give the node the VMs that the plan would create: the config that its create call describes.

    No disk is copied 200 times: a config file and an empty sparse volume are what a plan can see.
    """
    node = home / "etc/pve/nodes/pve1/qemu-server"
    node.mkdir(parents=True, exist_ok=True)
    (home / "storage/local/import").mkdir(parents=True, exist_ok=True)
    (home / "storage/local/import/debian-13.qcow2").touch()
    steps = [json.loads(line) for line in vi_ops("-i", site, "plan", "--all", "--json").splitlines()]
    for step in steps:
        if step["kind"] == "step" and step["key"].endswith("/create"):
            params = step["do"]["params"]
            (node / f"{params['vmid']}.conf").write_text(config_file(params))
            volumes = home / f"storage/local/images/{params['vmid']}"
            volumes.mkdir(parents=True, exist_ok=True)


def config_file(params: dict[str, Any]) -> str:
    vmid = params["vmid"]
    lines = {key: value for key, value in params.items() if key not in {"vmid", "start", "description"}}
    lines["efidisk0"] = f"local:{vmid}/vm-{vmid}-disk-0.qcow2,efitype=4m,pre-enrolled-keys=0,size=528K"
    options = ",".join(
        part for part in str(params["scsi0"]).split(",")[1:] if not part.startswith("import-from=")
    )
    lines["scsi0"] = f"local:{vmid}/vm-{vmid}-disk-1.qcow2,{options},size=4G"
    lines["ide2"] = f"local:{vmid}/vm-{vmid}-cloudinit.qcow2,media=cdrom"
    mac = f"BC:24:11:00:{vmid >> 8:02X}:{vmid & 255:02X}"
    lines["net0"] = str(params["net0"]).replace("virtio", f"virtio={mac}", 1)
    head = f"#{params['description']}\n" if params.get("description") else ""
    return head + "".join(f"{key}: {word(value)}\n" for key, value in sorted(lines.items()))


def word(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def image_path() -> Path:
    cache = Path(os.environ.get("VI_OPS_CACHE_DIR", Path.home() / ".cache/vi-ops"))
    return cache / "images/debian-13.qcow2"


def timed_provision(site: Path) -> tuple[float, float]:
    """Seconds until the stage SSH was reached, and until the end."""
    begin = time.perf_counter()
    to_ssh = None
    command = ["vi-ops", "-i", str(site), "provision", "vm106", "--json"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        said = []
        for line in run.stderr:
            said.append(line)
            if '"stop"' in line and "SSH" in json.loads(line)["title"]:
                to_ssh = time.perf_counter() - begin
    if run.returncode or to_ssh is None:
        sys.exit(f"provision ended with {run.returncode}:\n{''.join(said[-20:])}")
    return to_ssh, time.perf_counter() - begin


def boot_by_hand(image: Path, home: Path) -> float:
    """What one would type: a copy of the image, a seed, QEMU with UEFI, then SSH until it lets us in."""
    key = home / "ssh/id_ed25519"
    with tempfile.TemporaryDirectory(prefix="vi-ops-hand-") as folder:
        work = Path(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        begin = time.perf_counter()
        run_tool("qemu-img", "convert", "-O", "qcow2", image, work / "disk.qcow2")
        run_tool("qemu-img", "resize", work / "disk.qcow2", "4G")
        shutil.copy(OVMF / "OVMF_VARS_4M.fd", work / "vars.fd")
        seed(work, key.with_suffix(".pub").read_text().strip())
        with subprocess.Popen(qemu_by_hand(work, port), stdout=subprocess.DEVNULL) as qemu:
            try:
                wait_for_login(key, port)
                return time.perf_counter() - begin
            finally:
                qemu.terminate()


def run_tool(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def seed(work: Path, public_key: str) -> None:
    user = {"hostname": "by-hand", "user": "smith", "ssh_authorized_keys": [public_key], "users": ["default"]}
    (work / "user-data").write_text("#cloud-config\n" + json.dumps(user))
    (work / "meta-data").write_text(json.dumps({"instance-id": f"by-hand-{time.time()}"}))
    run_tool(
        *("xorriso", "-as", "genisoimage", "-quiet", "-J", "-R", "-V", "cidata"),
        *("-o", work / "seed.iso", work / "user-data", work / "meta-data"),
    )


def qemu_by_hand(work: Path, port: int) -> list[str]:
    return [
        *("qemu-system-x86_64", "-machine", "q35,vmport=off", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", "2", "-m", "1024", "-nodefaults", "-display", "none", "-serial", f"file:{work}/console"),
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={work}/vars.fd"),
        *("-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=disk,bootindex=1"),
        *("-drive", f"if=none,id=disk,format=qcow2,file={work}/disk.qcow2,discard=unmap"),
        *("-drive", f"if=virtio,format=raw,readonly=on,file={work}/seed.iso"),
        *("-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-rng-pci"),
    ]


def wait_for_login(key: Path, port: int) -> None:
    """Log in until it works and cloud-init is done, as `provision` waits for both."""
    options = ["-i", str(key), "-p", str(port)]
    for option in (
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ConnectTimeout=5",
    ):
        options += ["-o", option]
    end = time.monotonic() + BOOT_DEADLINE_S
    while time.monotonic() < end:
        login = ["ssh", "-q", *options, "smith@127.0.0.1", "cloud-init status --wait >/dev/null; true"]
        if subprocess.run(login, capture_output=True).returncode == 0:
            return
        time.sleep(0.5)
    sys.exit(f"the image started by hand could not be logged in to within {BOOT_DEADLINE_S:.0f} s")


def write(results: dict[str, dict[str, Any]], *, is_whole: bool) -> None:
    """Print the table; a whole run is also kept in docs/."""
    machine = (
        f"{os.cpu_count()} CPUs, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    rows = [table_row(name, row) for name, row in results.items()]
    table = "\n".join(
        ["| benchmark | measured | budget | holds | what it is |", "|---|---|---|---|---|", *rows]
    )
    print(table)
    if is_whole:
        (ROOT / "docs/benchmarks.json").write_text(
            json.dumps({"machine": machine, **results}, indent=2) + "\n"
        )
        head = f"# Benchmarks\n\nMeasured by `scripts/bench` on {machine}, without KVM"
        (ROOT / "docs/benchmarks.md").write_text(f"{head}; details in `benchmarks.json`.\n\n{table}\n")


def table_row(name: str, row: dict[str, Any]) -> str:
    unit = row["unit"]
    cells = [
        name,
        f"{row['value']} {unit}",
        f"{row['budget']} {unit}",
        "yes" if row["ok"] else "NO",
        row["means"],
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
