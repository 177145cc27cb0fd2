"""Phase 1 of SD-Zero, Self-Revision Training, and the contracts that both phases share."""
