"""Registries: names, duplicates, and what is said of a name that is not there."""

from __future__ import annotations

import pytest

from mlt import registry
from mlt.registry import Registry, unknown_name


def first() -> str:
    return "first"


def second() -> str:
    return "second"


@pytest.fixture
def words() -> Registry:
    return Registry("word", "word() -> str")


def test_register_under_own_or_given_name(words: Registry) -> None:
    assert words.register()(first) is first
    words.register("other")(second)
    assert words.get("first")() == "first"
    assert words.get("other")() == "second"
    assert "second" not in words
    assert list(words) == ["first", "other"]
    assert repr(words) == "Registry(word: first, other)"
    assert words.__doc__ == "word() -> str"


def test_duplicates_are_refused_and_the_first_stays(words: Registry) -> None:
    words.register()(first)
    with pytest.raises(KeyError, match=r"word 'first' is already registered by .*\.first"):
        words.register("first")(second)
    assert words.get("first") is first


def test_registering_again_is_harmless(words: Registry) -> None:
    words.register()(first)
    words.register()(first)
    assert list(words) == ["first"]


def test_a_reloaded_object_replaces_its_older_self(words: Registry) -> None:
    def make() -> type:
        class Reloaded: ...

        return Reloaded

    words.register()(make())
    newer = make()
    words.register()(newer)
    assert words.get("Reloaded") is newer


def test_unknown_name_says_what_there_is(words: Registry) -> None:
    with pytest.raises(KeyError, match=r"No word 'frist': none is registered yet; `import mlt.components`"):
        words.get("frist")
    words.register()(first)
    words.register()(second)
    with pytest.raises(KeyError, match=r"No word 'frist'. Did you mean 'first'\? Known: first, second\."):
        words.get("frist")


def test_long_lists_are_not_printed() -> None:
    message = unknown_name("key", "name77x", [f"name{i}" for i in range(100)])
    assert message.startswith("No key 'name77x'. Did you mean 'name77'")
    assert "Known" not in message


def test_every_registry_of_the_project_tells_its_contract() -> None:
    found = [value for value in vars(registry).values() if isinstance(value, Registry)]
    assert len(found) >= 7
    assert all("->" in (each.__doc__ or "") or "called" in (each.__doc__ or "") for each in found)
