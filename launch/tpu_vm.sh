#!/usr/bin/env bash
# One run on all workers of a Cloud TPU VM slice:
#
#   launch/tpu_vm.sh [--dry-run] NAME ZONE --config=configs/NAME.py --workdir=DIR [FLAG ...]
#
# The project is installed on every worker in the folder thanos_jax of the home, and DIR is on a
# file system that all workers mount (Filestore; a mounted bucket has no locks). Google develops
# Cloud TPU on GKE, which gke_jobset.yaml uses, rather than this command. PYTHON is the interpreter
# there. The same command goes on after the slice was preempted and made again.
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

# Quoted once more: it passes through the shell of each worker.
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
