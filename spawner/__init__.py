"""Slipway's spawner: launches a notebook session for any commit of any GitLab project.

The package is layered; `docs/explanation/architecture.md` draws the layers and import-linter holds them.
Nothing connects, reads a file or builds a client when a module here is imported.
"""
