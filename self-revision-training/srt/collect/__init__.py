"""Phase 1, data: problems -> D_revision -> the two SFT files."""
