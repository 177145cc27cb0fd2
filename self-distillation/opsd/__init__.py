"""Phase 2 of SD-Zero: on-policy self-distillation."""
