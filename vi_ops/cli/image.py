"""`vi-ops image`: cloud images, fetched to a node or built here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from vi_ops.cli.complete import image_names, node_names

if TYPE_CHECKING:
    from vi_ops.execute.bootstrap import Tell
    from vi_ops.execute.image_store import Show
    from vi_ops.execute.pve import Pve
    from vi_ops.plan.step import Plan
    from vi_ops.specs.image import ImageSpec

app = typer.Typer(name="image", add_completion=False, no_args_is_help=True, rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Name = Annotated[
    str, typer.Argument(metavar="IMAGE", autocompletion=image_names, help="A name from `vi-ops image list`.")
]
Node = Annotated[
    str | None,
    typer.Option(
        "--node",
        metavar="NODE",
        autocompletion=node_names,
        help="The node; not needed where the site has one.",
    ),
]


@app.callback()
def image() -> None:
    """Fetch, build and send cloud images.

    A node fetches an image from its publisher, or one is built here and sent to it.

    \b
    Examples:
      vi-ops image list
      vi-ops image fetch ubuntu-24.04 --node pve1
    """


@app.command("list")
def list_images(as_json: Json = False) -> None:
    """List the images that vi-ops knows, and those that are built here.

    \b
    Examples:
      vi-ops image list
      vi-ops image list --json | jq .url
    """
    from vi_ops.execute.image import image_path, read_built
    from vi_ops.specs.image import image_catalogue
    from vi_ops.units import format_size

    for spec in image_catalogue().values():
        built = read_built(spec.name)
        if as_json:
            path = str(image_path(spec.name)) if built else None
            given = spec.model_dump(mode="json", exclude={"build"})
            typer.echo(json.dumps({**given, "can_build": spec.build is not None, "built": path}))
            continue
        here = f"built here, {format_size(built.size_bytes)}" if built else ""
        typer.echo(f"{spec.name:<14}{spec.title}")
        if spec.build:
            typer.echo(f"{'':<14}{here or f'can be built here: vi-ops image build {spec.name}'}")


@app.command("build")
def build(
    name: Name,
    again: Annotated[
        bool, typer.Option("--again", help="Build even so, with the mirror's packages of today.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror",
            metavar="URL",
            help="The Debian mirror to build from; else the one that apt uses here.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a bootable cloud image here from Debian packages.

    A second run does nothing and says so. The mirror leaves no trace in the image.

    \b
    Examples:
      vi-ops image build debian-13
      vi-ops image build debian-13 --again
      vi-ops image build debian-13 --mirror http://mirror.example/debian
    """
    from dataclasses import asdict

    from vi_ops.execute.image import build_image, image_path
    from vi_ops.specs.image import find_image
    from vi_ops.units import format_size

    built, is_new = build_image(find_image(name), _tell, again=again, mirror=mirror)
    if as_json:
        typer.echo(json.dumps({"changed": is_new, "path": str(image_path(name)), **asdict(built)}))
        return
    typer.echo(f"{name}: {'built' if is_new else 'nothing to do: it is built, from this recipe'}")
    typer.echo(f"  {image_path(name)}")
    typer.echo(f"  {format_size(built.size_bytes)}; a disk of {format_size(built.raw_bytes)}, which grows")
    typer.echo(f"  sha256 {built.sha256}")


@app.command("fetch")
def fetch(name: Name, node: Node = None, as_json: Json = False) -> None:
    """Have a node download an image from its publisher.

    The node verifies it by the published checksum. What it has already is not fetched again.

    \b
    Examples:
      vi-ops image fetch ubuntu-24.04 --node pve1
      vi-ops image fetch debian-12 --json
    """
    from vi_ops.execute.image_store import fetch_image

    _store(fetch_image, name, node, as_json)


@app.command("push")
def push(name: Name, node: Node = None, as_json: Json = False) -> None:
    """Send an image that was built here to a node.

    \b
    Examples:
      vi-ops image build debian-13 && vi-ops image push debian-13 --node pve1
      vi-ops -i inventory/lab image push debian-13
    """
    from vi_ops.execute.image_store import push_image

    _store(push_image, name, node, as_json)


def _store(
    bring: Callable[[Pve, ImageSpec, Show, Tell], Plan], name: str, node: str | None, as_json: bool
) -> None:
    from vi_ops.cli.reach import open_reach
    from vi_ops.errors import SpecError
    from vi_ops.report import jsonl
    from vi_ops.report.plan import closing_line, show_plan
    from vi_ops.report.text import console_on
    from vi_ops.specs.image import find_image

    spec, console = find_image(name), console_on(sys.stderr)
    with open_reach() as reach:
        if node is None and len(reach.site.nodes) != 1:
            known = ", ".join(reach.site.nodes)
            raise SpecError(
                "image-node", f"the site has {len(reach.site.nodes)} nodes: {known}", hint="--node NAME"
            )
        pve = reach.pve(node or next(iter(reach.site.nodes)))
        plan = bring(pve, spec, lambda one: None if as_json else show_plan(one, console), _tell)
    if as_json:
        jsonl.print_plan(plan, sys.stdout)
        return
    done = "; ".join(f"done: {step.title}" for step in plan.steps)
    typer.echo(done or closing_line(plan))


def _tell(line: str) -> None:
    typer.echo(f"  {line}", err=True)
