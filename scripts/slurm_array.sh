#!/bin/bash
# A run as a Slurm job array; each task is a worker, and what it had done when it was preempted stays done:
#
#   sbatch --array=0-99 scripts/slurm_array.sh eval_prob_adaptive.py --dataset imagenet --search race
#   sbatch --dependency=afterany:JOBID scripts/slurm_array.sh scripts/print_acc.py data/imagenet/FOLDER
#
# Options of sbatch (--partition, --gpus, --time, ...) go before the name of this file. LOG_DIR and DATASET_ROOT are
# passed on. PYTHON is the interpreter; the default is .venv's, else the environment's that was active at sbatch.
#SBATCH --job-name=diffusion
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@90
cd "${SLURM_SUBMIT_DIR:?is to be started with sbatch}" || exit
export DIFFUSION_SHARD=array # the default of --shard: the tasks share the images
[ -x .venv/bin/python ] && here=.venv/bin/python
"${PYTHON:-${here:-python}}" "$@" &
worker=$!
again=
trap 'again=yes; kill -USR1 $worker' USR1 # the time is nearly up: nobody but us will queue the rest again
trap 'kill -TERM $worker' TERM            # preempted, and then Slurm queues it again itself; or cancelled
while true; do
  wait $worker
  code=$?
  kill -0 $worker 2>/dev/null || break # wait returns for a signal, too
done
if [ $code = 75 ] && [ "$again" ]; then
  # of the last task of an array, SLURM_JOB_ID is the id of the whole array: all its tasks would be queued again
  scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
fi
exit $code
