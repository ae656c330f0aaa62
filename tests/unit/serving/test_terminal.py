"""The terminal chat: history, commands, pipes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from foundling.core.errors import FoundlingError
from foundling.inference.requests import Event
from foundling.serving import terminal


class EchoModel(SimpleNamespace):
    """Streams the last message back in pieces and keeps what it was asked."""

    def stream(self, prompt: Any, **sampling: Any) -> Iterator[Event]:
        self.asked = [*getattr(self, "asked", []), (prompt, sampling)]
        yield Event(1, 0, "you said ")
        yield Event(1, 0, prompt if isinstance(prompt, str) else prompt[-1]["content"], finish_reason="stop")


def test_a_piped_conversation_keeps_its_history(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Guards plain output when piped, the system message, /reset and /exit."""
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n/reset\n\nthree\n/exit\nnever\n"))
    model = EchoModel()
    terminal.chat(model, system="be brief", temperature=0.5)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "you said one\nyou said two\nyou said three\n"
    assert [[message["content"] for message in prompt] for prompt, _ in model.asked] == [
        ["be brief", "one"],
        ["be brief", "one", "you said one", "two"],
        ["be brief", "three"],
    ]
    assert model.asked[0][1] == {"temperature": 0.5}


def test_generate_prints_markup_as_it_is(capsys: Any) -> None:
    """Guards against text such as [bold] or :smile: being taken for the terminal library's markup."""
    terminal.generate(EchoModel(), "[bold]x[/] :smile:")  # type: ignore[arg-type]
    assert capsys.readouterr().out == "you said [bold]x[/] :smile:\n"


def test_binary_input_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a traceback for `foundling chat < photo.jpg`."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), encoding="utf-8"))
    with pytest.raises(FoundlingError, match="UTF-8"):
        terminal.chat(EchoModel())  # type: ignore[arg-type]
