#!/usr/bin/env bash
# Runs what docs/cluster.md says of Slurm on a Slurm of this machine, and prints what came of it as a table. Needs root, and
# Debian's slurm-wlm and munge. Three nodes are three slurmd; all of it lies in a temporary folder and ends with this script.
# SLURM_CHECK_STUDIES says how many studies there are; with SLURM_CHECK_KEEP=1 the folder stays.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=$(realpath -s "${SLURM_CHECK_PYTHON:-.venv/bin/python}")
engine=$(realpath "${SLURM_CHECK_ENGINE:-engines/demo}")
studies=${SLURM_CHECK_STUDIES:-40}
port=${SLURM_CHECK_PORT:-16817}
work=$(mktemp -d /tmp/cxrbatch-slurm.XXXXXX)
chmod 755 "$work"
export SLURM_CONF=$work/slurm.conf OMP_NUM_THREADS=1

for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || { echo "$program is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
done
[ -f "$engine/engine.json" ] || { echo "$engine: no engine; make demo builds one" >&2; exit 2; }

# --------------------------------------------------------------------------- Slurm, up and down

pid_of() { cat "$work/$1.pid" 2>/dev/null || true; }

# What Slurm started for a job is known by its environment, in which SLURM_CONF is ours.
stepds() { # of a job, or of all
    local pid
    for pid in $(pgrep -f "slurmstepd: \[${1:-}" || true); do
        grep -qzFx "SLURM_CONF=$SLURM_CONF" "/proc/$pid/environ" 2>/dev/null && echo "$pid" || true
    done
}

take_down() {
    set +e
    [ -n "${cluster:-}" ] && kill "$cluster" 2>/dev/null
    scancel --quiet --user root 2>/dev/null
    for _ in $(seq 40); do [ -z "$(squeue --noheader 2>/dev/null)" ] && break; sleep 0.5; done
    for name in slurmd-n1 slurmd-n2 slurmd-n3 slurmctld munged; do
        pid=$(pid_of $name)
        [ -n "$pid" ] && kill "$pid" 2>/dev/null && tail --pid="$pid" -f /dev/null
    done
    for pid in $(stepds); do kill -KILL "$pid"; done
    [ -n "${SLURM_CHECK_KEEP:-}" ] && echo "What was written is in $work" >&2 || rm -rf "$work"
}
trap take_down EXIT

start_slurm() {
    mkdir -p "$work"/{munge,state,spool-n1,spool-n2,spool-n3}
    (umask 077; head -c 128 /dev/urandom >"$work/munge.key")
    munged --force --key-file="$work/munge.key" --socket="$work/munge/socket" --pid-file="$work/munged.pid" \
        --log-file="$work/munge/log" --seed-file="$work/munge/seed" 2>"$work/munge/warnings"
    cat >"$SLURM_CONF" <<CONF
ClusterName=check
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthInfo=socket=$work/munge/socket,cred_expire=5
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool-%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd-%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=2,sched_interval=2
ReturnToService=2
SlurmdTimeout=10
KillWait=15
MinJobAge=86400
GresTypes=gpu
NodeName=DEFAULT CPUs=8 CoresPerSocket=8 RealMemory=40000 Gres=gpu:1
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname=$(hostname) Port=$((port + 1))
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname=$(hostname) Port=$((port + 2))
NodeName=n3 NodeAddr=127.0.0.1 NodeHostname=$(hostname) Port=$((port + 3))
PartitionName=main Nodes=n1,n2,n3 Default=YES MaxTime=INFINITE State=UP
CONF
    echo "NodeName=n[1-3] Name=gpu File=/dev/null" >"$work/gres.conf"
    slurmctld -f "$SLURM_CONF" -i
    for node in n1 n2 n3; do slurmd -N "$node" -f "$SLURM_CONF"; done
    until_true "three nodes" eval '[ "$(sinfo --noheader --Node --states=idle 2>/dev/null | wc -l)" = 3 ]'
}

# --------------------------------------------------------------------------- cxrbatch, and what it left

install_cxrbatch() {
    "$python" -m venv --without-pip "$work/venv"
    local here
    here=$("$work/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
    printf '%s\n%s\n' "$root" "$("$python" -c 'import site; print(site.getsitepackages()[0])')" >"$here/check.pth"
    printf '#!%s\nimport sys\nfrom cxrbatch.cli import main\nsys.exit(main())\n' "$work/venv/bin/python" >"$work/venv/bin/cxrbatch"
    chmod +x "$work/venv/bin/cxrbatch"
    "$python" -m pip install --quiet --no-deps --target "$here" dask-jobqueue >"$work/pip.log" 2>&1 || true
    export PATH=$work/venv/bin:$PATH
}

example() { # the block of docs/cluster.md that holds these words, with this machine's paths
    "$work/venv/bin/python" - "$root/docs/cluster.md" "$1" <<'PYTHON' | sed "s#/results#out#; s#/pacs#$work/in#; s#/engines/chest#$engine#"
import re, sys
from pathlib import Path
blocks = re.findall(r"^```\w*\n(.*?)^```", Path(sys.argv[1]).read_text(), re.DOTALL | re.MULTILINE)
print(next(block for block in blocks if sys.argv[2] in block), end="")
PYTHON
}

same_rows() { # as the local run's, times apart
    "$work/venv/bin/python" - "$work/local" "$1" <<'PYTHON'
import csv, sys
from pathlib import Path
def rows(out, table):
    with (Path(out) / table).open(encoding="utf-8-sig", newline="") as file:
        return [{name: value for name, value in row.items() if not name.endswith("_at")} for row in csv.DictReader(file)]
tables = "images.csv", "studies.csv"
for table in tables:
    if rows(sys.argv[1], table) != rows(sys.argv[2], table):
        sys.exit(f"{table} of {sys.argv[2]} is not as a local run's")
print("rows of", " and ".join(f"{table} ({len(rows(sys.argv[2], table))})" for table in tables), "as a local run's")
PYTHON
}

# --------------------------------------------------------------------------- the jobs

fail() { echo "slurm check: $*" >&2; tail -n 20 "$work"/job/slurm-*.out >&2 || true; exit 1; }
until_true() { local what=$1; shift; for _ in $(seq 600); do "$@" && return; sleep 0.3; done; fail "waited in vain for $what"; }
over() { [ -z "$(squeue --noheader --jobs "$1" 2>/dev/null)" ]; }
wait_for() { for job in "$@"; do until_true "job $job" over "$job"; done; }
done_of() { cat "out/shards/$1/finished.jsonl" 2>/dev/null | wc -l; }
has_begun() { [ "$(done_of "$1")" -ge 2 ]; }
about() { scontrol --oneliner show job "$1" | grep -oE "(^| )$2=[^ ]*" | cut -d= -f2; }
ended() { about "$1" JobState | sort | uniq -c | awk '{print $1, $2}' | paste -sd, ; }
codes() { about "$1" ExitCode | sort -u | paste -sd' '; }
expect() { [ "$1" = "$2" ] || fail "$3: $1, not $2"; }
fresh() { rm -rf out slurm-*.out; cxrbatch shard "$work/in" -o out --of "$1" >shard.txt; }
submit() { sbatch --parsable "$@"; }
merged() { cxrbatch merge out >merge.txt; }
row() { printf '| %s | %s | %s |\n' "$1" "$2" "$((SECONDS - since))"; since=$SECONDS; }

check_array() {
    fresh 4
    local first last
    sed 's/array.sh/array4.sh/; s/--wrap/--parsable --wrap/' <(example 'sbatch --parsable' | grep sbatch) >submit.sh
    last=$(bash submit.sh); first=$((last - 1))
    wait_for "$first" "$last"
    expect "$(ended "$first")" "4 COMPLETED" "the array"
    expect "$(codes "$last")" "0:0" "the merge after it"
    ! grep -lP '[\x1b\r]' slurm-*.out || fail "bars or colours in a log"
    row "array of 0 to 3, then the merge, as written in the documentation" "$(ended "$first"), merge $(codes "$last"); $(wc -l <"slurm-${first}_0.out") lines in a task's log; $(same_rows out)"
    first=$(submit array4.sh); wait_for "$first"
    expect "$(ended "$first")" "4 COMPLETED" "the same array again"
    row "the same array again, after the merge" "$(ended "$first"), exit codes $(codes "$first"): $(head -1 "slurm-${first}_0.out")"
}

check_counting_from_one() {
    fresh 4
    local array
    array=$(submit --array=1-4 array4.sh); wait_for "$array"
    expect "$(ended "$array")" "4 COMPLETED" "the array that counts from 1"
    merged || fail "not all was done"
    row "array of 1 to 4" "$(ended "$array"); $(same_rows out)"
}

check_part() {
    fresh 4
    local array merge again
    array=$(submit --array=1,3 array4.sh)
    merge=$(submit --dependency=afterany:"$array" --wrap "cxrbatch merge out"); wait_for "$array" "$merge"
    expect "$(codes "$merge")" "3:0" "the merge of a part"
    again=$(grep -o 'array=.*' "slurm-$merge.out"); expect "$again" "array=0,2" "what is left"
    array=$(submit --"$again" array4.sh); wait_for "$array"
    merged || fail "not all was done"
    row "array of 1 and 3 alone, then what the merge says is left" "merge $(codes "$merge"), --$again; $(ended "$array"); $(same_rows out)"
}

check_requeue() {
    fresh 2
    local array code=0
    array=$(submit --array=0-1 array4.sh)
    until_true "two studies" has_begun 1
    merged || code=$?; expect "$code" 3 "a merge beside tasks at work"
    scontrol requeue "${array}_1"; wait_for "$array"
    expect "$(ended "$array")" "2 COMPLETED" "the array with a requeued task"
    merged || fail "not all was done"
    row "a merge while tasks are at work, then \`scontrol requeue\` of one" "merge exit code $code; $(ended "$array"), restarts $(about "${array}_1" Restarts); $(tail -1 "slurm-${array}_1.out"); $(same_rows out)"
}

check_cancel() {
    fresh 2
    local array code=0 pid at state
    # By the script that has itself requeued at its time limit, which this is not.
    example 'scontrol requeue' | sed 's/0-99/0-1/' >turns.sh
    array=$(submit turns.sh)
    until_true "two studies" has_begun 1
    pid=$(cat out/shards/1/.cxrbatch.lock); scancel "${array}_1"; at=$SECONDS
    until_true "the end of a cancelled task" eval "! kill -0 $pid 2>/dev/null"
    at=$((SECONDS - at)); wait_for "$array"
    merged || code=$?; expect "$code" 3 "merge after scancel"
    state=$(about "${array}_1" JobState); expect "$state" CANCELLED "scancel"
    array=$(submit --array=1 array4.sh); wait_for "$array"
    merged || fail "not all was done"
    row "\`scancel\` of a task at work, then that one again" "$state, its process gone after $at s; merge exit code $code; again $(ended "$array"); $(same_rows out)"
}

check_time_limit() {
    fresh 1
    example 'scontrol requeue' | sed 's/0-99/0-0/; s/--time=[^ ]*/--time=1/; s/TERM@[0-9]*/TERM@50/' >limited.sh
    local array merge restarts pid
    array=$(submit limited.sh)
    merge=$(submit --dependency=afterany:"$array" --wrap "cxrbatch merge out")
    until_true "two studies" has_begun 0
    # As if it were slow: Slurm looks for limits twice a minute. With its signal it lets a process go on, too.
    pid=$(cat out/shards/0/.cxrbatch.lock); kill -STOP "$pid"; sleep 45; kill -CONT "$pid" 2>/dev/null || true
    wait_for "$array" "$merge"
    expect "$(ended "$array")" "1 COMPLETED" "a task with a short limit"
    restarts=$(about "${array}_0" Restarts); [ "$restarts" -ge 1 ] || fail "no time limit was met"
    row "\`--time\`, \`--signal\` and \`scontrol requeue\`, as written, with 1 minute" "stopped and requeued $restarts times, then $(ended "$array"); the merge waited: $(codes "$merge"); $(same_rows out)"
}

check_lost_node() {
    fresh 2
    local array node
    array=$(submit --array=0-1 array4.sh)
    until_true "two studies" has_begun 1
    node=$(squeue --noheader --jobs "${array}_1" --format %N)
    kill -KILL "$(pid_of "slurmd-$node")" $(stepds "$(about "${array}_1" JobId)\.") "$(cat out/shards/1/.cxrbatch.lock)"
    wait_for "$array"
    merged || fail "not all was done"
    row "a node lost: its slurmd and all of a task killed" "$(ended "$array"), restarts $(about "${array}_1" Restarts); $(same_rows out)"
    rm -f "$work/slurmd-$node.pid"; slurmd -N "$node" -f "$SLURM_CONF"
    until_true "$node" eval '[ "$(sinfo --noheader --Node --states=idle 2>/dev/null | wc -l)" = 3 ]'
}

check_memory() {
    fresh 1
    local array small used=0 now
    array=$(submit --array=0 --mem=400M array4.sh)
    wait_for "$array"; small="$(ended "$array"), exit code $(codes "$array")"
    [[ $small != *COMPLETED* ]] || fail "400 MB were enough"
    array=$(submit --array=0 array4.sh)
    until over "$array"; do
        now=$(sstat --noheader --noconvert --format=MaxRSS "$array.0" 2>/dev/null | tr -dc 0-9 || true)
        used=$((${now:-0} > used ? ${now:-0} : used)); sleep 1
    done
    merged || fail "not all was done"
    row "\`--mem=400M\`, then \`--mem=24G\` (\`sstat\`: MaxRSS $((used / 1000000)) MB)" "$small; again $(ended "$array"); $(same_rows out)"
}

check_wrong() {
    fresh 2
    local outside never merge
    outside=$(submit --array=5 array4.sh)
    never=$(submit --wrap "cxrbatch work out -e $engine")
    merge=$(submit --dependency=afterok:"$outside" --wrap "cxrbatch merge out"); wait_for "$outside" "$never"
    expect "$(codes "$outside") $(codes "$never")" "2:0 2:0" "wrong numbers"
    until_true "what becomes of afterok" eval '[ "$(about "$merge" Reason)" = DependencyNeverSatisfied ]'
    row "number 5 of two shards; no array; a merge with \`afterok\`" "$(codes "$outside"), $(codes "$never"); the merge: $(about "$merge" JobState), $(about "$merge" Reason)"
    scancel "$merge"
}

check_dask() {
    if ! "$work/venv/bin/python" -c 'import dask_jobqueue' 2>/dev/null; then
        row "SLURMCluster" "not run: dask-jobqueue cannot be installed"; return
    fi
    rm -rf out slurm-*.out cluster.txt
    example SLURMCluster | sed 's/jobs=16/jobs=2/' >cluster.py
    (sleep 600 | python -u cluster.py >cluster.txt 2>&1) & cluster=$!
    until_true "the scheduler" grep -q '^tcp://' cluster.txt
    cxrbatch run "$work/in" -o out -e "$engine" --cluster "$(grep '^tcp://' cluster.txt)" >run.txt || fail "the driver: $(cat run.txt)"
    row "\`run --cluster\` by dask-jobqueue's SLURMCluster, 2 jobs" "$(grep -c '"node joined"' out/cxrbatch.log) nodes joined; $(same_rows out)"
}

# --------------------------------------------------------------------------- all of it

install_cxrbatch
start_slurm
mkdir "$work/job"
echo "Slurm is up; drawing $studies studies, scoring them without it" >&2
python -c "from pathlib import Path; from cxrbatch.phantom.studies import write_demo_studies as w; w(Path('$work/in'), n_studies=$studies, seed=3, rows=512)"
cxrbatch run "$work/in" -o "$work/local" -e "$engine" --quiet
cd "$work/job"
example '#SBATCH --array' >array.sh
sed 's/0-99/0-3/' array.sh >array4.sh
since=$SECONDS
printf '| what | what came of it | s |\n| --- | --- | --- |\n'
checks=${*:-array counting_from_one part requeue cancel time_limit lost_node memory wrong dask}
for each in $checks; do "check_$each"; done
