#!/usr/bin/env bash
# One run on all workers of a Cloud TPU VM slice:
#
#   launch/tpu_vm.sh [--dry-run] NAME ZONE --config=configs/NAME.py --workdir=DIR [FLAG ...]
#
# The project must be installed on every worker in the folder ~/thanos_jax, and DIR must be on a
# file system that all workers mount (Filestore; a mounted bucket has no locks). PYTHON is the
# interpreter on the workers. After the slice was preempted and created again, the same command
# resumes. Google develops Cloud TPU on GKE (gke_jobset.yaml) rather than this command.
set -euo pipefail

dry_run=
if [[ ${1-} == --dry-run ]]; then
  dry_run=1
  shift
fi
if [[ $# -lt 4 || $1 == -* || $2 == -* ]]; then
  echo "usage: launch/tpu_vm.sh [--dry-run] NAME ZONE --config=FILE --workdir=DIR [FLAG ...]" >&2
  exit 2
fi
name=$1
zone=$2
shift 2

# Quoted again, because it passes through the shell of each worker.
remote=$(printf '%q ' exec "${PYTHON:-python3}" -m thanos_jax.main --distributed "$@")
command=(
  gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=all
  "--command=cd thanos_jax && $remote"
)
if [[ -n $dry_run ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
exec "${command[@]}"
