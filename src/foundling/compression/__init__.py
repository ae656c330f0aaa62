"""Compression: choosing a model's codes; a model artifact in, a smaller model artifact out."""
