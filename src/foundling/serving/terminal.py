"""Chat and generation in the terminal: streamed, coloured for people, plain for pipes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.prompt import Prompt

from foundling.core.errors import FoundlingError

if TYPE_CHECKING:
    from foundling.inference.model import Model
    from foundling.inference.remote import RemoteModel

HELP = "Commands: /reset starts over, /exit (or Ctrl-D) leaves."


def chat(model: Model | RemoteModel, system: str | None = None, **sampling: Any) -> None:
    """Talk with a model, turn by turn; reads standard input, so a pipe of lines is a conversation too.

    Args:
        system: a system message to begin with.
        sampling: what `Model.stream` takes (max_tokens, temperature, top_p, seed, ...).
    """
    console = Console(highlight=False)
    interactive = sys.stdin.isatty() and console.is_terminal
    if interactive:
        console.print(HELP, style="dim")
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    while (line := _ask(console, interactive)) is not None:
        if line == "/reset":
            messages = list(start)
        elif line.startswith("/"):
            console.print(HELP, style="dim")
        elif line:
            messages.append({"role": "user", "content": line})
            answer = _say(console, model, list(messages), sampling)
            messages.append({"role": "assistant", "content": answer})


def generate(model: Model | RemoteModel, prompt: str | list[dict[str, str]], **sampling: Any) -> None:
    """Print a model's continuation of a text (or its answer to messages) as it comes."""
    _say(Console(highlight=False), model, prompt, sampling)


def _ask(console: Console, interactive: bool) -> str | None:
    """The next line; None at the end of input or on /exit."""
    try:
        line = Prompt.ask("[bold cyan]you[/]", console=console) if interactive else input()
    except (EOFError, KeyboardInterrupt):
        return None
    except UnicodeDecodeError:
        raise FoundlingError("standard input is not UTF-8 text", fix="Convert it, for example with iconv") from None
    return None if line.strip() == "/exit" else line.strip()


def _say(console: Console, model: Model | RemoteModel, prompt: Any, sampling: dict[str, Any]) -> str:
    """Print the answer piece by piece; Ctrl-C ends the answer, not the conversation."""
    said = ""
    try:
        for event in model.stream(prompt, **sampling):
            said += event.text
            console.out(event.text, end="", highlight=False)
            console.file.flush()
            if event.completion and event.completion.failed:
                raise FoundlingError(f"the model could not go on: {event.completion.message}")
    except KeyboardInterrupt:
        console.print(" (stopped)", style="dim", end="")
    console.print()
    return said
