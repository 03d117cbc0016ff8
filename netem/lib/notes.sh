# shellcheck shell=bash
# What this host was asked for: read before each verb, changed by it, written after it was done. And the undo that --for arms.

declare -A out_words=()
declare -A in_words=()
declare -A cuts=()
# As it was read: `out PEER` and `in PEER` to words, `cut FROM TO` to 1.
declare -A noted=()
noted_self=
noted_way=
noted_device=

# notes_read: fills `noted`, and what is wanted with the same.
notes_read() {
    local kind first rest
    noted=() out_words=() in_words=() cuts=()
    noted_self='' noted_way='' noted_device=''
    [ -r "$state_home/notes" ] || return 0
    while read -r kind first rest; do
        case $kind in
            self) noted_self=$first ;;
            way) noted_way=$first ;;
            device) noted_device=$first ;;
            out) noted["out $first"]=$rest out_words[$first]=$rest ;;
            in) noted["in $first"]=$rest in_words[$first]=$rest ;;
            cut) noted["cut $first $rest"]=1 cuts["$first $rest"]=1 ;;
        esac
    done <"$state_home/notes"
}

# notes_text: what is wanted, as it is written down.
notes_text() {
    local name pair
    printf 'self %s\nway %s\ndevice %s\n' "$self" "$way" "$device_wanted"
    for name in "${nodes[@]}"; do
        if [ -n "${out_words[$name]-}" ]; then printf 'out %s %s\n' "$name" "${out_words[$name]}"; fi
        if [ -n "${in_words[$name]-}" ]; then printf 'in %s %s\n' "$name" "${in_words[$name]}"; fi
    done
    for pair in "${!cuts[@]}"; do printf 'cut %s\n' "$pair"; done | sort
}

notes_write() {
    notes_text >"$state_home/notes.new"
    # The file may come from a pipe that can be read once.
    printf '%s\n' "$cluster_text" >"$state_home/cluster.new"
    mv "$state_home/cluster.new" "$state_home/cluster"
    mv "$state_home/notes.new" "$state_home/notes"
}

# notes_begin: what must be known if the plan fails in the middle.
notes_begin() { printf '%s\n' "${devices[@]}" >"$state_home/arrival"; }

notes_forget() { rm -f "$state_home/arrival" "$state_home/notes" "$state_home/cluster" "$state_home/undo"; }

# Seconds since this host started: its wall clock may be set meanwhile.
uptime_seconds() {
    local now
    read -r now _ </proc/uptime
    printf '%s\n' "${now%.*}"
}

# arm_undo MILLISECONDS: everything is cleared after that, whatever becomes of who asked for it.
arm_undo() {
    local deadline token
    if [ -n "$dry_run" ]; then
        printf '# after %s s: netem clear\n' $((($1 + 999) / 1000))
        return
    fi
    deadline=$(($(uptime_seconds) + ($1 + 999) / 1000))
    token=$$-$RANDOM
    printf '%s %s\n' "$token" "$deadline" >"$state_home/undo"
    # Not with the lock, and not with the terminal of whoever asked.
    setsid bash "$netem_home/netem" undo-at "$token" "$deadline" </dev/null >>"$state_home/undo.log" 2>&1 9>&- &
}

# undo_at TOKEN UPTIME: waits, and clears if nobody has cleared or armed another undo meanwhile.
undo_at() {
    local token=
    while read -r token _ 2>/dev/null <"$state_home/undo" && [ "$token" = "$1" ]; do
        if [ "$(uptime_seconds)" -ge "$2" ]; then
            locked clear_all
            return
        fi
        sleep 1
    done
}
