"""Migrations of the clinic's database; ``versions`` holds one module a step."""
