"""--import: files and modules, once each, and what is said of those that are not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlt.utils.plug_ins import import_plug_in


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def test_a_file_becomes_a_module_once(tmp_path: Path) -> None:
    (tmp_path / "own_parts.py").write_text(f"open({str(tmp_path / 'count')!r}, 'a').write('x')\n")
    for _ in range(2):
        import_plug_in(str(tmp_path / "own_parts.py"))
    assert (tmp_path / "count").read_text() == "x"
    assert "own_parts" in sys.modules


def test_a_module_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "team_parts.py").write_text("NUMBER = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_plug_in("team_parts")
    assert sys.modules["team_parts"].NUMBER == 3


def test_a_file_that_fails_is_not_half_there(tmp_path: Path) -> None:
    (tmp_path / "broken_parts.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_plug_in(str(tmp_path / "broken_parts.py"))
    assert "broken_parts" not in sys.modules


def test_what_is_not_there_or_has_a_taken_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--import gone\.py: no such file, looked in"):
        import_plug_in("gone.py")
    with pytest.raises(ValueError, match="--import gone: no such module; set PYTHONPATH"):
        import_plug_in("gone")
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ValueError, match="a module 'json' is imported already; give the file another name"):
        import_plug_in(str(tmp_path / "json.py"))
