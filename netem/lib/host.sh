# shellcheck shell=bash
# What this host has: who it is in the cluster, its devices, what is on them already and whose that is. Changes nothing.

# What is ours is known by these, also when the notes below are lost.
root_handle=d1a0
ifb_device=dmnetem0
nft_table=dynamomini_netem
# Priorities of our filters where packets arrive: cuts and shaping, IPv4 and IPv6.
declare -A cut_pref=([4]=7401 [6]=7402)
declare -A shape_pref=([4]=7403 [6]=7404)
declare -A protocol_of=([4]=ip [6]=ipv6)
declare -A match_of=([4]=ip [6]=ip6)

# Devices by which others are reached, and which one for each `PEER ADDRESS`.
devices=()
declare -A device_of=()

# Where notes are kept of what was asked for. It is empty after a restart of the host, as are qdiscs and tables.
state_home=${NETEM_STATE:-/run/dynamomini-netem}

failed() {
    printf 'netem: %s\n' "$*" >&2
    return 1
}

# address_of_host ADDRESS: whether this host has it.
address_of_host() {
    ip -o addr show | awk -v wanted="$1" '{ sub("/.*", "", $4); if ($4 == wanted) found = 1 } END { exit !found }'
}

# find_self: the node of the cluster whose address this host has.
find_self() {
    local name address found=()
    for name in "${nodes[@]}"; do
        for address in ${addresses_of[$name]}; do
            if address_of_host "$address"; then
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

# device_to ADDRESS: the device by which this host sends there; nothing if there is no way.
device_to() {
    local route
    route=$(ip -o route get "$1" 2>/dev/null) || return 0
    case $route in
        local* | *" dev lo "*) printf 'lo\n' ;;
        *) sed -n 's/.* dev \([^ ]*\).*/\1/p' <<<"$route" ;;
    esac
}

# find_devices: fills `devices`, and `device_of` for each `PEER ADDRESS` that can be reached.
find_devices() {
    local name address device
    devices=()
    device_of=()
    for name in "${nodes[@]}"; do
        if [ "$name" = "$self" ]; then continue; fi
        for address in ${addresses_of[$name]}; do
            device=${device_wanted:-$(device_to "$address")}
            case $device in
                '')
                    printf 'netem: note: no way leads to %s of %s from here; it is left out\n' "$address" "$name" >&2
                    continue
                    ;;
                lo)
                    failed "$address of $name is an address of this host, which is $self: is the cluster file right?"
                    return
                    ;;
            esac
            device_of["$name $address"]=$device
            if [[ " ${devices[*]-} " != *" $device "* ]]; then devices+=("$device"); fi
        done
    done
    [ "${#devices[@]}" -gt 0 ] || failed "no way leads to any other node from here"
}

# qdiscs DEVICE
qdiscs() { tc qdisc show dev "$1"; }

# root_kind DEVICE: ours, foreign (somebody made it), default (the kernel made it), none.
root_kind() {
    local line
    line=$(qdiscs "$1" | awk '/ root / { print $2, $3; exit }')
    case $line in
        '') printf 'none\n' ;;
        "htb $root_handle:") if [ -n "$assume_clear" ]; then printf 'none\n'; else printf 'ours\n'; fi ;;
        *" 0:") printf 'default\n' ;;
        *) printf 'foreign %s\n' "$line" ;;
    esac
}

# arrival_kind DEVICE: who owns what sees packets arrive: ours, foreign, none.
arrival_kind() {
    local prefs
    if ! qdiscs "$1" | grep -qE '^qdisc (ingress|clsact) '; then
        printf 'none\n'
        return
    fi
    # Not of a clsact: what it does with packets that leave would be lost with it.
    if qdiscs "$1" | grep -q '^qdisc ingress '; then
        prefs=$(tc filter show dev "$1" parent ffff: | sed -n 's/.* pref \([0-9]*\) .*/\1/p' | sort -u)
        # Without filters it is ours if it was about to be made by us when something failed.
        if [ -z "$prefs" ] && ! grep -qsx "$1" "$state_home/arrival"; then
            printf 'foreign\n'
            return
        fi
        if ! grep -qvE '^(740[1-4])?$' <<<"$prefs"; then
            if [ -n "$assume_clear" ]; then printf 'none\n'; else printf 'ours\n'; fi
            return
        fi
    fi
    printf 'foreign\n'
}

has_ifb() { ip -o link show dev "$ifb_device" >/dev/null 2>&1; }

# How what must not arrive is dropped: nft, or tc where the kernel or the host lacks that.
cut_backend() {
    case ${NETEM_CUT-} in
        nft | tc) printf '%s\n' "$NETEM_CUT" ;;
        '') if nft list tables inet >/dev/null 2>&1; then printf 'nft\n'; else printf 'tc\n'; fi ;;
        *) wrong "NETEM_CUT is nft or tc, not '$NETEM_CUT'" ;;
    esac
}

has_nft_table() { nft list table inet "$nft_table" >/dev/null 2>&1; }

# own_devices: all devices that have something of ours, whatever the notes say.
own_devices() {
    local device
    while IFS= read -r device; do
        if [ "$(root_kind "$device")" = ours ] || [ "$(arrival_kind "$device")" = ours ]; then printf '%s\n' "$device"; fi
    done < <(ip -o link show | sed -n 's/^[0-9]*: \([^:@]*\)[:@].*/\1/p')
}
