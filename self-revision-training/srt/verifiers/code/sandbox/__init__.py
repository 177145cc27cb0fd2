"""Runs one command at a time with nothing but its files: sandbox.py starts it, process.py measures it."""
