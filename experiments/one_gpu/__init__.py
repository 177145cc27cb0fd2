"""SD-Zero, its ablations and its rivals on a small model and word problems (scripts/experiments/one_gpu.sh)."""
