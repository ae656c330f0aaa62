"""Recipes: a whole life on one page of YAML, and how to read one."""
