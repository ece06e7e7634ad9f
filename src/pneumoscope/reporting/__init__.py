"""Figures and pages; JSON is the truth, these are views of it."""
