#!/usr/bin/env bash
# Parity checks and benchmarks on a machine with a CUDA build of torch; JSON below benchmarks/results/gpu.
#
#   PYTHON=.venv/bin/python benchmarks/gpu.sh [OUTPUT_FOLDER]
#
# Needs torch with CUDA (torch.cuda.is_available()), the project and its dev extra in PYTHON's environment,
# and no network. A step that fails is noted in summary.json and the others go on; the exit status says
# whether all of them passed.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${1:-benchmarks/results/gpu}
mkdir -p "$out"
export PYTHONPATH="src:.${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 CUBLAS_WORKSPACE_CONFIG=:4096:8

"$python" - > "$out/device.json" <<'PYTHON' || { echo "no CUDA device: nothing was run" >&2; exit 2; }
import json, sys, torch
if not torch.cuda.is_available():
    sys.exit(1)
properties = torch.cuda.get_device_properties(0)
print(json.dumps({
    "name": properties.name,
    "memory_bytes": properties.total_memory,
    "capability": [properties.major, properties.minor],
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
}))
PYTHON

failed=()
step() {
    local name=$1
    shift
    echo "== $name" >&2
    if ! "$@" > "$out/$name.log" 2>&1; then
        failed+=("$name")
        tail -n 20 "$out/$name.log" >&2
    fi
}

# The same checks as on a CPU, with every worker of the tests on the device.
step parity env TEST_DEVICE=cuda "$python" -m pytest -q -p no:cacheprovider \
    tests/parity tests/unit/worker/test_sampling.py tests/unit/worker/test_prefix_reuse.py \
    tests/unit/worker/test_sampling_memory.py tests/unit/worker/test_training.py
step sampling "$python" -m benchmarks.sampling --device cuda --out "$out/sampling.json"
step server "$python" -m benchmarks.server --out "$out/server.json"
for name in training tenants; do
    if [ -f "benchmarks/$name.py" ]; then
        step "$name" "$python" -m "benchmarks.$name" --out "$out/$name.json"
    fi
done

printf '%s\n' "${failed[@]+"${failed[@]}"}" | "$python" -c '
import json, sys
failed = sys.stdin.read().split()
print(json.dumps({"failed": failed, "passed": not failed}))
sys.exit(bool(failed))' | tee "$out/summary.json"
exit "${PIPESTATUS[1]}"
