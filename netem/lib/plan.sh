# shellcheck shell=bash
# What has to be done so that this host is as the notes want it: lines of commands, which `carry_out` runs or shows.
#
# Packets to a peer go through a class of their own under an htb that has no default class, so everything else, ssh among
# it, passes by untouched. In the class a tbf comes first: it takes large sends (GSO) apart, for netem would count each of
# them as one packet and lose ten datagrams at a time.

# Lines of a plan. A line that begins with `nft` is one argument after that, and one transaction.
plan=()
add() { plan+=("$*"); }

# peer_matches PEER ADDRESS out|in: sets `matches` to what packets of this link look like: to the other's ports, and from ours.
peer_matches() {
    local way=dst there=dport here=sport port match head family
    if [ "$3" = in ]; then way=src there=sport here=dport; fi
    family_of "$2"
    match=${match_of[$family]}
    head="match $match protocol 17 0xff match $match $way $2/${prefix_of[$family]} match $match"
    matches=()
    for port in ${ports_of[$1]}; do matches+=("$head $there $port 0xffff"); done
    for port in ${ports_of[$self]}; do matches+=("$head $here $port 0xffff"); done
}

# wanted_words out|in PEER: sets `words`.
wanted_words() { if [ "$1" = out ]; then words=${out_words[$2]-}; else words=${in_words[$2]-}; fi; }

# leaf_words out|in PEER: sets `words`. A link without words still has its class, so that giving it some touches no other link.
leaf_words() {
    wanted_words "$1" "$2"
    if [ -z "$words" ]; then words='delay 0ms limit 20000'; fi
}

# any_words out|in: whether any link of this direction is shaped.
any_words() {
    local name words
    for name in "${nodes[@]}"; do
        wanted_words "$1" "$name"
        if [ -n "$words" ]; then return 0; fi
    done
    return 1
}

# any_noted out|in: whether any was before.
any_noted() {
    local name
    for name in "${nodes[@]}"; do
        if [ -n "${noted["$1 $name"]-}" ]; then return 0; fi
    done
    return 1
}

# plan_tree DEVICE out|in: the whole tree of a device that has none.
plan_tree() {
    local device=$1 way=$2 name number address match matches family words
    add tc qdisc add dev "$device" root handle "$root_handle:" htb
    for name in ${peers_at[$device]}; do
        number=${number_of[$name]}
        leaf_words "$way" "$name"
        add tc class add dev "$device" parent "$root_handle:" classid "$root_handle:$number" htb rate 10gbit quantum 60000
        # A burst of 1600 would be rounded to less than a full frame.
        add tc qdisc add dev "$device" parent "$root_handle:$number" handle "d2$number:" tbf rate 1gbit burst 2000 limit 10000000
        add tc qdisc add dev "$device" parent "d2$number:1" handle "d3$number:" netem "$words"
        for address in ${addresses_at["$device $name"]}; do
            family_of "$address"
            peer_matches "$name" "$address" "$way"
            for match in "${matches[@]}"; do
                add tc filter add dev "$device" parent "$root_handle:" protocol "${protocol_of[$family]}" prio $((family + 6)) u32 "$match" flowid "$root_handle:$number"
            done
        done
    done
}

# plan_leaves DEVICE out|in: other words for links of a tree that is there. A new leaf takes the place of the old one: a
# leaf that is changed keeps its old rate and distribution where the new words have none.
plan_leaves() {
    local device=$1 way=$2 name number other words said
    ask_qdiscs "$device"
    for name in ${peers_at[$device]}; do
        wanted_words "$way" "$name"
        if [ "$words" = "${noted["$way $name"]-}" ]; then continue; fi
        leaf_words "$way" "$name"
        number=${number_of[$name]}
        other=d3
        if [[ $said == *"qdisc netem d3$number:"* ]]; then other=d4; fi
        add tc qdisc replace dev "$device" parent "d2$number:1" handle "$other$number:" netem "$words"
    done
}

