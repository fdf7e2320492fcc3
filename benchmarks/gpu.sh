#!/usr/bin/env bash
# Parity checks and benchmarks on a machine with a CUDA build of torch; JSON below benchmarks/results/gpu.
#
#   PYTHON=.venv/bin/python benchmarks/gpu.sh [OUTPUT_FOLDER [STEP ...]]
#
# Needs torch with CUDA (torch.cuda.is_available()), the project and its dev extra in PYTHON's environment,
# and no network; the quantised checks skip themselves without bitsandbytes. Without STEPs all of them are
# taken. A step that fails or passes its time limit is noted in summary.json and the others go on; the exit
# status says whether all of them passed. DEVICE=cpu tries the script itself on a machine without a GPU;
# PEER_PYTHON names an interpreter with trl for the training benchmark.
set -u
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python}
device=${DEVICE:-cuda}
out=${1:-benchmarks/results/gpu}
[ $# -gt 0 ] && shift
wanted=("$@")
mkdir -p "$out" || exit 2
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 CUBLAS_WORKSPACE_CONFIG=:4096:8
export TEST_DEVICE=$device EZTINKER_DEVICE=$device

if ! "$python" - "$device" > "$out/device.json" <<'PYTHON'; then
import json
import sys

import torch

facts = {"device": sys.argv[1], "torch": torch.__version__, "cuda": torch.version.cuda}
if sys.argv[1] != "cpu":
    if not torch.cuda.is_available():
        sys.exit(1)
    properties = torch.cuda.get_device_properties(torch.device(sys.argv[1]))
    facts |= {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": [properties.major, properties.minor],
    }
print(json.dumps(facts))
PYTHON
    echo "no such device: $device; nothing was run" >&2
    exit 2
fi

taken=()
failed=()
step() { # name, seconds, command ...
    local name=$1 limit_s=$2 status started=$SECONDS
    shift 2
    if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then
        return
    fi
    echo "== $name (at most $limit_s s)" >&2
    timeout --kill-after=30 "$limit_s" "$@" > "$out/$name.log" 2>&1
    status=$?
    taken+=("$name:$((SECONDS - started)):$status")
    if [ "$status" -ne 0 ]; then
        failed+=("$name")
        [ "$status" -eq 124 ] && echo "passed its time limit" >&2
        tail -n 20 "$out/$name.log" >&2
    fi
}
tests() {
    local name=$1 limit_s=$2
    shift 2
    step "$name" "$limit_s" "$python" -m pytest -q -p no:cacheprovider "$@"
}
benchmark() {
    local name=$1 limit_s=$2
    shift 2
    step "$name" "$limit_s" "$python" -m "benchmarks.$name" --out "$out/$name.json" "$@"
}

# The same checks as on a CPU, with every worker of the tests on the device. Tests of the pretended device
# (test_cuda.py, test_decode_graph.py) are for machines without one.
tests parity 1800 tests/parity --ignore=tests/parity/test_quantization.py \
    --ignore=tests/parity/test_exports.py
tests quantized 1800 tests/parity/test_quantization.py
tests exports 1200 tests/parity/test_exports.py
tests sampling_tests 900 tests/unit/worker/test_sampling.py tests/unit/worker/test_prefix_reuse.py \
    tests/unit/worker/test_sampling_memory.py
tests training_tests 900 tests/unit/worker/test_training.py tests/unit/worker/test_shared_passes.py \
    tests/unit/worker/test_packed_training.py tests/unit/worker/test_optimizer.py
benchmark decode_graphs 1200 --device "$device"
benchmark sampling 2400 --device "$device"
benchmark training 2400 ${PEER_PYTHON:+--peer-python "$PEER_PYTHON"}
benchmark tenants 900
benchmark server 900

"$python" - "${#failed[@]}" "${failed[@]+"${failed[@]}"}" "${taken[@]+"${taken[@]}"}" <<'PYTHON' | tee "$out/summary.json"
import json
import sys

num_failed = int(sys.argv[1])
failed, steps = sys.argv[2 : 2 + num_failed], sys.argv[2 + num_failed :]
fields = [step.rsplit(":", 2) for step in steps]
taken = {name: {"seconds": int(seconds), "status": int(status)} for name, seconds, status in fields}
print(json.dumps({"passed": bool(taken) and not failed, "failed": failed, "steps": taken}))
PYTHON
[ ${#failed[@]} -eq 0 ] && [ ${#taken[@]} -gt 0 ]
