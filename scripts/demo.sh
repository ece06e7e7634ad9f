#!/bin/sh
# The main job on phantoms (synthetic radiographs), as a user would type it. Usage: scripts/demo.sh FOLDER
set -eu

out=${1:-demo}
rm -rf "$out"
mkdir -p "$out"

run() {
    printf '\n$ pneumoscope %s\n' "$*"
    pneumoscope "$@"
}

run data phantoms -o "$out/films" --count 1000 --size 224 --seed 7
run data import "$out/films" -o "$out/dataset"
run data split "$out/dataset" --method publisher
run data audit "$out/dataset"
run train "$out/dataset" -o "$out/run" --network cnn-9 --size 64 --learning-rate 1e-3 --epochs 20 --name demo
run evaluate "$out/run/bundle" "$out/dataset" --split test -o "$out/run/test"
run report "$out/run"
film=$(find "$out/films/test/PNEUMONIA" -type f | sort | head -n 1)
run predict "$film" --bundle "$out/run/bundle" --heatmaps "$out/heatmaps"

cat <<END

Everything is in $out/:
  films/                     the phantoms (synthetic; their lesion masks are in films-masks/)
  dataset/audit/audit.html   what the audit found
  run/history.csv            learning curves
  run/bundle/                the model: ONNX, calibration, operating points, gate, provenance
  run/test/evaluation.html   the results on test films
  run/report/report.html     the report, first page for everyone
  heatmaps/                  the predicted film with its heat map
END
