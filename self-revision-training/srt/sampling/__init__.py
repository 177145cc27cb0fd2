"""Samplers: token ids in, token ids out (base.py). from_config.py opens the one that the config selects."""
