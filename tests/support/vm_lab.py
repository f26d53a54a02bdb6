"""A running lab whose guests are fakes, and the few verbs that a test of its VMs needs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_guests import FakeGuests
from tests.support.lab import Answer, RunningLab, published_schema, running_lab
from vi_ops.lab import seed, vm_file
from vi_ops.lab.fault import Fault
from vi_ops.lab.route import User
from vi_ops.lab.vm_config import VmConfig

SECRET = "3c4b2f0e-0000-4000-8000-000000000001"


@dataclass
class VmLab:
    """Who asks: `ops` the ordinary token, `root` a ticket, `root_token` a token, `nobody` has no rights."""

    lab: RunningLab
    guests: FakeGuests
    vmids: Iterator[int] = field(default_factory=lambda: itertools.count(100))

    @property
    def storage(self) -> Path:
        return self.lab.home / "storage" / "local"

    def headers(self, who: str) -> dict[str, str] | None:
        if who == "ops":
            return None
        if who == "root":
            login, root = self.lab.node.login, User("root@pam")
            ticket, csrf = login.ticket(root), login.csrf_token(root)
            return {"Authorization": f"PVEAuthCookie={ticket}", "CSRFPreventionToken": csrf}
        authid = {"root_token": "root@pam!t", "nobody": "nobody@pve!t"}[who]
        return {"Authorization": f"PVEAPIToken={authid}={SECRET}"}

    def ask(self, verb: str, path: str, who: str = "ops", **params: Any) -> Answer:
        """One request below the node; `_` at the end of a name is dropped, others become dashes."""
        named = {key.rstrip("_").replace("__", "-"): value for key, value in params.items()}
        return self.lab.ask(verb, f"/nodes/pve1{path}", named, self.headers(who))

    def get(self, vmid: int, path: str, **params: Any) -> Any:
        answer = self.ask("GET", f"/qemu/{vmid}/{path}", **params)
        assert answer.status == 200, answer
        return answer.data

    def put(self, vmid: int, who: str = "ops", **params: Any) -> Answer:
        return self.ask("PUT", f"/qemu/{vmid}/config", who, **params)

    def task(self, verb: str, path: str, who: str = "ops", **params: Any) -> tuple[str, list[str]]:
        """A request that starts a task: its exitstatus and its log, without the result line."""
        answer = self.ask(verb, path, who, **params)
        assert answer.status == 200, answer
        status = self.lab.wait(answer.data)
        lines = self.ask("GET", f"/tasks/{answer.data}/log", limit=0).data
        return status, [line["t"] for line in lines][:-1]

    def create(self, who: str = "ops", **options: Any) -> int:
        """A VM with these options; gives its vmid."""
        vmid = next(self.vmids)
        status, log = self.task("POST", "/qemu", who, vmid=vmid, **options)
        assert status == "OK", log
        return vmid

    def power(self, vmid: int, verb: str, **params: Any) -> tuple[str, list[str]]:
        return self.task("POST", f"/qemu/{vmid}/status/{verb}", **params)

    def started(self, **options: Any) -> int:
        """A VM with these options that runs."""
        vmid = self.create(**options)
        assert self.power(vmid, "start")[0] == "OK"
        return vmid

    def config(self, vmid: int) -> VmConfig:
        """The config as it lies on disk."""
        return vm_file.load(self.lab.node, vmid)

    def pending(self, vmid: int) -> dict[str, Mapping[str, Any]]:
        """What waits: the rows of `pending` that have something pending, by key."""
        return {row["key"]: row for row in self.get(vmid, "pending") if "pending" in row or "delete" in row}

    def fault(self, name: str, vmid: int, count: int | None = 1) -> None:
        self.lab.node.faults.inject(Fault(name, vmid=vmid, count=count))


@contextmanager
def vm_lab(home: Path, release: str = "9.2", *, schema: bool = True) -> Iterator[VmLab]:
    """Serve a lab with fake guests; parameters are checked where the published schema is at hand."""
    guests = FakeGuests()
    with pytest.MonkeyPatch.context() as patch:
        guests.install(patch)
        settings = {"host": {"cpus": 4, "memory_bytes": 8 * 1024**3}}
        with running_lab(home, release, published_schema(release) if schema else None, settings) as lab:
            for userid, password in (("root@pam", lab.root_password), ("nobody@pve", None)):
                seed.add_user(lab.node.acl, userid, password, tokens={"t": (SECRET, False)})
            yield VmLab(lab, guests)
