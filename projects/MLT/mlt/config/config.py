"""CfgNode: yacs plus `_BASE_` inheritance, "did you mean" for unknown keys, and safe YAML only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from yacs.config import CfgNode as YacsNode

from mlt.registry import unknown_name
from mlt.utils.files import atomic, open_text

BASE_KEY = "_BASE_"


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice in a mapping is an error: plain YAML drops the first one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: str) -> dict[str, Any]:
    """Read a config file and, recursively, the files it names under `_BASE_` (relative to itself).

    Args:
        path: YAML file with a mapping at its top.

    Raises:
        FileNotFoundError: the file, or a base of it, does not exist.
        ValueError: not valid YAML, not a mapping, a key given twice, or a file that is its own base.
    """
    return _read(path, ())


def _read(path: str, children: tuple[str, ...]) -> dict[str, Any]:
    real = os.path.realpath(path)
    if real in children:
        raise ValueError(f"{BASE_KEY} goes in a circle: {' -> '.join([*children, real])}")
    if not os.path.isfile(path):
        wanted = f" (named by {BASE_KEY} of {children[-1]})" if children else ""
        raise FileNotFoundError(f"No config file {path!r}{wanted}, looked in {os.getcwd()}")
    try:
        with open_text(path) as file:
            tree = yaml.load(file, _UniqueKeyLoader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a mapping of config keys, got {type(tree).__name__}")
    bases = tree.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: {BASE_KEY} must be a file name or a list of them, got {bases!r}")
    merged: dict[str, Any] = {}
    for base in bases:
        _overlay(merged, _read(_beside(path, base), (*children, real)))
    pretrain = tree.get("PRETRAIN")
    if isinstance(pretrain, dict) and isinstance(pretrain.get("CONFIG_FILE"), str) and pretrain["CONFIG_FILE"]:
        pretrain["CONFIG_FILE"] = _beside(path, pretrain["CONFIG_FILE"])  # like a base
    _overlay(merged, tree)
    return merged


def _beside(path: str, name: str) -> str:
    """`name` relative to the folder of `path`; absolute, so that a saved config can be read from elsewhere."""
    return os.path.abspath(os.path.join(os.path.dirname(path), os.path.expanduser(name)))


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(below.get(key), dict) and isinstance(value, dict | None):
            _overlay(below[key], value or {})  # a section without keys changes nothing
        else:
            below[key] = value


def _keys(node: YacsNode, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in node.items():
        name = prefix + key
        found += _keys(value, name + ".") if isinstance(value, YacsNode) else [name]
    return found


class CfgNode(YacsNode):
    """A yacs node whose unknown keys fail with the nearest known ones, from files and command line alike."""

    def merge_from_file(self, cfg_filename: str) -> None:
        """Lay a YAML file (and its `_BASE_` files) over this tree.

        Args:
            cfg_filename: path of the YAML file.

        Raises:
            KeyError: a key that the tree does not have.
            ValueError: a value of the wrong type, or a bad file.
        """
        tree = read_yaml(cfg_filename)
        self._check_keys(tree, "", f" in {cfg_filename}")
        try:
            self._fit_values(tree, self)
            self.merge_from_other_cfg(CfgNode(tree))
        except ValueError as error:
            raise ValueError(f"{cfg_filename}: {error}") from error

    def merge_from_list(self, cfg_list: list[str]) -> None:
        """Lay `KEY VALUE KEY VALUE ...` over this tree.

        Args:
            cfg_list: dotted keys and values in turn; values are read as Python literals where they are such.

        Raises:
            KeyError: a key that the tree does not have.
            ValueError: an odd number of words, or a value of the wrong type.
        """
        if len(cfg_list) % 2:
            raise ValueError(
                f"Options come as KEY VALUE pairs, got {len(cfg_list)} words: {' '.join(map(str, cfg_list))}"
            )
        for key, raw in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            tree: dict[str, Any] = {}
            node = tree
            *parents, leaf = key.split(".")
            for part in parents:
                node = node.setdefault(part, {})
            node[leaf] = raw
            self._check_keys(tree, "", " on the command line")
            try:
                self._fit_values(tree, self)
                self.merge_from_other_cfg(CfgNode(tree))
            except ValueError as error:
                raise ValueError(f"{key} {raw!r} on the command line: {error}") from error

    def _check_keys(self, tree: dict[str, Any], prefix: str, where: str) -> None:
        root_keys = _keys(self)
        for key, value in tree.items():
            name = f"{prefix}{key}"
            inside = any(known.startswith(name + ".") for known in root_keys)
            if not inside and name not in root_keys:
                raise KeyError(unknown_name("config key", name, root_keys) + f" It is set{where}.")
            if inside and value is None:
                tree[key] = value = {}  # a section of which every key is commented out
            if inside and not isinstance(value, dict):
                keys = ", ".join(known for known in root_keys if known.startswith(name + "."))
                raise KeyError(f"{name}{where} is a section, not a value; its keys: {keys}")
            if not inside and isinstance(value, dict):
                raise KeyError(f"{name}{where} is a value, not a section: it has no keys {', '.join(map(str, value))}")
            if inside:
                self._check_keys(value, name + ".", where)

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        """For yacs: values have been read by `_fit_values`, which knows what is wanted."""
        return cls(value) if isinstance(value, dict) else value

    @staticmethod
    def _fit_values(tree: dict[str, Any], like: YacsNode) -> None:
        """Turn what was written into what is wanted, where that is beyond doubt; yacs refuses the rest.

        `"(1, 2)"` is read as a literal unless text is wanted, `1` as `1.0` for a float, a lone value as a tuple of one.
        """
        for key, value in tree.items():
            default = like[key]
            if isinstance(value, dict):
                CfgNode._fit_values(value, default)
                continue
            literal = YacsNode._decode_cfg_value(value)
            if not isinstance(default, str) or isinstance(literal, str):
                value = literal
            if isinstance(default, float) and type(value) is int:
                value = float(value)
            elif isinstance(default, (tuple, list)) and isinstance(value, (str, int, float)):
                value = type(default)([value] if value != "" else [])
            if value is None:  # yacs would take it for any type
                raise ValueError(f'{key} is null; leave it out, or write "" or []')
            if isinstance(value, (tuple, list)) and isinstance(default, (tuple, list)):
                _check_items(key, value, default)
            elif not isinstance(value, (bool, int, float, str, tuple, list)):  # a date, a set: yacs would assert
                raise ValueError(f"{key} is a {type(value).__name__}; wanted {type(default).__name__}, as {default!r}")
            tree[key] = value


def _check_items(key: str, items: Sequence[Any], like: Sequence[Any]) -> None:
    """Yacs sees that a value is a list, not what it lists. What is empty by default lists text."""
    kind = type(like[0]) if like else str
    fits = (int, float) if kind is float else kind
    for item in items:
        if not isinstance(item, fits) or isinstance(item, bool):
            example = f", as {like!r}" if like else ""
            raise ValueError(f"{key} lists {item!r}, a {type(item).__name__}; wanted {kind.__name__} alone{example}")


def with_values(cfg: YacsNode, values: Mapping[str, Any]) -> YacsNode:
    """A frozen copy of a config with other values.

    Args:
        cfg: not changed.
        values: dotted key -> value.

    Raises:
        KeyError: an unknown key.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([word for item in values.items() for word in item])
    cfg.freeze()
    return cfg


def value_of(cfg: YacsNode, key: str) -> Any:
    """The value, or the node, at a dotted key.

    Args:
        cfg: the tree.
        key: as "SOLVER.BASE_LR".
    """
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def check_least(cfg: YacsNode, least: Mapping[str, int]) -> None:
    """Refuse numbers that are too small.

    Args:
        cfg: the tree.
        least: dotted key -> the smallest value that it may have.

    Raises:
        ValueError: names the first that is smaller.
    """
    for key, smallest in least.items():
        if value_of(cfg, key) < smallest:
            raise ValueError(f"{key} must be >= {smallest}, got {value_of(cfg, key)}")


def save_cfg(cfg: YacsNode, path: str) -> None:
    """Write the resolved tree as YAML, atomically.

    Args:
        cfg: the tree.
        path: file to write.
    """
    with atomic(path) as temporary:
        temporary.write_text(cfg.dump(), encoding="utf-8")
