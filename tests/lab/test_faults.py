"""Every fault of the lab against the real command line: exit code, words, what is left, and how it goes on.

Cases are in tests/cases/faults.yml; what a table cannot say is below. Guests are fakes, but for the last.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.scene import VMID, Scene, scene, vi_ops
from vi_ops.execute import apply
from vi_ops.execute.image import image_path
from vi_ops.execute.journal import open_journal
from vi_ops.facts.image import BuiltImage
from vi_ops.lab.fault import NAMES
from vi_ops.lab.volume import FIRMWARE
from vi_ops.plan import ready
from vi_ops.units import MIB

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

Case = dict[str, Any]
DOCUMENT = Path(__file__).parents[2] / "docs" / "lab.md"
CASES: list[Case]
PUSHES: list[Case]
CASES, PUSHES = yaml.safe_load_all((Path(__file__).parents[1] / "cases" / "faults.yml").read_text("utf-8"))
VM = f"/nodes/pve1/qemu/{VMID}"
CALLS = {
    "create": "POST /nodes/pve1/qemu",
    "resize": f"PUT {VM}/resize",
    "start": f"POST {VM}/status/start",
    "config": f"POST {VM}/config",
    "stop": f"POST {VM}/status/stop",
    "destroy": f"DELETE {VM}",
    "upload": "POST /nodes/pve1/storage/local/upload",
}


@pytest.fixture
def drill(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as running:
        yield running


def inject(fault: str) -> None:
    ran = vi_ops("lab", "fault", "inject", *shlex.split(fault))
    assert ran.code == 0, ran.err


def check_met(fault: str) -> None:
    """A fault that was to happen so many times has happened as often: the run has met it."""
    held = json.loads(vi_ops("lab", "fault", "list", "--json").out)["faults"]
    assert "--count" not in fault or held == []


def test_every_fault_has_a_case_and_a_line_in_the_document() -> None:
    assert {case["fault"].split()[0] for case in CASES} == set(NAMES)
    rows = [line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert [name for name in NAMES if not any(f"`{name}" in row.split("|")[1] for row in rows)] == []


@pytest.mark.parametrize("case", [pytest.param(case, id=case["about"]) for case in CASES])
def test_case(drill: Scene, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    prepare(drill, case)
    before, pins = counts(drill), drill.known_hosts()
    command = shlex.split(case.get("run", "provision vm106"))
    inject(case["fault"])
    with monkeypatch.context() as patch:
        hurry(patch, case.get("hurry", {}))
        ran = vi_ops(*command)

    assert ran.code == case["exit"], ran
    if "code" in case:
        assert f"error [{case['code']}]" in ran.err
        assert drill.known_hosts() == pins
    for words in case.get("says", []):
        assert words in ran.err
    check_met(case["fault"])
    refused = [f"{one['method']} {one['path']} {one['status']}" for one in drill.lab.lab.requests()]
    assert "met" not in case or case["met"] in refused
    done = {name: number - before[name] for name, number in counts(drill).items()}
    assert {name: number for name, number in done.items() if number} == case.get("done", {})
    check_state(drill, case.get("state", "absent"))
    check_journal(drill, case, command)

    assert vi_ops("lab", "fault", "clear").code == 0
    again = vi_ops(*shlex.split(case.get("again", shlex.join(command))))
    assert again.code == 0, again
    check_state(drill, case.get("then", "running"))
    for words in case.get("again_says", []):
        assert words in again.err
    total = counts(drill)
    assert all(total[name] == number for name, number in {"create": 1, **case.get("in_all", {})}.items())
    with open_journal(drill.state.journal) as journal:
        assert journal.left("vm106") == ()


@pytest.mark.parametrize("command", ["provision vm106", "destroy vm106 --yes-destroy vm106"])
def test_a_lock_that_the_config_shows_is_the_same_exit_code(drill: Scene, command: str) -> None:
    prepare(drill, {"ground": "stopped"})
    before = counts(drill)
    assert drill.lab.put(VMID, "root", lock="backup").status == 200
    ran = vi_ops(*command.split())
    assert ran.code == 7, ran
    for words in ("error [vm-locked]: vm106: VM 106 on pve1 is locked: backup", "`qm unlock 106`"):
        assert words in ran.err
    assert counts(drill) == before
    assert drill.lab.put(VMID, "root", delete="lock", skiplock=1).status == 200
    assert vi_ops(*command.split()).code == 0


@pytest.mark.parametrize("case", [pytest.param(case, id=case["about"]) for case in PUSHES])
def test_push(drill: Scene, case: Case) -> None:
    content = build_image(drill)
    inject(case["fault"])
    ran = vi_ops("image", "push", "debian-13")

    assert ran.code == case["exit"], ran
    if "code" in case:
        assert f"error [{case['code']}]" in ran.err
    for words in case.get("says", []):
        assert words in ran.err
    check_met(case["fault"])
    whole = [content] if case.get("stored") else []
    assert [file.read_bytes() for file in drill.image.parent.iterdir()] == whole
    assert not list((drill.lab.lab.home / "tmp").iterdir()), "half a file was left behind"

    assert vi_ops("lab", "fault", "clear").code == 0
    sent = counts(drill)["upload"]
    again = vi_ops("image", "push", "debian-13")
    assert again.code == 0, again
    assert drill.image.read_bytes() == content
    assert counts(drill)["upload"] == sent + (0 if whole else 1)


def build_image(drill: Scene) -> bytes:
    """Have the image here, as if built, and not on the node; gives its bytes."""
    content = drill.image.read_bytes()
    path = image_path("debian-13")
    path.parent.mkdir(parents=True)
    drill.image.rename(path)
    digest = hashlib.sha256(content).hexdigest()
    built = BuiltImage("debian-13", "recipe", 1, digest, len(content), digest, 64 * MIB, {}, {})
    path.with_suffix(".json").write_text(built.to_json())
    return content


@pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None or not FIRMWARE.exists(),
    reason="qemu-system-x86_64 or OVMF is not installed",
)
def test_a_real_qemu_that_never_boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No fake: the firmware of a real QEMU finds no disk, the console shows it, and destroy cleans up."""
    with scene(tmp_path, fakes=False) as drill:
        drill.edit("vm106", "firmware: seabios", "firmware: ovmf")
        inject("no-boot --count 1")
        with monkeypatch.context() as patch:
            hurry(patch, {"stage": 3, "firmware": 40})
            ran = vi_ops("provision", "vm106")
        assert ran.code == 1, ran
        assert "error [ready-kernel]: vm106: stage kernel: not reached after 3 s: the firmware" in ran.err
        console = ran.err.partition(" console: ")[2]
        assert "BdsDxe" in console
        assert "hint: `vi-ops console vm106` shows" in ran.err
        check_state(drill, "running")
        destroyed = vi_ops("destroy", "vm106", "--yes-destroy", "vm106")
        assert destroyed.code == 0, destroyed
        check_state(drill, "absent")


