"""Plumbing that knows nothing of the method: errors, files, console output, loading models."""
