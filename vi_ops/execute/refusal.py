"""What a node's refusal means: its own words, a stable code, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vi_ops.errors import LockHeld, Refused, StepFailed, Unreachable, ViOpsError
from vi_ops.facts.access import parse_denied


@dataclass(frozen=True)
class Meaning:
    """What a text of the node means: a code, the kind of failure, and a remedy."""

    code: str
    kind: type[ViOpsError]
    hint: str

    def remedy(self, node: str, vmid: str = "VMID") -> str:
        """The hint with the names that it is about."""
        return self.hint.replace("NODE", node).replace("VMID", vmid or "VMID")


_ROOT: Final = Meaning(
    "pve-root-only",
    Refused,
    "only root@pam with a password may set this, no token may: use a resource mapping for a device,"
    " or let root set it once with `qm set` on the node",
)
_LOCKED: Final = Meaning(
    "pve-locked",
    LockHeld,
    "wait for the task that holds it; root removes a lock that was left behind: `qm unlock VMID`",
)
_GONE: Final = Meaning(
    "pve-not-found", StepFailed, "compare the names in the inventory with `vi-ops node status NODE`"
)
_AGENT: Final = Meaning(
    "pve-agent-silent",
    StepFailed,
    "the guest is still booting, or lacks a running qemu-guest-agent; `vi-ops console` shows what it does",
)

# The node's texts, from qemu-server, pve-storage, pve-guest-common and pve-common as of releases 8.4 and 9.2.
_MEANINGS: Final = tuple(
    (re.compile(pattern), meaning)
    for pattern, meaning in (
        (r"only root(@pam)? can |Only root (can|may) ", _ROOT),
        (r"(VM|CT) is locked|can't lock file .* got timeout|cfs-lock '.*' error", _LOCKED),
        (
            r"checksum mismatch \(file change|detected modified configuration",
            Meaning("pve-changed", StepFailed, "somebody else changed it in between: run the command again"),
        ),
        (
            r"already exists|already defined",
            Meaning(
                "pve-exists",
                Refused,
                "choose another name or number, or look at what has it: vi-ops node status NODE",
            ),
        ),
        (
            r"protection mode enabled|cannot remove protected",
            Meaning("pve-protected", Refused, "take the protection off first, on purpose: protection: false"),
        ),
        (
            r"cluster not ready - no quorum",
            Meaning(
                "pve-no-quorum",
                StepFailed,
                "bring the other nodes back, or `pvecm expected 1` on a lone node",
            ),
        ),
        (
            r"hostname lookup '.*' failed",
            Meaning(
                "pve-node-unknown", Refused, "node.name must be the node's name in Proxmox: `hostname` there"
            ),
        ),
        (
            r"No QEMU guest agent configured",
            Meaning(
                "pve-agent-off",
                StepFailed,
                "set agent: 1 and power-cycle the VM: its port is not hot-plugged",
            ),
        ),
        (r"QEMU guest agent is not running|qga command '.*' failed - got timeout", _AGENT),
        (r"Agent error: ", Meaning("pve-agent-error", StepFailed, "look at what it names, inside the guest")),
        (
            r"VM \d+ (is running|already running)|vm is running",
            Meaning("pve-running", Refused, "shut it down first, where this needs it stopped"),
        ),
        (
            r"quit/powerdown failed",
            Meaning(
                "pve-no-shutdown", StepFailed, "the guest did not power off in time: look at its console"
            ),
        ),
        (
            r"download failed|failed to stat",
            Meaning(
                "pve-no-source", StepFailed, "the node cannot read the image: check address and file name"
            ),
        ),
        (
            r"VM \d+ (is )?not running",
            Meaning("pve-not-running", StepFailed, "`vi-ops provision VM` starts it"),
        ),
        (
            r"does not support '(import|iso|images|vztmpl|snippets|backup)' content",
            Meaning(
                "pve-storage-content", Refused, "root allows it once: `pvesm set STORAGE --content …,import`"
            ),
        ),
        (
            r"shrinking disks is not supported",
            Meaning(
                "vm-disk-shrink",
                StepFailed,
                "the disk is larger than disk.size; just imported, it is as large as the one in its image:"
                " `vi-ops plan VM` names its size, state at least that, and `vi-ops provision VM` goes on",
            ),
        ),
        (
            r"No space left on device|not enough space|out of space|insufficient free space",
            Meaning("pve-storage-full", StepFailed, "free space on the storage, or choose another one"),
        ),
        (
            r"(PCI|USB) (device )?mapping not found|(PCI device|USB) [Mm]apping invalid",
            Meaning(
                "pve-mapping",
                Refused,
                "the mapping does not fit the hardware: compare it under Resource Mappings",
            ),
        ),
        (
            r"already in use by VMID|is currently reserved for use by VMID",
            Meaning("pve-device-busy", Refused, "another VM has the device: stop that one first"),
        ),
        (
            r"MAX \d+ vcpus allowed per VM",
            Meaning("pve-too-many-vcpus", Refused, "sockets times cores must not exceed the node's threads"),
        ),
        (
            r"no such task|unable to parse worker upid",
            Meaning(
                "pve-task-unknown", StepFailed, "the node has forgotten this task: look at the VM itself"
            ),
        ),
        (
            r"checksum mismatch: got|refusing to override existing file",
            Meaning(
                "pve-download-differs",
                Refused,
                "it arrived damaged, or another file of that name is there already",
            ),
        ),
        (r"does not exist|No such storage|no such (user|token|pool|logical volume)", _GONE),
    )
)


def meaning_of(words: str) -> Meaning | None:
    """What one of the node's texts means; None for texts that say enough themselves."""
    return next((meaning for pattern, meaning in _MEANINGS if pattern.search(words)), None)


