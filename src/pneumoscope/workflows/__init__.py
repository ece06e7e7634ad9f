"""Workflows: what the commands and the public Python API do, from input files to a result folder.

Plain functions with typed results and a progress callback. Options are the keys of the workflow's
configuration (docs/configuration.md), as keywords or from a TOML file.
"""
