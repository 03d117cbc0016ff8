# shellcheck shell=bash
# Scenario files: what happens when. Pure, as vocabulary.sh and cluster.sh, which must be read first.

# span_ms TEXT: milliseconds of a span such as 500ms, 10s, 1.5m, 1h.
span_ms() {
    [[ $1 =~ ^[0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h)$ ]] || { wrong "'$1' is not a span such as 500ms, 10s, 5m, 1h"; return; }
    awk -v number="${1%%[a-z]*}" -v unit="${BASH_REMATCH[2]}" 'BEGIN {
        scale["ms"] = 1; scale["s"] = 1000; scale["m"] = 60000; scale["h"] = 3600000
        printf "%.0f\n", number * scale[unit] }'
}

# action_check ACTION ARGUMENT...: whether a scenario may say this. Works nothing out that depends on who runs it.
action_check() {
    local action=$1
    shift
    case $action in
        apply)
            if [ "${1-}" = regions ] && [ $# = 1 ]; then return; fi
            spec_words "$@" >/dev/null
            ;;
        link)
            [ $# -ge 3 ] || { wrong "link wants two sets and a profile or words: link n1 n3 profile 3g"; return; }
            cuts_one_way "$1" "$2" >/dev/null || return
            shift 2
            if [ "$1" = one-way ]; then shift; fi
            spec_words "$@" >/dev/null
            ;;
        partition) cuts_of_partition "$@" >/dev/null ;;
        cut) cuts_one_way "$@" >/dev/null ;;
        heal | clear | end) [ $# = 0 ] || wrong "nothing may follow '$action'" ;;
        note) [ $# -gt 0 ] || wrong "note wants a text" ;;
        kill | start | freeze | thaw | move)
            [ $# = 1 ] || { wrong "$action wants one set of nodes"; return; }
            set_nodes "$1" >/dev/null
            ;;
        *) wrong "'$action' is not an action: apply, link, partition, cut, heal, clear, note, end; only in the lab: kill, start, freeze, thaw, move" ;;
    esac
}

# scenario_lines FILE: `MILLISECONDS ACTION ARGUMENT...` a line, each checked. Needs the cluster.
scenario_lines() {
    local text line fields at last=0 number=0 out=()
    [ -r "$1" ] || { wrong "$1 cannot be read"; return; }
    text=$(<"$1")
    while IFS= read -r line; do
        number=$((number + 1))
        read -ra fields <<<"${line%%#*}"
        if [ "${#fields[@]}" = 0 ]; then continue; fi
        [[ ${fields[0]} == t+* ]] || { wrong "$1, line $number: begin with a time such as t+10s, not '${fields[0]}'"; return; }
        at=$(span_ms "${fields[0]#t+}") || { wrong "in $1, line $number"; return; }
        [ "$at" -ge "$last" ] || { wrong "$1, line $number: ${fields[0]} is before the line above it"; return; }
        [ "${#fields[@]}" -gt 1 ] || { wrong "$1, line $number: there is no action after ${fields[0]}"; return; }
        action_check "${fields[@]:1}" || { wrong "in $1, line $number: $line"; return; }
        last=$at
        out+=("$at ${fields[*]:1}")
        if [ "${fields[1]}" = end ]; then break; fi
    done <<<"$text"
    [ "${#out[@]}" -gt 0 ] || { wrong "$1 says nothing"; return; }
    printf '%s\n' "${out[@]}"
}
