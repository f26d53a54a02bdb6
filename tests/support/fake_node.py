"""A node in memory, as `Pve` shows one: VMs with state, tasks, an agent that answers once the guest is up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from vi_ops.errors import StepFailed, ViOpsError
from vi_ops.facts.task import TaskResult, parse_upid
from vi_ops.plan.step import PveCall

MAC = "BC:24:11:00:01:06"
CLOUD_INIT_DONE = """{"v1": {"datasource": "DataSourceNoCloud", "stage": null,
  "init-local": {"errors": [], "start": 1.0, "finished": 2.0},
  "init": {"errors": [], "start": 2.0, "finished": 3.0},
  "modules-config": {"errors": [], "start": 3.0, "finished": 4.0},
  "modules-final": {"errors": [], "start": 4.0, "finished": 5.0}}}"""


@dataclass
class FakeVm:
    """One VM. `files` is what the agent reads; it answers after `boots` more looks.

    `running` is the config in force where another one waits for a power cycle.
    """

    config: dict[str, Any] = field(default_factory=lambda: {"net0": f"virtio={MAC},bridge=vmbr0"})
    running: dict[str, Any] | None = None
    status: str = "stopped"
    qmpstatus: str = ""
    boots: int = 0
    addresses: list[str] = field(default_factory=lambda: ["192.168.1.106/24"])
    files: dict[str, str] = field(default_factory=lambda: {"/run/cloud-init/status.json": CLOUD_INIT_DONE})


@dataclass
class FakeNode:
    """Duck-typed Pve.

    `failing` are errors by (method, path), raised once; `endings` exit statuses of tasks by the path of the
    call; tasks in `running` end when they are awaited.
    """

    node_name: str = "pve1"
    vms: dict[int, FakeVm] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    failing: dict[tuple[str, str], ViOpsError] = field(default_factory=dict)
    running: dict[str, Callable[[], None]] = field(default_factory=dict)
    endings: dict[str, str] = field(default_factory=dict)
    _ended: dict[str, str] = field(default_factory=dict)
    on_write: Callable[[PveCall], None] = lambda call: None
    spec: Any = field(default_factory=lambda: SimpleNamespace(host="pve1"))

    def __post_init__(self) -> None:
        self.agent_slots = threading.BoundedSemaphore(2)
        self._tasks = 0

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.calls if method != "GET"]

    def get(self, path: str, params: Mapping[str, Any] | None = None, /, **named: Any) -> Any:
        self._note("GET", path)
        wanted = {**(params or {}), **named}
        parts = path.strip("/").split("/")
        if parts[2:] == ["tasks"]:
            return [{"upid": upid, "status": "RUNNING"} for upid in self.running]
        vm = self.vms.get(int(parts[3]))
        if vm is None:
            raise StepFailed("pve-not-found", f"Configuration file 'nodes/pve1/qemu-server/{parts[3]}.conf'")
        match parts[4:]:
            case ["config"]:
                return dict(vm.running or vm.config if wanted.get("current") else vm.config)
            case ["snapshot"]:
                return [{"name": "current"}]
            case ["status", "current"]:
                return {"status": vm.status, "qmpstatus": vm.qmpstatus or vm.status, "vmid": int(parts[3])}
            case ["agent", command]:
                return self._agent(vm, command, wanted)
        raise AssertionError(f"the fake node has no {path}")

    def write(self, call: PveCall, landed: Callable[[], bool] | None = None) -> Any:
        self._note(call.method, call.path)
        self.on_write(call)
        upid = self.new_upid("qmstart", 106)
        self._ended[upid] = self.endings.get(call.path, "OK")
        parts = call.path.strip("/").split("/")
        match (call.method, *parts[4:]):
            case ("POST",):
                self.vms[int(str(call.params["vmid"]))] = FakeVm({**FakeVm().config, **call.params})
            case ("DELETE",):
                del self.vms[int(parts[3])]
            case ("POST", "status", "start"):
                self.vms[int(parts[3])].status = "running"
            case ("POST", "status", "stop"):
                self.vms[int(parts[3])].status = "stopped"
            case ("POST", "config"):
                self.vms[int(parts[3])].config |= dict(call.params)
            case ("PUT", "cloudinit"):
                return None
        return upid

    def wait(self, upid: str, deadline_s: float, tell: Callable[[str], None] | None = None) -> TaskResult:
        self._note("GET", f"/nodes/pve1/tasks/{upid}/status")
        if finish := self.running.pop(upid, None):
            finish()
        return TaskResult(parse_upid(upid), self._ended.get(upid, "OK"), tail=("TASK ERROR: no room",))

    def new_upid(self, kind: str, vmid: int) -> str:
        self._tasks += 1
        return f"UPID:pve1:{self._tasks:08X}:00000001:6740A1B2:{kind}:{vmid}:ops@pve!viops:"

    def close(self) -> None:
        pass

    def _note(self, method: str, path: str) -> None:
        self.calls.append((method, path))
        if error := self.failing.pop((method, path), None):
            raise error

    def _agent(self, vm: FakeVm, command: str, wanted: Mapping[str, Any]) -> Any:
        if vm.status != "running":
            raise StepFailed("pve-not-running", "VM 106 is not running")
        if vm.boots > 0:
            vm.boots -= 1
            raise StepFailed("pve-agent-silent", "QEMU guest agent is not running")
        if command == "network-get-interfaces":
            mac = (vm.running or vm.config)["net0"].split("=")[1].split(",")[0].lower()
            addresses = [
                {"ip-address": one.split("/")[0], "prefix": int(one.split("/")[1]), "ip-address-type": "ipv4"}
                for one in vm.addresses
            ]
            return {"result": [{"name": "ens18", "hardware-address": mac, "ip-addresses": addresses}]}
        if command == "file-read":
            if wanted["file"] not in vm.files:
                raise StepFailed("pve-agent-error", f"Agent error: failed to open file '{wanted['file']}'")
            return {"content": vm.files[wanted["file"]], "bytes-read": 1}
        return {"result": {"error": {"class": "CommandNotFound", "desc": f"{command} is disabled"}}}
