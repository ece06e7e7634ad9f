"""Manifests, importers, audit, splits, phantoms, downloads."""
