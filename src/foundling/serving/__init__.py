"""Serving: a model behind an OpenAI-compatible URL, and in the terminal."""
