"""Handlers of the lab API, one file for each part of the tree."""

from __future__ import annotations

import importlib
import pkgutil


def load() -> None:
    """Import every file here, so that its handlers are registered."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
