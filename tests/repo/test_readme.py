"""What the documentation tells a reader to type can be typed, and what it points to is there."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import runpy
import shlex
import sys
from pathlib import Path
from unittest import mock

import pytest

from mlt.engine.run import load_cfg

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", "docs", "benchmarks", "projects/MLT", "mlt_ops")
PAGES = [page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md"))]
SCRIPT = re.compile(r"(?:tools|benchmarks)/\w+\.py")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """Words of each command line in the bash blocks, comments left out."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def with_script(page: Path) -> list[list[str]]:
    """Script and arguments of each command line that runs one of the project's scripts."""
    found = []
    for words in commands(page):
        at = next((i for i, word in enumerate(words) if SCRIPT.fullmatch(word)), None)
        if at is not None:
            found.append(words[at:])
    return found


class Parsed(Exception):
    """Carries what a script's own parser made of its command line."""


def parse(words: list[str]) -> argparse.Namespace:
    """Start a script and leave it as soon as it has parsed its arguments.

    Args:
        words: script and arguments.
    """
    real = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *args: object) -> None:
        raise Parsed(real(parser, *args))  # type: ignore[arg-type]

    path = ROOT / words[0]
    with (
        mock.patch.object(sys, "argv", [str(path), *words[1:]]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        pytest.raises(Parsed) as found,
    ):
        runpy.run_path(str(path), run_name="__main__")
    return found.value.args[0]


EXAMPLES = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)[:70]}") for page in PAGES for words in with_script(page)
]


@pytest.mark.parametrize("words", EXAMPLES)
def test_commands_parse_and_name_configs_and_keys_that_exist(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = parse(words)
    if hasattr(found, "config_file"):
        assert os.path.isfile(found.config_file)
        load_cfg(found)  # a KeyError or ValueError names what is wrong


def test_the_readme_has_such_commands() -> None:
    scripts = {words[0] for words in with_script(ROOT / "README.md")}
    assert "tools/train_net.py" in scripts
    assert len(with_script(ROOT / "README.md")) >= 5


@pytest.mark.parametrize("words", ["tools/train_net.py --bad", "tools/train_net.py --num-gpus many"])
def test_the_check_of_commands_itself(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(shlex.split(words))
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = {words[1] for words in commands(page) if words[0] == "make" and len(words) > 1}
    named |= set(re.findall(r"`make ([\w-]+)", text))
    assert named <= targets


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub makes it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links to a file or heading that is not there."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    broken = []
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_configs_lead_somewhere(page: Path) -> None:
    configs = re.findall(r"(?:projects/MLT/)?configs/[\w/.-]+\.yml", page.read_text(encoding="utf-8"))
    assert [*broken_links(page), *(name for name in configs if not (ROOT / name).exists())] == []


def test_the_check_of_links_itself(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# What `it` does, here\n```\n# no heading\n```\n")
    right = ["#on-the-page", "other.md", "other.md#what-it-does-here", "https://example.org/#any"]
    wrong = ["#off-the-page", "gone.md", "gone.md#any", "other.md#no-heading"]
    page.write_text("## On the page\n" + " ".join(f"[a]({link})" for link in right + wrong))
    assert broken_links(page) == wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_functions_behind_links_are_defined_there(page: Path) -> None:
    """[file.py](path/file.py): `name`, `name`, as the tables of equations have it."""
    for path, names in re.findall(r"\]\(([^)\s]+\.py)\): (`\w+`(?:, `\w+`)*)", page.read_text(encoding="utf-8")):
        tree = ast.parse((page.parent / path).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert set(re.findall(r"\w+", names)) <= defined, path


def test_the_tables_of_equations_name_functions() -> None:
    page = (ROOT / "projects/MLT/README.md").read_text(encoding="utf-8")
    rows = [row for table in page.split("| step | formula | file and function |")[1:]
            for row in table.split("\n\n")[0].splitlines()[2:]]  # fmt: skip
    assert len(rows) > 30
    assert [row for row in rows if not re.search(r"\.py\): `", row)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_python_examples_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mlt_ops":
                assert hasattr(importlib.import_module("mlt_ops"), node.attr), node.attr
