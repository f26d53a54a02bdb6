"""Bringing an image to a node's storage: look, plan, have the node fetch it, or send it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vi_ops.errors import Refused, SpecError
from vi_ops.execute.bootstrap import Tell
from vi_ops.execute.image import image_path, read_built
from vi_ops.execute.published import look_at_published
from vi_ops.execute.pve import Pve
from vi_ops.facts.image import StoredVolume, find_stored
from vi_ops.facts.node import parse_storages
from vi_ops.plan.image_store import CONTENT, check_store, plan_fetch, plan_push
from vi_ops.plan.step import Plan, PveCall
from vi_ops.specs.image import ImageSpec

# The node downloads over its own line: 600 MB at 2 Mbit/s take 40 minutes, and then it verifies them.
FETCH_DEADLINE_S: Final = 3600.0

Show = Callable[[Plan], None]


def fetch_image(pve: Pve, spec: ImageSpec, show: Show, tell: Tell) -> Plan:
    """Have the node fetch the published image unless it has it; gives the plan that was carried out.

    Raises Refused `image-storage`, Unreachable, StepFailed with the end of the task's log.
    """
    stored = _look(pve, spec)
    plan = plan_fetch(spec, pve.node_name, pve.spec.image_storage, look_at_published(spec), stored)
    show(plan)
    for step in plan.steps:
        assert isinstance(step.do, PveCall)  # noqa: S101
        pve.run(step.do, FETCH_DEADLINE_S, tell, landed=lambda: _stored(pve, spec) is not None)
    return plan


def push_image(pve: Pve, spec: ImageSpec, show: Show, tell: Tell) -> Plan:
    """Send the image built here unless the node has it; gives the plan that was carried out.

    Raises SpecError `image-not-built`; else as `fetch_image`.
    """
    built = read_built(spec.name)
    if built is None:
        raise SpecError(
            "image-not-built",
            f"{spec.name} has not been built here: there is no {image_path(spec.name)} with its record",
            hint=f"build it first: `vi-ops image build {spec.name}`"
            if spec.build
            else f"it is published ready-made: `vi-ops image fetch {spec.name}`",
        )
    stored = _look(pve, spec)
    plan = plan_push(spec, pve.node_name, pve.spec.image_storage, built, stored)
    show(plan)
    if plan.steps:
        pve.upload(
            pve.node_name,
            pve.spec.image_storage,
            image_path(spec.name),
            content=CONTENT,
            checksum=f"sha256:{built.sha256}",
            tell=tell,
            filename=spec.file,
        )
    return plan


def _look(pve: Pve, spec: ImageSpec) -> StoredVolume | None:
    storages = tuple(parse_storages(pve.get(f"/nodes/{pve.node_name}/storage")))
    if finding := check_store(pve.node_name, pve.spec.image_storage, storages):
        raise Refused(finding.code, finding.message, hint=finding.hint)
    return _stored(pve, spec)


def _stored(pve: Pve, spec: ImageSpec) -> StoredVolume | None:
    path = f"/nodes/{pve.node_name}/storage/{pve.spec.image_storage}/content"
    return find_stored(pve.get(path, content=CONTENT), spec.file)