def prepare(drill: Scene, case: Case) -> None:
    """Bring the ground, the change and the login of a case about."""
    if case.get("login") == "password":
        drill.edit("pve1", "token: ops@pve!viops", "user: root@pam")
        drill.edit("pve1", "lab_dir }}/token", "lab_dir }}/root-password")
    ground = case.get("ground", "nothing")
    if ground != "nothing":
        ran = vi_ops("provision", "vm106")
        assert ran.code == 0, ran
    if ground == "stopped":
        assert drill.lab.power(VMID, "stop")[0] == "OK"
    if "change" in case:
        drill.edit("vm106", "vm:\n", f"vm:\n  {case['change']}\n")


def hurry(patch: pytest.MonkeyPatch, deadlines: dict[str, float]) -> None:
    """Shorten deadlines of the product, of which the shortest is 60 s."""
    stages = [
        stage._replace(deadline_s=deadlines.get(stage.name, deadlines.get("stage", stage.deadline_s)))
        for stage in ready.STAGES
    ]
    patch.setattr(ready, "STAGES", tuple(stages))
    if start_s := deadlines.get("start"):
        patch.setattr(apply, "start_deadline_s", lambda config: start_s)


def counts(drill: Scene) -> dict[str, int]:
    """How often the node carried out each call so far."""
    return {name: drill.carried_out(call) for name, call in CALLS.items()}


def check_state(drill: Scene, state: str) -> None:
    """The VM is what it should be: gone with everything, or whole; never locked, never half."""
    node = drill.lab.lab.node
    if state == "absent":
        assert VMID not in node.vmids()
        assert drill.volumes() == []
        assert drill.known_hosts() == ""
        return
    config = drill.lab.config(VMID).values
    assert "lock" not in config
    assert drill.lab.get(VMID, "status/current")["status"] == state
    names = {"ide2", "scsi0", "efidisk0"} & set(config)
    drives = [config[name].split(",")[0].partition("/")[2] for name in names]
    assert drill.volumes() == sorted(drives)


def check_journal(drill: Scene, case: Case, command: list[str]) -> None:
    """The journal says how the run ended and which steps were begun in vain; a plan leaves no run."""
    with open_journal(drill.state.journal) as journal:
        begun = [step.key for step in journal.left("vm106") if step.started is not None]
        run = journal.last_run("vm106")
    assert begun == [f"vm106/{name}" for name in case.get("left", [])]
    if command[0] == "plan":
        assert run is None
    else:
        assert run
        assert run.outcome == case.get("code", "ok")
