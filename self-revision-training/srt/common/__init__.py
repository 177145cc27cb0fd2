"""Plumbing without a view of the method: errors, files, console output, loading models."""
