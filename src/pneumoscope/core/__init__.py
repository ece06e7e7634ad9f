"""Errors, records, configuration and run manifests; imports nothing of the project."""
