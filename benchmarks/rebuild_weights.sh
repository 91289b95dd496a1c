#!/bin/sh
# The chain of training runs that made the weights of pico.
#
#   benchmarks/rebuild_weights.sh STORE VIT RUNS [PICO]
#
# STORE: prepared data (fartrack train prepare); with more pictures and videos in STORE-wide, if that exists.
# VIT: an ImageNet ViT-Tiny, safetensors with timm's names. RUNS: folder of all runs. PICO: weights of six layers to
# start from. Ours came from an earlier trial network and are lost; without them the chain starts from ImageNet alone.
# Steps 1 and 2 want a GPU (ten minutes); the others took ten hours of one CPU core.
# Called again, it goes on where it stopped. docs/training.md says what is recorded of these runs and what is not.
set -eu
store=$1 vit=$2 runs=$3 pico=${4:-}
mkdir -p "$runs"

train() { # STEP START [UNTIL [NAME]]: one run by recipes/shipped/STEP.toml, called NAME
    name=${4:-$1}
    [ -e "$runs/$name/finished" ] && return
    resume=
    [ -e "$runs/$name/checkpoint.safetensors" ] && resume=--resume
    fartrack train run --recipe "shipped/$1" --data "$store" --run "$runs/$name" --start "$2" ${3:+--until "$3"} $resume
    touch "$runs/$name/finished"
}

mean() { # NAME STEP OTHER…: the mean of a run's weights and others; one that is named three times counts three times
    name=$1 step=$2
    [ -e "$runs/$name/model.json" ] && return
    shift 2
    for other; do
        set -- "$@" --mean "$other"
        shift
    done
    fartrack export "$runs/$step/checkpoint.safetensors" "$runs/$name" --int8 none "$@"
}

stack() { # BOTTOM TOP LAYERS OUT: the weights of BOTTOM, and those layers of TOP from number LAYERS (from 0) on
    python - "$@" <<'PYTHON'
import sys
from pathlib import Path
from safetensors.torch import save_file
from fartrack.model.init_weights import load_weights

bottom, top, layers, out = sys.argv[1:]
def upper(name):
    return name.startswith("blocks.") and int(name.split(".")[1]) >= int(layers)
tensors = {name: t for name, t in load_weights(Path(bottom)).items() if not upper(name)}
tensors |= {name: t for name, t in load_weights(Path(top)).items() if upper(name)}
save_file({name: t.contiguous() for name, t in tensors.items()}, out)
PYTHON
}

start=$vit
if [ -n "$pico" ]; then
    start=$runs/start.safetensors
    stack "$pico" "$vit" 6 "$start"
fi
train 1-pretrain "$start"
train 2-distill "$runs/1-pretrain/checkpoint.safetensors"
train 3-light "$runs/2-distill/checkpoint.safetensors"
mean mean-3 3-light "$runs/2-distill/checkpoint.safetensors"
train 4-long "$runs/mean-3/weights.safetensors"
mean mean-4 4-long "$runs/mean-3/weights.safetensors"
train 5-absent "$runs/mean-4/weights.safetensors"
mean mean-5 5-absent "$runs/mean-3/weights.safetensors"
train 6-rollouts "$runs/mean-5/weights.safetensors" 1220
train 7-bent "$runs/mean-5/weights.safetensors"
mean mean-7 7-bent "$runs/6-rollouts/checkpoint.safetensors"
train 8-shape "$runs/mean-7/weights.safetensors"
train 9-more "$runs/8-shape/checkpoint.safetensors"
train 10-long "$runs/9-more/checkpoint.safetensors"
mean mean-10 10-long "$runs/9-more/checkpoint.safetensors"
train 11-mild "$runs/mean-7/weights.safetensors"
train 12-plain "$runs/mean-7/weights.safetensors"
mean mean-12 11-mild "$runs/12-plain/checkpoint.safetensors" "$runs/mean-10/weights.safetensors"
train 13-wide "$runs/mean-7/weights.safetensors"
[ -d "$store-wide" ] && store=$store-wide
train 13-wide "$runs/mean-7/weights.safetensors" "" 13b-wide
before=$runs/mean-12/weights.safetensors
mean mean-13 13-wide "$runs/13b-wide/checkpoint.safetensors" "$before"
train 14-pruned "$runs/mean-13/weights.safetensors"
train 15-far "$runs/mean-7/weights.safetensors" 3840
mean pico 14-pruned "$runs/15-far/checkpoint.safetensors" "$runs/mean-13/weights.safetensors" "$before" "$before" "$before"
# By hand after that: the tracker's settings in model.json, and the calibration of the score.
