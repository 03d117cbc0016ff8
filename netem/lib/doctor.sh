# shellcheck shell=bash
# Says what this host lacks. What the kernel can do is tried in a network namespace of its own, which ends with the try.

doctor_bad=0
good() { printf 'ok      %s\n' "$*"; }
bad() {
    printf 'MISSING %s\n' "$*"
    doctor_bad=1
}

# tried WHAT HELP SCRIPT: whether the script succeeds in a new namespace.
tried() {
    local message
    if message=$(unshare --net bash -ec "$3" 2>&1); then
        good "$1"
    else
        message=$(head -1 <<<"$message")
        bad "$1: ${message%.}. $2"
    fi
}

doctor_kernel() {
    local tree="tc qdisc add dev lo root handle $root_handle: htb
        tc class add dev lo parent $root_handle: classid $root_handle:01 htb rate 10gbit quantum 60000
        tc qdisc add dev lo parent $root_handle:01 handle d201: tbf rate 1gbit burst 2000 limit 10000000"
    local modules="on Debian part of the kernel's package, on Fedora and its relatives of kernel-modules-extra"
    tried 'htb and tbf (shaping by peer)' "Modules sch_htb, sch_tbf: $modules" "$tree"
    tried 'netem' "Module sch_netem: $modules" "$tree
        tc qdisc add dev lo parent d201:1 handle d301: netem delay 10ms loss 1% rate 1mbit"
    # Where netem itself lacks, nothing is known of its tables.
    if unshare --net tc qdisc add dev lo root netem delay 10ms 2>/dev/null; then
        tried 'tables of distributions' 'They come with iproute2' "tc qdisc add dev lo root netem delay 10ms 1ms distribution normal"
    fi
    tried 'filters by address and port' "Module cls_u32: $modules" "$tree
        tc filter add dev lo parent $root_handle: protocol ip prio 10 u32 match ip dst 10.0.0.1/32 flowid $root_handle:01"
    tried 'shaping on arrival (--direction in, both)' "Modules ifb, sch_ingress, act_mirred: $modules" "ip link add $ifb_device type ifb
        ip link set $ifb_device up; ip link set lo up; tc qdisc add dev lo handle ffff: ingress
        tc filter add dev lo parent ffff: protocol ip prio 7403 u32 match ip src 10.0.0.1/32 action mirred egress redirect dev $ifb_device"
    if unshare --net nft add table inet "$nft_table" 2>/dev/null; then
        good 'cuts by nftables'
    else
        tried 'cuts by tc, since nftables lacks here' "Install nftables, or module act_gact" "tc qdisc add dev lo handle ffff: ingress
            tc filter add dev lo parent ffff: protocol ip prio 7401 u32 match ip src 10.0.0.1/32 action drop"
    fi
}

doctor_place() {
    local device kind mtu said
    notes_read
    if ! find_cluster; then
        bad 'a cluster file that can be read'
        return
    fi
    find_place || { bad 'a place in the cluster'; return; }
    good "this host is $self; the others are reached by ${devices[*]}"
    for device in "${devices[@]}"; do
        root_kind "$device"
        case $kind in
            foreign*) bad "a free root qdisc on $device: it has ${kind#foreign }" ;;
            *) good "$device has a root qdisc that may be replaced ($kind)" ;;
        esac
        ask_qdiscs "$device"
        if [[ $said == *'qdisc mq '* ]]; then printf 'note    %s has several queues, which become one while links are shaped\n' "$device"; fi
        arrival_kind "$device"
        if [ "$kind" = foreign ]; then bad "a free ingress qdisc on $device (for --direction in, both, and cuts by tc)"; fi
        mtu=$(ip -o link show dev "$device" | sed -n 's/.* mtu \([0-9]*\).*/\1/p')
        if [ "${mtu:-0}" -gt 1500 ]; then printf 'note    %s has an MTU of %s: datagrams over 1950 bytes are dropped while links are shaped (net.mtu_max)\n' "$device" "$mtu"; fi
    done
}

doctor() {
    local program
    [ "${#arguments[@]}" = 0 ] || { wrong "nothing may follow doctor"; return; }
    for program in tc ip awk flock setsid unshare; do
        if command -v "$program" >/dev/null; then good "$program"; else bad "$program (packages iproute2, util-linux)"; fi
    done
    if [ "$(id -u)" = 0 ]; then
        good 'root'
        doctor_kernel
    else
        bad 'root: the kernel was not tried'
    fi
    doctor_place
    [ "$doctor_bad" = 0 ] || failed "not all is here"
}
