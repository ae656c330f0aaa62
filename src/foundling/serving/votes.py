"""Votes from the playground's side-by-side view, kept as preference rows that `foundling prefer` reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from foundling.serving.errors import ApiError
from foundling.serving.request_log import open_to_append
from foundling.serving.requests import VoteBody


class Votes:
    """Appends votes to a JSONL file; a vote that was acknowledged is on the disk.

    Raises:
        FoundlingError: the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            os.close(open_to_append(path))

    async def keep(self, vote: VoteBody) -> dict[str, Any]:
        """Store one vote.

        Raises:
            ApiError: 403 if the server keeps no votes.
        """
        if self.path is None:
            raise ApiError(403, "this server keeps no votes: start it with --votes FILE", code="votes_off")
        await run_in_threadpool(self._append, self.path, vote)
        return {"kept": True}

    def _append(self, path: Path, vote: VoteBody) -> None:
        row = {
            "prompt": [message.plain() for message in vote.prompt],
            "chosen": [{"role": "assistant", "content": vote.chosen}],
            "rejected": [{"role": "assistant", "content": vote.rejected}],
            "meta": {"chosen_model": vote.chosen_model, "rejected_model": vote.rejected_model},
        }
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        file = open_to_append(path)
        try:
            os.write(file, line)  # one write: a kill leaves whole lines
            os.fsync(file)
        finally:
            os.close(file)
