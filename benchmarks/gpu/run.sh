#!/usr/bin/env bash
# Run hlrs on a GPU whose minutes are scarce: parts in order of value, each with a time-out, so that one failure
# never costs the rest. In the root of a checkout in which pack.py made the folder .gpu:
#
#   bash benchmarks/gpu/run.sh [PART...]       env warm doctor tests search resnet retrain bench; all by default
#
# Everything printed goes to $OUT/run.log, the important lines to standard output too; $OUT/bench.jsonl has the
# benchmarks, $OUT/results.tar.gz tables, weights and records, $OUT/smi.csv the card's state.
#
#   TOTAL=540     seconds for the whole call; SEARCH_S, RESNET_S, RETRAIN_S, BENCH_S, TESTS_S: of single parts
#   OUT, WORK     folders of what is kept and of the run itself; a second call continues in the same WORK
#   TINY=1        a rehearsal with small networks; HLRS_DEVICE=cpu where there is no GPU
set -uo pipefail
T0=$(date +%s.%N); export T0
ROOT=$PWD
HERE=$ROOT/benchmarks/gpu
FOLDER=${FOLDER:-$ROOT/.gpu}
WORK=${WORK:-${TMPDIR:-/tmp}/hlrs-gpu}
OUT=${OUT:-$WORK/out}
TOTAL=${TOTAL:-540}
PY=${PY:-python3}
CORES=$(nproc)
[[ -f $HERE/run.sh ]] || { echo "benchmarks/gpu/run.sh: run it in the root of a checkout" >&2; exit 2; }
[[ -d $FOLDER/data ]] || { echo "$FOLDER: no data; make it with python benchmarks/gpu/pack.py" >&2; exit 2; }
mkdir -p "$OUT" "$WORK"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$WORK/site:$ROOT:$ROOT/benchmarks
LOG=$OUT/run.log
PARTS=${*:-env warm doctor tests search resnet retrain bench}

elapsed() { awk -v now="$(date +%s.%N)" -v began="$T0" 'BEGIN { printf "%.1f", now - began }'; }
say() { printf '[%7s] %s\n' "$(elapsed)" "$*" | tee -a "$LOG"; }
wanted() { [[ " $PARTS " == *" $1 "* ]]; }
on_gpu() { [[ ${HLRS_DEVICE:-} != cpu ]]; }

# step NAME SECONDS LINES COMMAND...: for at most SECONDS, and no longer than is left; shows LINES lines
step() {
    local name=$1 most=$2 lines=$3 left status; shift 3
    left=$(awk -v total="$TOTAL" -v elapsed="$(elapsed)" 'BEGIN { printf "%d", total - elapsed - 6 }')
    if ((left < 8)); then say "== $name: skipped, $left s left"; return 0; fi
    ((most > left)) && most=$left
    say "== $name (at most $most s)"
    timeout --signal=TERM --kill-after=12 "$most" "$@" 2>&1 | "$PY" "$HERE/stamp.py" "$LOG" --lines "$lines"
    status=${PIPESTATUS[0]}
    say "== $name: exit status $status$([[ $status == 124 ]] && echo ', timed out')"
}
hlrs() { (cd "$WORK" && exec "$PY" -m hlrs "$@"); }
export -f hlrs; export WORK PY
warm() { on_gpu && step "warm_$1" 40 3 "$PY" "$HERE/warm.py" --sets "$1"; }

SMI=
finish() {
    [[ -n $SMI ]] && kill "$SMI" 2>/dev/null
    (cd "$WORK" && tar czf "$OUT/results.tar.gz" --ignore-failed-read results .hlrs/specs 2>/dev/null)
}
trap finish EXIT
if on_gpu && command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used,clocks.sm,power.draw --format=csv,noheader -l 5 \
        >"$OUT/smi.csv" 2>/dev/null &
    SMI=$!
fi

# PyTorch is installed on such machines, hlrs's small dependencies often are not
if ! "$PY" -c 'import click, pydantic, pytest, ruamel.yaml, safetensors, tqdm, yaml' 2>/dev/null; then
    "$PY" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$WORK/site" \
        "$FOLDER"/wheels/*.whl 2>&1 | tail -3
fi

TRAINS=
if wanted search || wanted resnet || wanted retrain; then TRAINS=yes; fi
if [[ -n $TRAINS ]]; then
    "$PY" "$HERE/params.py" "$FOLDER/data" "$WORK/params.yaml" ${TINY:+--tiny} 2>&1 | tee -a "$LOG"
fi
wanted env && step env 60 20 "$PY" "$HERE/environment.py"
WARMING=
if wanted warm && on_gpu; then  # beside the split, which uses one core
    say "== warm, in the background"
    "$PY" "$HERE/warm.py" --processes $((CORES > 2 ? CORES - 2 : 1)) --sets search,unrolled \
        > >("$PY" "$HERE/stamp.py" "$LOG") 2>&1 &
    WARMING=$!
fi
[[ -n $TRAINS ]] && step split 60 5 bash -c 'hlrs split cifar10_lt'
[[ -n $WARMING ]] && { wait "$WARMING"; say "== warm: exit status $?"; }
if wanted doctor; then
    step doctor 60 24 bash -c 'hlrs doctor'
fi
if wanted tests; then
    warm tests
    step tests "${TESTS_S:-50}" 25 env TRITON_INTERPRET=0 "$PY" -m pytest -q -x -p no:cacheprovider \
        "$ROOT/tests/training/test_gpu.py" -k "${TESTS:-(of_a_search and (plain or unrolled)) or \
            (of_a_retraining and plain) or share_a_memory_pool or learning_rate or begins_like or streamed}"
fi
if wanted search; then
    step search "${SEARCH_S:-345}" 60 bash -c 'hlrs search cifar10_lt/darts/0'
    step extract 20 4 bash -c 'hlrs extract cifar10_lt/darts/0'
fi
if wanted resnet; then
    step resnet "${RESNET_S:-150}" 12 bash -c 'hlrs retrain cifar10_lt/resnet32/0'
    step evaluate 40 4 bash -c 'hlrs evaluate cifar10_lt/resnet32/0'
    say "published, cross-entropy: 70.36 %"
    grep -Hs '"accuracy"' "$WORK"/results/evaluate/cifar10_lt/resnet32/0/*/metrics.json | tee -a "$LOG"
fi
if wanted retrain; then
    step extract_v2 20 2 bash -c 'hlrs extract cifar10_lt/darts_v2/0'
    step retrain "${RETRAIN_S:-55}" 15 bash -c 'hlrs retrain cifar10_lt/darts_v2/0'
fi
if wanted bench; then
    warm search,unrolled,bfloat16
    step bench "${BENCH_S:-110}" 40 "$PY" "$HERE/bench.py" search retrain sharpness profile pairs pairs_retrain \
        memory variants resnet policy input together retrain_bfloat16 ${TINY:+--tiny --batch 4 --pairs 1 --threads 1} \
        --reference "$FOLDER/reference" --out "$OUT/bench.jsonl"
fi
say "== end"