def refusal(call: str, who: str, node: str, status: int, words: str, errors: Mapping[str, str]) -> ViOpsError:
    """The error for an answer of 400 or more. `call` is `POST /nodes/pve1/qemu`, `who` the token or user."""
    said = words
    if errors:
        said = f"{words.rstrip('.')}: " + "; ".join(f"{name}: {text}" for name, text in errors.items())
    said = " ".join(said.split())  # format errors are spread over several lines
    if status == 401:
        return Unreachable(
            "pve-login",
            f"{call}: {node} refused the login of {who}: {words}",
            hint=f"check the secret; `vi-ops node roles {node}` prints how root makes user and token",
        )
    if status == 403 or parse_denied(words):
        return _forbidden(call, who, node, words)
    for text in (words, *errors.values()):
        if meaning := meaning_of(text):
            return meaning.kind(meaning.code, f"{call}: {said}", hint=meaning.remedy(node, _vmid_of(call)))
    if status == 501:
        return StepFailed("pve-no-such-call", f"{call}: {said}", hint="is this Proxmox VE 8 or 9?")
    if status == 400:
        hint = "correct the value that this came from; if there is none in the inventory, please report it"
        return StepFailed("pve-parameter", f"{call}: {said}", hint=hint)
    hint = "the node's task list and its journal (`journalctl -u pvedaemon`) may tell more"
    return StepFailed("pve-failed", f"{call}: {status} {said}", hint=hint)


def _vmid_of(call: str) -> str:
    match = re.search(r"/qemu/(\d+)", call)
    return match[1] if match else ""


def _forbidden(call: str, who: str, node: str, words: str) -> ViOpsError:
    words = " ".join(words.split())
    if "user != root@pam" in words:
        return Refused("pve-root-only", f"{call}: {words}", hint=_ROOT.hint)
    if "not available with API token" in words:
        hint = "this call needs a password login: set api.user instead of api.token"
        return Refused("pve-token-refused", f"{call}: {words}", hint=hint)
    denied = parse_denied(words)
    lacks = (
        f"; {who} lacks {' or '.join(denied.privileges)} on {denied.path}" if denied and denied.path else ""
    )
    return Refused(
        "pve-permission",
        f"{call}: {words}{lacks}",
        hint=f"`vi-ops node roles {node}` prints the least role and the commands that root types once",
    )


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text without the secrets that it may repeat."""
    for secret in sorted((secret for secret in secrets if len(secret) > 3), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
