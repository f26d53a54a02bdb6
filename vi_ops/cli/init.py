"""`vi-ops init`: the inventory of a site, by asking a live node or from what comes with vi-ops."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vi_ops.facts.site import SiteFacts


_ROLES = "`vi-ops node roles --release 9` prints how root makes user and token"
_HINTS = {
    "tls-first-contact": "compare it with `pvenode cert info` on the node, then give it with --fingerprint",
    "pve-login": f"check the secret; {_ROLES}",
    "pve-permission": _ROLES,
    "secret-missing": f"put the token's secret there; {_ROLES}",
}


class Shipped(StrEnum):
    """An inventory that comes with vi-ops."""

    EXAMPLE = "example"
    LAB = "lab"


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")] = Path("inventory"),
    source: Annotated[
        Shipped | None, typer.Option("--from", metavar="example|lab", help="Copy what comes with vi-ops.")
    ] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="The node's API, https://host:8006.")] = None,
    token: Annotated[str | None, typer.Option(metavar="ID", help="API token, user@realm!name.")] = None,
    secret_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the token's secret, mode 0600.")
    ] = None,
    secret_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the secret.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CA of the node's certificate.")
    ] = None,
    fingerprint: Annotated[str | None, typer.Option(metavar="SHA256", help="Or its fingerprint.")] = None,
    node: Annotated[str | None, typer.Option(metavar="NAME", help="Which node of a cluster.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was written as one JSON object.")
    ] = False,
) -> None:
    """Write the inventory of a site.

    Files that are there are never overwritten. With --url, a live node is asked (reading only): its VMs are
    described as they are, and as unmanaged, so that vi-ops counts them and leaves them alone until you say
    otherwise.

    \b
    Examples:
      vi-ops init --from lab                  # for `vi-ops lab up`
      vi-ops init --from example my-site      # a real site, with comments
      vi-ops init my-site --url https://10.8.0.2:8006 \\
        --token 'ops@pve!viops' --secret-file ~/.config/vi-ops/pve1.token
    """
    if (source is None) == (url is None):
        raise typer.BadParameter("give one of --from and --url", param_hint="--from / --url")
    from vi_ops.execute.init import check_folder, shipped_files

    check_folder(folder)
    if source is not None:
        _finish(folder, shipped_files(source.value), as_json)
        return
    api: dict[str, Any] = {"url": url, "token": token, "secret": _secret(secret_file, secret_env)}
    if ca_file is not None:
        api["ca_file"] = str(ca_file.resolve())
    if fingerprint is not None:
        api["fingerprint"] = fingerprint
    _init_from_node(folder, api, node, as_json)


def _secret(file: Path | None, env: str | None) -> dict[str, str]:
    if (file is None) == (env is None):
        raise typer.BadParameter("give one of the two", param_hint="--secret-file / --secret-env")
    return {"file": str(file.resolve())} if file is not None else {"env": str(env)}


def _init_from_node(folder: Path, api: dict[str, Any], node: str | None, as_json: bool) -> None:
    from vi_ops.cli.reach import ask_on_terminal
    from vi_ops.errors import ViOpsError
    from vi_ops.execute.init import look_at_site
    from vi_ops.execute.pve import connect
    from vi_ops.execute.state import site_state
    from vi_ops.execute.trust import read_pin
    from vi_ops.plan.init import site_files
    from vi_ops.specs.load import build_node

    spec = build_node("node", api)
    state_dir = site_state(folder).path
    try:
        pve = connect(spec, state_dir=state_dir, confirm=ask_on_terminal())
        with pve:
            site = look_at_site(pve, node)
    except ViOpsError as error:  # their own hints name the node as an inventory does, and there is none yet
        error.hint = _HINTS.get(error.code, error.hint)
        raise
    if pinned := None if "ca_file" in api else read_pin(state_dir, spec.api.url):
        api["fingerprint"] = pinned
    _finish(folder, site_files(site, api), as_json, site)


def _finish(folder: Path, files: Mapping[str, str], as_json: bool, site: SiteFacts | None = None) -> None:
    import json

    from vi_ops.execute.init import write_files
    from vi_ops.specs.schema import KINDS, host_vars_schema

    schemas = {f".schema/{kind}.json": json.dumps(host_vars_schema(kind), indent=2) + "\n" for kind in KINDS}
    write_files(folder, {**files, **schemas})
    if as_json:
        unreadable = list(site.unreadable) if site else []
        typer.echo(json.dumps({"folder": str(folder), "files": sorted(files), "unreadable": unreadable}))
        return
    for name in sorted(files):
        typer.echo(folder / name)
    for vmid in site.unreadable if site else ():
        typer.echo(f"VM {vmid} was left out: the login may not read its config (VM.Audit)", err=True)
    if folder.resolve() != Path("inventory").resolve():
        way = f"`vi-ops -i {folder} COMMAND`, or set VI_OPS_INVENTORY"
        typer.echo(f"vi-ops looks in ./inventory; for this one: {way}", err=True)
