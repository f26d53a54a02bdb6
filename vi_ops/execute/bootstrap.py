"""A Debian system as a tar file, made by mmdebstrap from packages."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import run
from typing import Final

from vi_ops.errors import StepFailed
from vi_ops.plan.image import Source

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LEFT_OUT: Final = ("man", "info", "locale", "doc", "lintian", "bug")


def host_sources() -> tuple[Source, ...]:
    """The Debian mirrors in this machine's apt configuration, in its order; none on other systems."""
    if not shutil.which("apt-get"):
        return ()
    fields = "$(ORIGIN) $(SIGNED_BY) $(RELEASE) $(REPO_URI)"
    answer = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"], capture_output=True, text=True, check=False)
    rows = [line.split() for line in answer.stdout.splitlines() if "debian" in line.lower()]
    return tuple(Source(row[-1].rstrip("/"), row[-2]) for row in rows if "ubuntu" not in row[-1])


def bootstrap(
    out: Path, packages: Sequence[str], sources: Sequence[Source], early: Path, late: Path, customize: Path, epoch: int
) -> None:
    """Write the system to `out`."""
    argv = ["mmdebstrap", "--variant=apt", "--format=tar", f"--keyring={_KEYRING}", f"--include={','.join(packages)}"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    argv += [f"--essential-hook=tar-in {early} /", f"--customize-hook=tar-in {late} /"]
    argv += [f'--customize-hook=sh {customize} "$1"']
    argv += [sources[0].suite, str(out)]
    argv += [f"deb {source.uri} {source.suite} main" for source in sources]
    done = run(argv, check=False, env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)})
    if done.returncode:
        raise StepFailed("image-bootstrap-failed", "mmdebstrap failed")


def pack_overlay(files: Mapping[str, bytes], out: Path, epoch: int) -> None:
    """Write files (path to content) as a tar owned by root, sorted, with fixed times."""
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(files[path]), 0o644, epoch
            archive.addfile(member, io.BytesIO(files[path]))
