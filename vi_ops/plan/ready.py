"""From power to a guest that can be worked on: the stages of readiness, each with its deadline."""

from __future__ import annotations

from typing import Final, NamedTuple

from vi_ops.plan.step import Playbook, PveCall, Step, WaitUntil
from vi_ops.specs.vm import VmSpec


class Stage(NamedTuple):
    """One stage: its name, its deadline in seconds, and what has been reached then."""

    name: str
    deadline_s: int
    title: str
    because: str


# Deadlines are for a slow node: emulated on two cores, a Debian image reaches SSH in 35 to 50 s.
STAGES: Final = (
    Stage("powered", 60, "QEMU runs the VM", "a start task may end before its VM does anything"),
    Stage("firmware", 120, "the firmware has begun to boot", "a disk that does not boot stops here"),
    Stage("kernel", 180, "the guest's kernel is up", "its first line on the serial console shows it"),
    Stage("agent", 600, "the guest agent answers", "addresses and host keys are read through it"),
    Stage("address", 120, "net0 has its address", "its interface is found by the MAC, whatever its name"),
    Stage(
        "cloud-init",
        900,
        "cloud-init has finished without a failed module",
        "the user and the keys are its work",
    ),
    Stage(
        "ssh",
        120,
        "SSH answers with the host key that the agent vouches for",
        "the first contact is verified",
    ),
    Stage("apt", 600, "nobody holds the package locks", "a first boot often updates packages by itself"),
)


def start_step(spec: VmSpec, node: str, why: str) -> Step:
    """Start the VM. How long that may take is the node's arithmetic; whoever waits for the task knows it."""
    return Step(
        key=f"{spec.host}/start",
        do=PveCall("POST", f"/nodes/{node}/qemu/{spec.vmid}/status/start"),
        because=why,
        title=f"Ensure VM {spec.vmid} runs",
    )


def ready_steps(spec: VmSpec, why: str) -> tuple[Step, ...]:
    """Wait for every stage in order, then have the base packages installed. `why` is put before the first."""
    waits = [
        Step(
            key=f"{spec.host}/wait-{stage.name}",
            do=WaitUntil(stage.name, stage.deadline_s),
            because=f"{why}: {stage.because}" if stage is STAGES[0] else stage.because,
            title=f"Wait until {stage.title} (at most {stage.deadline_s // 60} min)",
        )
        for stage in STAGES
    ]
    base = Step(
        key=f"{spec.host}/base",
        do=Playbook("base", spec.host),
        because="every guest gets the same base packages and settings",
        title="Ensure the base packages and settings",
    )
    return (*waits, base)
