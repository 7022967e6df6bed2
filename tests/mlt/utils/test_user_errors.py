"""One message for what a reader can mend, a traceback for what is our mistake."""

from __future__ import annotations

import pytest

from mlt.utils.user_errors import one_message


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("wanted 1, got 2"), "error: wanted 1, got 2\n"),
        (KeyError("No head 'a'"), "error: No head 'a'\n"),  # without the quotes that str() puts around it
        (KeyError(), "error: \n"),
        (OSError("Traceback ...\n  in worker\nOSError: Cannot read 'a.jpg'"), "error: Cannot read 'a.jpg'\n"),
    ],
)
def test_one_message(error: Exception, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised, one_message():
        raise error
    assert raised.value.code == 2
    assert capsys.readouterr().err == text


def test_other_errors_pass() -> None:
    with pytest.raises(TypeError, match="ours"), one_message():
        raise TypeError("ours")
