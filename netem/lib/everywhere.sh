# shellcheck shell=bash
# The same verb on all hosts of the cluster file that have `ssh=`: this folder is copied there, and the verb run as root.

# quoted WORD...: for a shell at the other side.
quoted() { printf '%q ' "$@"; }

# on_host NODE ARGUMENT...: copies what is needed and runs the verb; each line of output begins with the node's name.
on_host() {
    local node=$1 folder='.cache/dynamomini-netem' command
    shift
    command="set -e; mkdir -p $folder; cd $folder; tar -xzf -; if [ \"\$(id -u)\" = 0 ]; then as=; else as='sudo -n'; fi; \$as ./netem $(quoted "$@" --self "$node" --cluster cluster)"
    {
        # One stream for all files, so that ssh is started once.
        tar -C "$netem_home" -czf - netem lib profiles.tsv regions.tsv -C "$scratch" cluster "${extra_files[@]}" |
            ssh -o BatchMode=yes -o ConnectTimeout=10 "${ssh_of[$node]}" "$command"
    } 2>&1 | sed "s/^/$node: /"
}

# everywhere ARGUMENT...: on all hosts at once; fails if one fails.
everywhere() {
    local node pids=() failures=()
    scratch=$(mktemp -d)
    extra_files=()
    printf '%s\n' "$cluster_text" >"$scratch/cluster"
    if [ "$verb" = run ]; then
        cp -- "$2" "$scratch/scenario"
        extra_files=(scenario)
        set -- run scenario "${@:3}"
    fi
    for node in "${nodes[@]}"; do
        if [ -n "${ssh_of[$node]-}" ]; then
            on_host "$node" "$@" &
            pids+=("$node $!")
        fi
    done
    for node in "${pids[@]}"; do
        wait "${node#* }" || failures+=("${node% *}")
    done
    rm -rf "$scratch"
    [ "${#pids[@]}" -gt 0 ] || { failed "no node of the cluster file has ssh=TARGET"; return; }
    [ "${#failures[@]}" = 0 ] || failed "it failed at ${failures[*]}"
}
