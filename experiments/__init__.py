"""Experiments that compare the method with its rivals; each has a script in scripts/experiments/."""
