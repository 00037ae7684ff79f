#!/usr/bin/env bash
# One run as several processes on this machine:
#
#   launch/local.sh [--dry-run] PROCESSES --config=configs/NAME.py --workdir=DIR [FLAG ...]
#
# GPUS=1 gives process i only GPU i; without it, each process sees all devices. PORT is the port of
# process 0, PYTHON the interpreter. SIGTERM or Ctrl-C stops all processes with a checkpoint.
set -euo pipefail

dry_run=
if [[ ${1-} == --dry-run ]]; then
  dry_run=1
  shift
fi
if [[ ! ${1-} =~ ^[1-9][0-9]*$ || $# -lt 2 ]]; then
  echo "usage: launch/local.sh [--dry-run] PROCESSES --config=FILE --workdir=DIR [FLAG ...]" >&2
  exit 2
fi
processes=$1
shift

# Each process gets its own group: Ctrl-C reaches only this script, which passes on one signal.
set -m
pids=()
stop() { kill -TERM "${pids[@]}" 2>/dev/null || true; }
trap stop TERM INT
for ((id = 0; id < processes; id++)); do
  command=(
    "${PYTHON:-python}" -m thanos_jax.main "--coordinator=localhost:${PORT:-12321}"
    "--num_processes=$processes" "--process_id=$id" "$@"
  )
  if [[ -n ${GPUS-} ]]; then
    command=(env "CUDA_VISIBLE_DEVICES=$id" "${command[@]}")
  fi
  if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
  else
    "${command[@]}" &
    pids+=($!)
  fi
done

result=0
for pid in "${pids[@]}"; do
  code=0
  wait "$pid" || code=$?
  # A signal to this script ends `wait` before the process ends.
  while kill -0 "$pid" 2>/dev/null; do
    code=0
    wait "$pid" || code=$?
  done
  if ((code && !result)); then result=$code; fi
done
exit "$result"
