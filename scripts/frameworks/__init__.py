"""Frameworks that docs/integrations.md names: ``python -m scripts.frameworks`` tries each.

They are too many for the tests. It installs them into a virtual environment of its own, below
.scratch, serves a page and a file with each, and asks for both.
"""
