# shellcheck shell=bash
# What this host has: who it is in the cluster, its devices, what is on them already and whose that is. Changes nothing.

# What is ours is known by these, also when the notes below are lost.
root_handle=d1a0
ifb_device=dmnetem0
nft_table=dynamomini_netem
# Priorities of our filters where packets arrive: cuts and shaping, IPv4 and IPv6.
declare -A cut_pref=([4]=7401 [6]=7402)
declare -A shape_pref=([4]=7403 [6]=7404)

# Devices by which others are reached; the peers of each, and their addresses by `DEVICE PEER`. The ifb has all of them.
devices=()
declare -A peers_at=()
declare -A addresses_at=()

# What tc says of each device, asked once.
declare -A qdiscs_of=()

# Whether what is there now will have been taken away by the first part of the plan.
assume_clear=

# Where notes are kept of what was asked for. It is empty after a restart of the host, as are qdiscs and tables.
state_home=${NETEM_STATE:-/run/dynamomini-netem}

failed() {
    printf 'netem: %s\n' "$*" >&2
    return 1
}

# find_self: the node of the cluster whose address this host has.
find_self() {
    local name address found=() own
    own=$(ip -o addr show | awk '{ sub("/.*", "", $4); print $4 }')
    for name in "${nodes[@]}"; do
        for address in ${addresses_of[$name]}; do
            if [[ $'\n'$own$'\n' == *$'\n'"$address"$'\n'* ]]; then
                found+=("$name")
                break
            fi
        done
    done
    case ${#found[@]} in
        1) printf '%s\n' "${found[0]}" ;;
        0) failed "no node of the cluster file has an address of this host: name it with --self" ;;
        *) failed "this host has addresses of ${found[*]}: say which one it is with --self" ;;
    esac
}

# device_to ADDRESS: sets `device` to the one by which this host sends there; to nothing if there is no way.
device_to() {
    local route
    device=
    route=$(ip -o route get "$1" 2>/dev/null) || return 0
    if [[ $route == local* ]]; then
        device=lo
    elif [[ $route =~ \ dev\ ([^ ]+) ]]; then
        device=${BASH_REMATCH[1]}
    fi
}

# reached PEER ADDRESS DEVICE: takes down that it is.
reached() {
    local at
    if [ -z "${peers_at[$3]-}" ]; then devices+=("$3"); fi
    for at in "$3" "$ifb_device"; do
        if [[ " ${peers_at[$at]-} " != *" $1 "* ]]; then peers_at[$at]="${peers_at[$at]-} $1"; fi
        addresses_at["$at $1"]="${addresses_at["$at $1"]-} $2"
    done
}

# find_devices: by which devices the others are reached.
find_devices() {
    local name address device
    devices=() peers_at=() addresses_at=()
    for name in "${nodes[@]}"; do
        if [ "$name" = "$self" ]; then continue; fi
        for address in ${addresses_of[$name]}; do
            device=$device_wanted
            if [ -z "$device" ]; then device_to "$address"; fi
            case $device in
                '') printf 'netem: note: no way leads to %s of %s from here; it is left out\n' "$address" "$name" >&2 ;;
                lo)
                    failed "$address of $name is an address of this host, which is $self: is the cluster file right?"
                    return
                    ;;
                *) reached "$name" "$address" "$device" ;;
            esac
        done
    done
    [ "${#devices[@]}" -gt 0 ] || failed "no way leads to any other node from here"
}

# ask_qdiscs DEVICE: sets `said` to what tc says of it.
ask_qdiscs() {
    if [ -z "${qdiscs_of[$1]+asked}" ]; then qdiscs_of[$1]=$(tc qdisc show dev "$1"); fi
    said=${qdiscs_of[$1]}
}

# root_kind DEVICE: sets `kind` to ours, foreign (somebody made it), default (the kernel made it), none.
root_kind() {
    local said
    ask_qdiscs "$1"
    kind=none
    if [[ $said =~ qdisc\ ([a-z0-9_]+)\ ([0-9a-f]+:)\ (dev\ [^ ]+\ )?root ]]; then
        case "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}" in
            "htb $root_handle:") kind=ours ;;
            *" 0:") kind=default ;;
            *) kind="foreign ${BASH_REMATCH[1]} ${BASH_REMATCH[2]}" ;;
        esac
    fi
    if [ "$kind" = ours ] && [ -n "$assume_clear" ]; then kind=none; fi
}

# arrival_kind DEVICE: sets `kind` to who owns what sees packets arrive: ours, foreign, none.
arrival_kind() {
    local said prefs
    ask_qdiscs "$1"
    kind=none
    if [[ $said == *"qdisc ingress "* ]]; then
        prefs=$(tc filter show dev "$1" parent ffff: | sed -n 's/.* pref \([0-9]*\) .*/\1/p' | sort -u)
        if [ -z "$prefs" ]; then
            kind=foreign
            # It was about to be made by us when something failed.
            if grep -qsx "$1" "$state_home/arrival"; then kind=ours; fi
        elif grep -qvE '^740[1-4]$' <<<"$prefs"; then
            kind=foreign
        else
            kind=ours
        fi
    elif [[ $said == *"qdisc clsact "* ]]; then
        # What it does with packets that leave would be lost with it.
        kind=foreign
    fi
    if [ "$kind" = ours ] && [ -n "$assume_clear" ]; then kind=none; fi
}

has_ifb() { ip -o link show dev "$ifb_device" >/dev/null 2>&1; }

# cut_backend: how what must not arrive is dropped: nft, or tc where the kernel or the host lacks that.
cut_backend() {
    case ${NETEM_CUT-} in
        nft | tc) printf '%s\n' "$NETEM_CUT" ;;
        '') if nft list tables inet >/dev/null 2>&1; then printf 'nft\n'; else printf 'tc\n'; fi ;;
        *) wrong "NETEM_CUT is nft or tc, not '$NETEM_CUT'" ;;
    esac
}

has_nft_table() { nft list table inet "$nft_table" >/dev/null 2>&1; }

# all_devices: every device there is, but the ifb.
all_devices() {
    ip -o link show | sed -n -e "/^[0-9]*: ${ifb_device}[:@]/d" -e 's/^[0-9]*: \([^:@]*\)[:@].*/\1/p'
}
