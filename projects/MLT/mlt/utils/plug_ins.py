"""Modules of the user's own, whose import registers parts that a config can name."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys


def import_plug_in(name: str) -> None:
    """Import a module once in this process.

    Args:
        name: of a module ("team.parts"), or path of a file ("parts.py"), which becomes the module "parts".

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such module, or another module has the file's name.
    """
    if not name.endswith(".py"):
        if importlib.util.find_spec(name.split(".")[0]) is None:
            raise ValueError(f"--import {name}: no such module; set PYTHONPATH to its folder, or give a file {name}.py")
        importlib.import_module(name)
        return
    path, module = os.path.abspath(name), os.path.splitext(os.path.basename(name))[0]
    if not os.path.isfile(path):
        raise FileNotFoundError(f"--import {name}: no such file, looked in {os.getcwd()}")
    imported = sys.modules.get(module)
    if imported is not None:
        if getattr(imported, "__file__", None) != path:
            raise ValueError(f"--import {name}: a module {module!r} is imported already; give the file another name")
        return
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None  # noqa: S101  the name ends in .py
    assert spec.loader is not None  # noqa: S101
    sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[module])
    except BaseException:
        del sys.modules[module]
        raise
