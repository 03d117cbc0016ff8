# shellcheck shell=bash
# The cluster file, sets of nodes, and who hears whom. Pure, as vocabulary.sh, which must be read first.

# Nodes in the order of the cluster file, and what it says of each.
nodes=()
declare -A addresses_of=()
declare -A ports_of=()
declare -A region_of=()
declare -A ssh_of=()
# Its place, as two hexadecimal digits.
declare -A number_of=()

# is_address TEXT: an IPv4 or IPv6 address, by its form.
is_address() {
    local octet
    if [[ $1 =~ ^([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})$ ]]; then
        for octet in "${BASH_REMATCH[@]:1}"; do
            [ "$((10#$octet))" -le 255 ] || return 1
        done
    else
        [[ $1 =~ ^[0-9a-fA-F]{0,4}(:[0-9a-fA-F]{0,4}){2,7}$ ]] && [[ $1 != *:::* ]]
    fi
}

# family_of ADDRESS: sets `family` to 4 or 6. A process for each address would be slow.
family_of() { case $1 in *:*) family=6 ;; *) family=4 ;; esac }

# What commands of the kernel call the two kinds of addresses, by `family`.
declare -A protocol_of=([4]=ip [6]=ipv6)
declare -A match_of=([4]=ip [6]=ip6)
declare -A prefix_of=([4]=32 [6]=128)

