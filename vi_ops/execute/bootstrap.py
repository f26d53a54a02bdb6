"""A Debian system as a tar file, made by mmdebstrap from packages."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.error import HTTPError

from vi_ops.errors import Refused, StepFailed, Unreachable
from vi_ops.plan.image import Source

Tell = Callable[[str], None]

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR_DEADLINE_S: Final = 30.0
# Without them the system is 40 % smaller; the licences (copyright) stay.
_LEFT_OUT: Final = ("man", "info", "locale", "doc", "lintian", "bug")
# Of what mmdebstrap says, the lines that tell how far it is.
_STAGES: Final = (
    *("I: running apt-get update", "I: downloading packages", "I: extracting archives"),
    *("I: installing", "I: creating tarball"),
)
_PROBE_DEADLINE_S: Final = 20.0
# In mmdebstrap, a script, a URL between quotes that ends like a Debian archive.
_ARCHIVE: Final = re.compile(r"""['"](https?://[^'"\s]+/debian(?:-security)?)/?['"]""")
# Program to Debian package.
_TOOLS: Final = {
    "mmdebstrap": "mmdebstrap",
    "sfdisk": "fdisk",
    "mcopy": "mtools",
    "qemu-img": "qemu-utils",
}


def check_tools() -> None:
    """Raises Refused when this machine lacks what a build needs, with the command that installs it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    wanted = _TOOLS if os.geteuid() == 0 else _TOOLS | {"newuidmap": "uidmap"}
    missing = [package for program, package in wanted.items() if not shutil.which(program, path=path)]
    if not KEYRING.exists():
        missing.append("debian-archive-keyring")
    if missing:
        install = f"apt install {' '.join(missing)}"
        message = f"building an image needs packages that are not installed: {', '.join(missing)}"
        raise Refused("image-tools-missing", message, hint=f"on Debian or Ubuntu: sudo {install}")
    if os.geteuid() != 0:
        _check_namespaces()


def _check_namespaces() -> None:
    probe = ["unshare", "--user", "--map-auto", "--map-root-user", "true"]
    try:
        # Without its output piped: a child that outlives a failed `unshare` would hold the pipe open.
        done = subprocess.run(
            probe,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_DEADLINE_S,
            check=False,
        )
        refusal = f"'{' '.join(probe)}' ended with {done.returncode}" if done.returncode else None
    except subprocess.TimeoutExpired:
        refusal = f"'{' '.join(probe)}' did not end within {_PROBE_DEADLINE_S:.0f} s"
    if refusal:
        raise Refused(
            "image-no-namespaces",
            f"building without root needs user namespaces, which this system refuses: {refusal}",
            hint="install uidmap and give the user ranges in /etc/subuid and /etc/subgid, or build as root",
        )


def known_archives() -> tuple[str, ...]:
    """URLs of package archives: those of this machine's apt, in its order, then mmdebstrap's defaults."""
    return (*_apt_archives(), *_default_archives())


def _apt_archives() -> tuple[str, ...]:
    if not shutil.which("apt-get"):
        return ()
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return tuple(line.rstrip("/") for line in listed.splitlines())


def _default_archives() -> tuple[str, ...]:
    """What mmdebstrap takes when it is given no mirror: it has no option that tells, so its text is read."""
    program = shutil.which("mmdebstrap")
    text = Path(program).read_text("utf-8", "replace") if program else ""
    return tuple(_ARCHIVE.findall(text))


def newest_release(sources: Iterable[Source]) -> int:
    """The newest date of the suites' Release files, in seconds since 1970: no file of the image is younger.

    Only a date is taken from it, so its signature is left to apt. Raises Unreachable.
    """
    return max(_release_date(source) for source in sources)


def _release_date(source: Source) -> int:
    url = f"{source.uri}/dists/{source.suite}/InRelease"
    try:
        with urllib.request.urlopen(url, timeout=MIRROR_DEADLINE_S) as answer:  # noqa: S310
            lines = answer.read(65536).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the answer, with its connection
        raise Unreachable(
            "image-mirror",
            f"no answer from the Debian mirror: {url}: {error}",
            hint="is this machine online? --mirror URL takes the packages from elsewhere",
        ) from error
    dates = [line.removeprefix("Date: ") for line in lines if line.startswith("Date: ")]
    if not dates:
        raise Unreachable("image-mirror", f"{url} is not a Release file", hint="is a login page in the way?")
    return int(parsedate_to_datetime(dates[0]).timestamp())


def pack_overlay(files: Mapping[str, bytes], out: Path, epoch: int) -> None:
    """Write files (path to content) as a tar owned by root, sorted, with fixed times."""
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size, member.mode, member.mtime = len(files[path]), 0o644, epoch
            archive.addfile(member, io.BytesIO(files[path]))


def bootstrap(
    out: Path,
    packages: Sequence[str],
    sources: Sequence[Source],
    overlays: tuple[Path, Path],
    customize: str,
    epoch: int,
    tell: Tell,
) -> None:
    """Write the system to the tar file `out`.

    The first overlay is laid before the packages are configured, the second after; then the shell script
    `customize` runs with the system's root as $1. Raises StepFailed with the end of mmdebstrap's log.
    """
    early, late = overlays
    argv = [*_mode(), "--variant=apt", "--format=tar"]
    argv += [f"--keyring={KEYRING}", f"--include={','.join(packages)}"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    argv += [f"--essential-hook=tar-in {early} /", f"--customize-hook=tar-in {late} /"]
    argv += [f"--customize-hook={customize}", sources[0].suite, str(out)]
    argv += [f"deb {source.uri} {source.suite} main" for source in sources]
    # The system grows where everybody may look: a user namespace cannot enter a closed home directory, and
    # there apt would fetch as root instead of _apt, which shows in the owner of two folders.
    _follow(argv, os.environ | {"SOURCE_DATE_EPOCH": str(epoch), "TMPDIR": "/var/tmp"}, tell)  # noqa: S108


def _mode() -> list[str]:
    """How mmdebstrap is started: where allowed in namespaces, which take mounts and processes with them.

    mmdebstrap goes on when its caller is killed, and so would what it has started: with root it gets a
    process namespace that dies with us. Root in a container may not be allowed to make one.
    """
    if os.geteuid() != 0:
        return ["mmdebstrap", "--mode=unshare"]
    probe = ["unshare", "--mount", "--propagation", "unchanged", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return ["mmdebstrap", "--mode=root"]
    tied = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"]
    return [*tied, "mmdebstrap", "--mode=unshare"]


def _follow(argv: Sequence[str], env: Mapping[str, str], tell: Tell) -> None:
    last: deque[str] = deque(maxlen=10)
    with subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            last.append(line.rstrip())
            if line.startswith(_STAGES):
                tell(line.removeprefix("I: ").rstrip().rstrip("."))
    if process.returncode:
        raise StepFailed(
            "image-bootstrap",
            f"mmdebstrap ended with {process.returncode}; its last lines:\n  " + "\n  ".join(last),
            hint="a package that is not found, or a mirror that fails, is named above; run it again later",
        )
