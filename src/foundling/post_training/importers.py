"""Other tools' row formats, converted once, at the door, to ours.

ShareGPT {conversations: [{from, value}]}, Alpaca {instruction, input, output}, {prompt, response}, and HH-RLHF's
transcripts "\\n\\nHuman: ...\\n\\nAssistant: ...". What is ours already comes back as it is.
"""

from __future__ import annotations

import json
import re
from typing import Any

from foundling.core.errors import FoundlingError

SPEAKERS = {
    "human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "system": "system", "observation": "tool",
    "tool": "tool", "function_response": "tool",
}  # fmt: skip
_TURN = re.compile(r"\n\n(Human|Assistant):")


def as_our_row(row: Any, where: str) -> Any:
    """A row with `messages`, `prompt`, `chosen`, ... in our form, if it is in one that we know; else unchanged.

    Raises:
        FoundlingError: a known form with an unknown speaker or a broken tool call.
    """
    if not isinstance(row, dict):
        return row
    if "conversations" in row:
        return _share_gpt(row, where)
    if isinstance(row.get("instruction"), str) and "output" in row and "messages" not in row:
        asked = row["instruction"] + (f"\n\n{row['input']}" if row.get("input") else "")
        start = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        return {"messages": [*start, _message("user", asked), _message("assistant", row["output"])]}
    if "response" in row and "prompt" in row and "completion" not in row:
        return {"prompt": row["prompt"], "completion": row["response"]}
    if _is_transcript(row.get("chosen")) and _is_transcript(row.get("rejected")) and "prompt" not in row:
        return {"chosen": transcript(row["chosen"]), "rejected": transcript(row["rejected"])}
    return row


def transcript(text: str) -> list[dict[str, str]]:
    """The messages of an HH-RLHF transcript."""
    pieces = _TURN.split(text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [_message(roles[who], said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True)]


def _share_gpt(row: dict[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(row["conversations"], list):
        raise FoundlingError(f"{where}: `conversations` is not a list", "a turn is {from, value}")
    messages = [_turn(turn, where) for turn in row["conversations"]]
    if row.get("system"):
        messages.insert(0, _message("system", row["system"]))
    converted: dict[str, Any] = {"messages": messages}
    if "chosen" in row and "rejected" in row:
        answers = {name: [_turn(row[name], where)] for name in ("chosen", "rejected")}
        converted = {"prompt": messages, **answers}
    if row.get("tools"):
        converted["tools"] = _tools(row["tools"], where)
    return converted


def _tools(tools: Any, where: str) -> Any:
    try:
        return json.loads(tools) if isinstance(tools, str) else tools
    except ValueError as error:
        raise FoundlingError(f"{where}: `tools` is not JSON", str(error)) from None


def _turn(turn: Any, where: str) -> dict[str, Any]:
    speaker, said = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
    if speaker == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": [_tool_call(said, where)]}
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise FoundlingError(f"{where}: unknown speaker {speaker!r}", f"speakers are {', '.join(SPEAKERS)}")
    return {"role": SPEAKERS[speaker], "content": said}


def _tool_call(said: Any, where: str) -> dict[str, Any]:
    try:
        call = json.loads(said)
        function = {"name": call["name"], "arguments": call["arguments"]}
    except (ValueError, TypeError, KeyError):
        raise FoundlingError(f"{where}: a function call is not {{name, arguments}}", "a broken function call") from None
    return {"type": "function", "function": function}


def _message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _is_transcript(value: Any) -> bool:
    return isinstance(value, str) and _TURN.match(value) is not None