# plan_shaping DEVICE out|in: whatever brings the device's tree to what is wanted.
plan_shaping() {
    local device=$1 way=$2 kind
    root_kind "$device"
    if ! any_words "$way"; then
        if [ "$kind" = ours ]; then add tc qdisc del dev "$device" root; fi
    elif [[ $kind == foreign* ]]; then
        failed "$device has a root qdisc that is not netem's (${kind#foreign }): take it away first (tc qdisc del dev $device root) or name another --device"
    elif [ "$kind" = ours ] && [ -n "$same_layout" ]; then
        plan_leaves "$device" "$way"
    else
        # Replacing a root htb is refused by the kernel.
        if [ "$kind" = ours ]; then add tc qdisc del dev "$device" root; fi
        plan_tree "$device" "$way"
    fi
}

# plan_arrival_filters DEVICE: drops for cuts where nft lacks, and the way into the ifb for what is shaped on arrival.
plan_arrival_filters() {
    local device=$1 name address match matches family shaped='' head
    if any_words in; then shaped=1; fi
    for name in ${peers_at[$device]}; do
        for address in ${addresses_at["$device $name"]}; do
            family_of "$address"
            peer_matches "$name" "$address" in
            head="tc filter add dev $device parent ffff: protocol ${protocol_of[$family]} prio"
            for match in "${matches[@]}"; do
                if [ "$backend" = tc ] && [ -n "${cuts["$name $self"]-}" ]; then
                    add "$head ${cut_pref[$family]} u32 $match action drop"
                fi
                if [ -n "$shaped" ]; then
                    add "$head ${shape_pref[$family]} u32 $match action mirred egress redirect dev $ifb_device"
                fi
            done
        done
    done
}

# plan_arrival DEVICE: what packets meet on arrival. Made anew when it changes, which takes some milliseconds.
plan_arrival() {
    local device=$1 kind wanted=
    arrival_kind "$device"
    if any_words in || cut_by_tc "$device"; then wanted=1; fi
    if [ -n "$wanted" ] && [ "$kind" = foreign ]; then
        failed "$device has an ingress or clsact qdisc that is not netem's: take it away first (tc qdisc del dev $device ingress)"
        return
    fi
    if [ "$kind" = ours ] && [ -n "$wanted" ] && [ -z "$arrival_changed" ]; then return; fi
    if [ "$kind" = ours ]; then add tc qdisc del dev "$device" ingress; fi
    if [ -n "$wanted" ]; then
        add tc qdisc add dev "$device" handle ffff: ingress
        plan_arrival_filters "$device"
    fi
}

plan_ifb() {
    if ! any_words in; then return 0; fi
    if [ -n "$assume_clear" ] || ! has_ifb; then
        add ip link add "$ifb_device" type ifb
        add ip link set "$ifb_device" up
        plan_tree "$ifb_device" in
    else
        plan_shaping "$ifb_device" in
    fi
}

any_cut_here() {
    local name
    for name in "${nodes[@]}"; do
        if [ -n "${cuts["$name $self"]-}" ]; then return 0; fi
    done
    return 1
}

# cut_by_tc DEVICE: whether somebody who is reached by it must not be heard, and tc has to see to that.
cut_by_tc() {
    local name
    if [ "$backend" = nft ]; then return 1; fi
    for name in ${peers_at[$1]}; do
        if [ -n "${cuts["$name $self"]-}" ]; then return 0; fi
    done
    return 1
}