# cluster_line NAME ADDRESSES OPTION...: one node of the cluster file.
cluster_line() {
    local name=$1 list=${2-} address option
    [[ $name =~ ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || { wrong "'$name' is not a node's name"; return; }
    [[ ! $name =~ ^(all|rest|halves|isolate|bridge|ring|one-way)$ ]] || { wrong "'$name' has a meaning of its own: no node can be called so here"; return; }
    [ -z "${addresses_of[$name]-}" ] || { wrong "$name is there twice"; return; }
    for address in ${list//,/ }; do
        is_address "$address" || { wrong "'$address' of $name is not an IPv4 or IPv6 address"; return; }
    done
    [ -n "${list//,/}" ] || { wrong "$name has no address"; return; }
    nodes+=("$name")
    printf -v "number_of[$name]" '%02x' "${#nodes[@]}"
    addresses_of[$name]=${list//,/ }
    ports_of[$name]="7400 7401"
    for option in "${@:3}"; do
        case $option in
            ports=*)
                [[ ${option#*=} =~ ^[1-9][0-9]{0,4}(,[1-9][0-9]{0,4})*$ ]] || { wrong "ports of $name: numbers with commas, not '${option#*=}'"; return; }
                ports_of[$name]=${option#*=}
                ports_of[$name]=${ports_of[$name]//,/ }
                ;;
            region=?*) region_of[$name]=${option#*=} ;;
            ssh=[!-]*) ssh_of[$name]=${option#*=} ;;
            *) wrong "'$option' of $name is not understood: ports=..., region=..., ssh=..."; return ;;
        esac
    done
}

# cluster_read FILE: fills `nodes` and what is known of each.
cluster_read() {
    local line fields text
    nodes=()
    addresses_of=() ports_of=() region_of=() ssh_of=() number_of=()
    text=$(rows "$1") || return
    while read -r line; do
        read -ra fields <<<"${line%%#*}"
        cluster_line "${fields[@]}" || { wrong "in $1: $line"; return; }
    done <<<"$text"
    [ "${#nodes[@]}" -gt 1 ] || { wrong "$1 names fewer than two nodes"; return; }
    [ "${#nodes[@]}" -le 250 ] || wrong "$1 names more than 250 nodes"
}

# set_nodes SET: the nodes of `n1,n2`, or of `all`, one a line, in the order of the cluster.
set_nodes() {
    local wanted=",$1," name part
    if [ "$1" = all ]; then
        printf '%s\n' "${nodes[@]}"
        return
    fi
    for part in ${1//,/ }; do
        [ -n "${addresses_of[$part]-}" ] || { wrong "there is no node '$part': ${nodes[*]}"; return; }
    done
    [[ $1 =~ ^[^,]+(,[^,]+)*$ ]] || { wrong "'$1' is not a set of nodes such as n1,n2"; return; }
    for name in "${nodes[@]}"; do
        if [[ $wanted == *",$name,"* ]]; then printf '%s\n' "$name"; fi
    done
}

# joined NAME...: with commas.
joined() { local IFS=,; printf '%s\n' "$*"; }

# shape_groups SHAPE [ARGUMENT...]: the groups that a shape stands for, one a line.
shape_groups() {
    local count=${#nodes[@]} at middle half name
    half=$(((count + 1) / 2))
    case $1 in
        halves)
            [ $# = 1 ] || { wrong "halves wants nothing more"; return; }
            joined "${nodes[@]:0:half}"
            joined "${nodes[@]:half}"
            ;;
        isolate)
            [ $# = 2 ] || { wrong "isolate wants a set of nodes: isolate n1"; return; }
            set_nodes "$2"
            ;;
        bridge)
            middle=${2-${nodes[count / 2]}}
            if [ $# -gt 2 ] || [ -z "${addresses_of[$middle]-}" ]; then
                wrong "bridge wants one node, or nothing: bridge n3"
                return
            fi
            local beside=()
            for name in "${nodes[@]}"; do
                if [ "$name" != "$middle" ]; then beside+=("$name"); fi
            done
            joined "${beside[@]:0:count/2}" "$middle"
            joined "$middle" "${beside[@]:count/2}"
            ;;
        ring)
            [ $# = 1 ] || { wrong "ring wants nothing more"; return; }
            for ((at = 0; at < count; at++)); do
                joined "${nodes[at]}" "${nodes[(at + 1) % count]}"
            done
            ;;
    esac
}

# partition_groups ARGUMENT...: the groups of a partition, one a line; nodes that are in none are one more group.
partition_groups() {
    local group names members name all
    local rest=()
    case ${1-} in
        '') wrong "partition wants groups (n1,n2 n3,n4,n5) or a shape (halves, isolate n1, bridge n3, ring)"; return ;;
        halves | isolate | bridge | ring) members=$(shape_groups "$@") || return ;;
        *)
            members=
            for group in "$@"; do
                if [ "$group" = rest ]; then continue; fi
                names=$(set_nodes "$group") || { wrong "a partition takes groups of these, or halves, isolate, bridge, ring, one-way"; return; }
                members+=${names//$'\n'/,}$'\n'
            done
            ;;
    esac
    all=",$(tr '\n' ',' <<<"$members"),"
    for name in "${nodes[@]}"; do
        if [[ $all != *",$name,"* ]]; then rest+=("$name"); fi
    done
    sed '/^$/d' <<<"$members"
    if [ "${#rest[@]}" -gt 0 ]; then joined "${rest[@]}"; fi
}

# cuts_of_groups GROUP...: `FROM TO` for each two nodes that share no group.
cuts_of_groups() {
    local from to group apart
    for from in "${nodes[@]}"; do
        for to in "${nodes[@]}"; do
            apart=1
            for group in "$@"; do
                if [[ ,$group, == *",$from,"* && ,$group, == *",$to,"* ]]; then apart=; fi
            done
            if [ -n "$apart" ] && [ "$from" != "$to" ]; then printf '%s %s\n' "$from" "$to"; fi
        done
    done
}

# cuts_one_way FROM TO: `from to` for each of these nodes.
cuts_one_way() {
    local from to senders receivers
    [ $# = 2 ] || { wrong "a one-way cut wants two sets: who is not heard any more, and by whom"; return; }
    senders=$(set_nodes "$1") && receivers=$(set_nodes "$2") || return
    for from in $senders; do
        for to in $receivers; do
            if [ "$from" != "$to" ]; then printf '%s %s\n' "$from" "$to"; fi
        done
    done
}

# cuts_of_partition ARGUMENT...: all that a partition cuts, `FROM TO` a line: what FROM sends does not reach TO.
cuts_of_partition() {
    local groups
    if [ "${1-}" = one-way ]; then
        shift
        cuts_one_way "$@"
        return
    fi
    groups=$(partition_groups "$@") || return
    # Groups hold no spaces.
    # shellcheck disable=SC2086
    cuts_of_groups $groups
}
