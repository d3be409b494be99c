#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
#
# One run over the GPUs of several hosts, from the repository's root:
#   sbatch -N 4 --gpus-per-node 8 experiments/launch/slurm.sh --preset=NAME --workdir=SHARED_DIR [--flag=value ...]
# One process a host by default; PER_GPU=1 makes one a GPU. `--workdir` must be on a file system that all hosts see.
# Submitted again after an interruption, it goes on from the newest checkpoint.
#SBATCH --job-name=deltanet
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --output=%x-%j.log
# Two minutes before the time is up every process is asked to save and end (docs/reliability.md).
#SBATCH --signal=TERM@120
set -euo pipefail
gpus=${SLURM_GPUS_ON_NODE:?submit with --gpus-per-node}
if [[ ${PER_GPU:-0} == 1 ]]; then
  tasks=$gpus
else
  tasks=1
  # JAX takes one GPU for every SLURM task unless it is told which ones are the task's.
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi
exec srun --ntasks-per-node="$tasks" --cpus-per-task=$((SLURM_CPUS_PER_TASK / tasks)) --kill-on-bad-exit=1 \
  .venv/bin/python -m experiments.main --distributed=auto "$@"