# nft_rules: what this host must not hear. Dropped before anything else looks at it, and where its sender does not see it:
# a drop on the way out would give the sender an error that no real network gives.
nft_rules() {
    local name address family ports own
    own=${ports_of[$self]// /, }
    for name in "${nodes[@]}"; do
        if [ -z "${cuts["$name $self"]-}" ]; then continue; fi
        ports=${ports_of[$name]// /, }
        for address in ${addresses_of[$name]}; do
            family_of "$address"
            printf 'add rule inet %s arrive %s saddr %s udp dport { %s } counter drop; ' "$nft_table" "${match_of[$family]}" "$address" "$own"
            printf 'add rule inet %s arrive %s saddr %s udp sport { %s } counter drop; ' "$nft_table" "${match_of[$family]}" "$address" "$ports"
        done
    done
}

plan_nft() {
    if any_cut_here; then
        add "nft add table inet $nft_table; delete table inet $nft_table; add table inet $nft_table;" \
            "add chain inet $nft_table arrive { type filter hook prerouting priority -310; policy accept; };" "$(nft_rules)"
    elif [ -z "$assume_clear" ] && has_nft_table; then
        add "nft delete table inet $nft_table"
    fi
}

# changes_on_arrival: whether what is asked for on arrival differs from what is noted, other than in words.
changes_on_arrival() {
    local name before='' after=''
    if [ -z "$same_layout" ]; then return 0; fi
    if any_noted in; then before=1; fi
    if any_words in; then after=1; fi
    if [ "$before" != "$after" ]; then return 0; fi
    if [ "$backend" = nft ]; then return 1; fi
    for name in "${nodes[@]}"; do
        if [ "${cuts["$name $self"]-}" != "${noted["cut $name $self"]-}" ]; then return 0; fi
    done
    return 1
}

# make_plan: everything, for what is wanted.
make_plan() {
    local device
    plan=()
    assume_clear=
    if [ -z "$same_layout" ]; then
        # Another cluster file, another name, another device: what is there has another shape.
        plan_clear
        assume_clear=1
    fi
    arrival_changed=
    if changes_on_arrival; then arrival_changed=1; fi
    # Cuts of nft are one transaction, so they come first, at one moment.
    if [ "$backend" = nft ]; then plan_nft; fi
    plan_ifb || return
    for device in "${devices[@]}"; do
        plan_shaping "$device" out || return
        plan_arrival "$device" || return
    done
    if [ -z "$assume_clear" ] && ! any_words in && has_ifb; then add ip link del "$ifb_device"; fi
}

# plan_clear: takes away what is ours, whatever the notes say, and nothing else.
plan_clear() {
    local device kind
    plan=()
    assume_clear=
    qdiscs_of=()
    for device in $(all_devices); do
        root_kind "$device"
        if [ "$kind" = ours ]; then add tc qdisc del dev "$device" root; fi
        arrival_kind "$device"
        if [ "$kind" = ours ]; then add tc qdisc del dev "$device" ingress; fi
    done
    if has_ifb; then add ip link del "$ifb_device"; fi
    if has_nft_table; then add "nft delete table inet $nft_table"; fi
}

# show_plan: as commands that could be typed.
show_plan() {
    local line
    [ "${#plan[@]}" -gt 0 ] || printf '# nothing is to be done on this host\n'
    for line in "${plan[@]}"; do
        case $line in
            nft\ *) printf "nft '%s'\n" "${line#nft }" ;;
            *) printf '%s\n' "$line" ;;
        esac
    done
}

# run_tc LINE...: all of them by one tc, which stops at the first that fails and says which. (At the end of a scenario it
# runs in a trap, where a bare `return` gives the status of before the trap.)
run_tc() {
    local message line=$1
    message=$(printf '%s\n' "${@#tc }" | tc -batch - 2>&1) && return 0
    if [[ $message =~ Command\ failed\ -:([0-9]+) ]]; then line=${!BASH_REMATCH[1]}; fi
    failed "failed: $line: ${message//$'\n'/ }"
}

# carry_out: runs the plan, or shows it. Stops at the first command that fails.
carry_out() {
    local line batch=() command message
    if [ -n "$dry_run" ]; then
        show_plan
        return
    fi
    # What follows no line ends the last batch.
    for line in "${plan[@]}" ''; do
        if [[ $line == tc\ * ]]; then
            batch+=("$line")
            continue
        fi
        if [ "${#batch[@]}" -gt 0 ]; then run_tc "${batch[@]}" || return; fi
        batch=()
        case $line in
            '') continue ;;
            nft\ *) command=(nft "${line#nft }") ;;
            *) read -ra command <<<"$line" ;;
        esac
        message=$("${command[@]}" 2>&1) || { failed "failed: $line: ${message:-no message}"; return; }
    done
    qdiscs_of=()
}
