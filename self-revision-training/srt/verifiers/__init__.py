"""Verifiers: response -> Verdict (types.py), opened by factory.py; one package per mode."""
