#!/bin/bash
# All quantisation modes of one model, and the analysis, in one job:
#
#     sbatch run_quantization_benchmark.sh [options of `qbench run`]
#
# Options of the job. It runs anywhere as it stands, on the CPU; for a GPU, remove one # of a line below.
#SBATCH --job-name=quantization_benchmark
#SBATCH --output=quantization_benchmark_%j.log
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=3G
#SBATCH --time=02:00:00
##SBATCH --gpus=1
##SBATCH --gpus=a100:1
##SBATCH --gpus=h100:1
##SBATCH --constraint=gpu --gpus=1
##SBATCH --partition=gpu --account=YOURS
set -euo pipefail

# Modules and environments that the job needs, such as:
# module load cuda/12.4

# The program: $QBENCH, else `qbench` in PATH, else the one beside whose examples this file lies. Slurm runs a copy of
# this file, so that its own place is known from where it was submitted only.
program=${QBENCH:-$(command -v qbench || true)}
for place in ../../../bin/qbench ../../target/release/qbench target/release/qbench; do
    [ -n "$program" ] || ! [ -x "${SLURM_SUBMIT_DIR:-.}/$place" ] || program=${SLURM_SUBMIT_DIR:-.}/$place
done
[ -n "$program" ] || { echo "qbench was not found: set QBENCH to its path" >&2; exit 2; }

# With a GPU in the allocation, the model runs there.
device=()
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ] && "$program" plugin list 2>/dev/null | grep -w cuda:0 >/dev/null; then
    device=(--backend candle --device cuda:0)
fi

# Everything is in ./results, the tables, figures and the report in ./results/analysis.
exec "$program" run --threads "${SLURM_CPUS_PER_TASK:-2}" "${device[@]}" --outdir ./results "$@"
