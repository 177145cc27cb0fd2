#!/usr/bin/env bash
# Phase 2 on several nodes of a Slurm cluster: starts Ray on every node, then distill.sh on the first one.
#   sbatch --nodes=2 --gpus-per-node=8 --exclusive examples/slurm_distill.sh LR=2e-6 MAX_NUM_STEPS=500
# Arguments and environment variables are the knobs of distill.sh. The checkout, its environment (source setup_env.sh
# once, on a node with a GPU) and the models must be on a file system shared by all nodes. A job that was interrupted
# continues when it is submitted again.
#SBATCH --job-name=sd-zero
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --output=sd-zero-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?is not set; submit this script with sbatch from the repository root}"
source self-distillation/setup_env.sh

nodes=$SLURM_JOB_NUM_NODES
gpus=${SLURM_GPUS_ON_NODE:-$(nvidia-smi --list-gpus | wc -l)}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export NUM_NODES=$nodes GPUS_PER_NODE=$gpus ENGINE=nemo-rl

# A single node needs no cluster of ours: distill.sh starts Ray on the loopback interface.
if [ "$nodes" -gt 1 ]; then
  address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
  port=$((20000 + SLURM_JOB_ID % 10000))
  common="--num-gpus=$gpus --disable-usage-stats --block"

  # Ray listens on the network between the nodes and runs what it is sent: it must ask for a token. The token is in a
  # file that only this user can read, on the shared file system, for as long as the job runs. It is not encrypted on its
  # way; where others can listen to that network, see RAY_USE_TLS in Ray's documentation.
  RAY_AUTH_TOKEN_PATH=$(mktemp "$PWD/.ray_token_XXXXXX")
  trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH"
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH

  # --block: each step runs as long as its part of the cluster, until the job ends.
  srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
    ray start --head --node-ip-address="$address" --port="$port" --include-dashboard=false $common &
  sleep 10
  srun --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --exclude="$head" --overlap \
    ray start --address="$address:$port" $common &

  # The driver runs on the first node, inside this cluster, and waits up to a minute for the other nodes.
  sleep 20
  export RAY_ADDRESS="$address:$port"
fi
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap bash scripts/distill.sh "$@"
