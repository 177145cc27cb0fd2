"""Phase 1, training: the two SFT stages on TRL."""
