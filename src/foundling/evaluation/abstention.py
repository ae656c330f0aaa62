"""Does an answer say that it does not know?"""

from __future__ import annotations

import re

_ABSTAINS = re.compile(
    r"\b(?:i|we) (?:really |honestly )?(?:do not|don'?t|did not|didn'?t|cannot|can ?not|can'?t) "
    r"(?:know|recall|remember|find|say|tell|answer|determine|verify|provide"
    r"|have (?:any |enough )?(?:information|knowledge|data|details))"
    r"|\b(?:i'?m|i am|we are) (?:not (?:sure|certain|aware|familiar)|unsure|uncertain|unable|unaware)"
    r"|\b(?:no|any|enough) (?:information|record|evidence|data|mention) (?:about|of|on|is available|available)"
    r"|\b(?:there is|there's) no (?:such|known|way to know|information|record)"
    r"|\b(?:does not|doesn'?t|did not) (?:seem to )?exist|\b(?:is|are) (?:fictional|unknown|not known|unclear)\b"
    r"|^\W*(?:unknown|unsure|no idea|not sure|n/a|i have no (?:idea|comment))\b",
    re.IGNORECASE | re.MULTILINE,
)
_WINDOW = 300  # characters: doubts that come later are about details


def abstains(text: str) -> bool:
    """Whether an answer admits in its first sentences that it does not know. An empty one does not."""
    return _ABSTAINS.search(text.replace("\u2019", "'")[:_WINDOW]) is not None
