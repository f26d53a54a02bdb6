"""A lab with a site of its own, driven through the real command line in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.lab import free_ssh_port_base
from vi_ops.execute.image import image_path
from vi_ops.lab.fault import Fault, Faults
from vi_ops.lab.store import write_json

INVENTORY = Path(__file__).parents[2] / "inventory" / "lab"
IMAGE = "debian-13"


@dataclass(frozen=True)
class Ran:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines of stderr."""
        return [json.loads(line) for line in self.err.splitlines() if line.startswith("{")]


@dataclass(frozen=True)
class Site:
    """A running lab and an inventory that may be edited."""

    root: Path

    @property
    def lab(self) -> Path:
        return self.root / "lab"

    @property
    def inventory(self) -> Path:
        return self.root / "site"

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {
            "VI_OPS_LAB_DIR": str(self.lab),
            "VI_OPS_STATE_DIR": str(self.root / "state"),
            "VI_OPS_INVENTORY": str(self.inventory),
        }

    @property
    def faults(self) -> Faults:
        return Faults(self.lab / "faults.json")

    def inject(self, name: str, **bounds: Any) -> None:
        """Make the lab misbehave."""
        self.faults.inject(Fault(name, **bounds))

    def run(self, *words: str, deadline_s: float = 900, stdin: str | None = None) -> Ran:
        """Run `vi-ops` to its end."""
        argv = [sys.executable, "-m", "vi_ops", *words]
        done = subprocess.run(
            argv, env=self.env, capture_output=True, text=True, check=False, timeout=deadline_s, input=stdin
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Begin `vi-ops`; its stderr can be followed."""
        argv = [sys.executable, "-m", "vi_ops", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            argv, env=self.env, stdout=pipe, stderr=pipe, text=True, stdin=subprocess.DEVNULL
        )

    def end_at(self, title: str, *words: str, number: int = signal.SIGKILL, after_s: float = 0.0) -> Ran:
        """Run `vi-ops ... --json` and send it a signal `after_s` after the step with that title began."""
        lines: list[str] = []
        with self.begin(*words, "--json") as process:
            assert process.stderr
            for line in process.stderr:
                lines.append(line)
                if line.startswith("{") and title in json.loads(line).get("title", ""):
                    time.sleep(after_s)
                    process.send_signal(number)
                    break
            rest, err = process.communicate(timeout=60)
        return Ran(process.returncode, rest, "".join(lines) + err)

    def requests(self) -> list[dict[str, Any]]:
        """The lab's request log."""
        file = self.lab / "log" / "access.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def writes(self, since: int = 0) -> list[tuple[str, str]]:
        """Requests that were no GET, from the `since`th request of the log on."""
        return [(one["method"], one["path"]) for one in self.requests()[since:] if one["method"] != "GET"]

    def edit(self, host: str, change: Callable[[str], str]) -> None:
        """Change the text of a host_vars file."""
        file = self.inventory / "host_vars" / f"{host}.yml"
        file.write_text(change(file.read_text()))


@contextmanager
def lab_site(root: Path) -> Iterator[Site]:
    """A lab on free ports that holds the built image, and a copy of the lab's inventory."""
    site = Site(root)
    shutil.copytree(INVENTORY, site.inventory)
    settings = {"ssh_port_base": free_ssh_port_base(), "port": 0, "url": "", "release": "9.2", "node": "pve1"}
    site.lab.mkdir(parents=True)
    write_json(site.lab / "lab.json", settings)
    started = site.run("lab", "up")
    assert started.code == 0, started.err
    images = site.lab / "storage" / "local" / "import"
    images.mkdir(parents=True, exist_ok=True)
    shutil.copy(image_path(IMAGE), images)
    try:
        yield site
    finally:
        site.run("lab", "down")
