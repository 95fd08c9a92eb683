#!/usr/bin/env bash
# Train on the nodes of a Slurm job; one torchrun a node, one process a GPU:
#   sbatch --nodes=2 --gpus-per-node=8 tools/slurm_train.sh CONFIG [options]
# The options are those of tools/train.py. GPUS is the number of processes on
# a node (default: the GPUs that Slurm gives it), PORT where they meet (29500).
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
set -euo pipefail

if [ $# -lt 1 ] || [ -z "${SLURM_JOB_NODELIST:-}" ]; then
    echo "usage, in a Slurm job: $0 CONFIG [options of tools/train.py]" >&2
    exit 2
fi
config=$1
processes=${GPUS:-${SLURM_GPUS_ON_NODE:-}}
if [ -z "$processes" ]; then
    echo "error: Slurm gave no GPUs; ask for --gpus-per-node=N, or set GPUS" >&2
    exit 2
fi
# Slurm runs a copy of this script: the checkout is where sbatch was called.
train=${TRAIN:-${SLURM_SUBMIT_DIR:-.}/tools/train.py}
if [ ! -f "$train" ]; then
    echo "error: no $train; call sbatch in the checkout, or set TRAIN" >&2
    exit 2
fi
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
master=${MASTER_ADDR:-$(head -n 1 <<< "$nodes")}

# --kill-on-bad-exit: the job ends if a node does.
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    --kill-on-bad-exit=1 \
    "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="$SLURM_JOB_NUM_NODES" \
    --nproc-per-node="$processes" \
    --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$master:${PORT:-29500}" \
    "$train" "$config" --launcher pytorch "${@:2}"
