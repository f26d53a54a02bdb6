"""A command group whose module is read when the group is used: `vi-ops --help` needs only its summary."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


class LaterGroup(TyperGroup):
    """Stands for `vi_ops.cli.<name>.app`, and hands over to it as soon as somebody asks for more."""

    def __init__(self, name: str, summary: str) -> None:
        super().__init__(name=name, help=summary)

    @cached_property
    def real(self) -> TyperGroup:
        """The group itself."""
        group = typer.main.get_command(import_module(f"vi_ops.cli.{self.name}").app)
        assert isinstance(group, TyperGroup)  # noqa: S101
        return group

    def make_context(self, *args: Any, **named: Any) -> Any:
        """A context of the group itself, so that all that follows happens there."""
        return self.real.make_context(*args, **named)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of its commands."""
        return self.real.list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of its commands."""
        return self.real.get_command(ctx, cmd_name)
