from __future__ import annotations

from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)  # timings say nothing where others work too
settings.load_profile("shared-machine")
