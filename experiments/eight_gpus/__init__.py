"""The paper's configuration on 1, 2, 4 and 8 GPUs of one machine (scripts/experiments/eight_gpus.sh)."""
