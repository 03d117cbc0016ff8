# shellcheck shell=bash
# The vocabulary of netem: words of links, profiles, regions, clusters, groups, scenarios. Pure: reads files, prints, and
# changes nothing outside its own variables. What it says is described in netem/README.md; netem/test/*.tsv are its examples.
#
# Every function prints its result on standard output. On wrong input it says on standard error what is wrong and what to
# write instead, and returns 2.

vocabulary_home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
profiles_file=${NETEM_PROFILES:-$vocabulary_home/profiles.tsv}
regions_file=${NETEM_REGIONS:-$vocabulary_home/regions.tsv}

# What segments large sends on real hosts passes no more than this.
rate_max_bit=1000000000

wrong() {
    printf 'netem: %s\n' "$*" >&2
    return 2
}

is_percent() { [[ $1 =~ ^([0-9]{1,2}(\.[0-9]+)?|100(\.0+)?)%$ ]]; }
is_zero() { [[ $1 =~ ^0+(\.0+)?% ]]; }
is_time() { [[ $1 =~ ^[0-9]{1,7}(\.[0-9]+)?(s|ms|us)$ ]]; }
is_rate() { [[ $1 =~ ^[0-9]{1,10}(\.[0-9]+)?(bit|kbit|mbit|gbit)$ ]]; }

# Bits per second of a rate.
# Sets `bits`. Without awk: a process for each link would take longer than all the rest.
rate_bits() {
    local whole part unit=${1##*[0-9.]} scale
    whole=${1%%[a-z]*}
    case $whole in
        *.*) part=${whole#*.}000 ;;
        *) part=000 ;;
    esac
    case $unit in
        bit) scale=1 ;;
        kbit) scale=1000 ;;
        mbit) scale=1000000 ;;
        gbit) scale=1000000000 ;;
    esac
    bits=$(((10#${whole%%.*} * 1000 + 10#${part:0:3}) * scale / 1000))
}

# The words of a link that begin with one word: how many of the arguments belong to it. Sets `taken` to them.
take_numbers() {
    local check=$1 most=$2
    shift 2
    taken=()
    while [ "${#taken[@]}" -lt "$most" ] && [ $# -gt 0 ] && "$check" "$1"; do
        taken+=("$1")
        shift
    done
}

words_delay() {
    take_numbers is_time 2 "$@"
    [ "${#taken[@]}" -gt 0 ] || { wrong "delay wants a time with a unit, such as 'delay 40ms' or 'delay 40ms 5ms', not '${1-}'"; return; }
    local times=("${taken[@]}")
    shift "${#times[@]}"
    if [ $# -gt 0 ] && is_percent "$1"; then
        [ "${#times[@]}" = 2 ] || { wrong "a correlation ($1) needs a jitter before it: delay ${times[0]} 5ms $1"; return; }
        taken=("${times[@]}" "$1")
    else
        taken=("${times[@]}")
    fi
}

words_loss() {
    local model=() most=1
    case ${1-} in
        random) shift; model=(random) ;;
        gemodel) shift; model=(gemodel); most=4 ;;
        state | ecn) wrong "'loss $1' is not understood: loss PERCENT, or loss gemodel P [R [1-H [1-K]]]"; return ;;
    esac
    take_numbers is_percent "$most" "$@"
    [ "${#taken[@]}" -gt 0 ] || { wrong "loss wants a percentage such as 'loss 1%', not '${1-}'"; return; }
    shift "${#taken[@]}"
    if [ "$most" = 1 ] && [ $# -gt 0 ] && is_percent "$1"; then
        wrong "a correlated loss ('${taken[0]} $1') loses far less than it says (20% 75% loses 0.08 %): for bursts write loss gemodel 1% 20%"
        return
    fi
    # Old versions of tc refuse a loss of 0 %.
    if [ "$most" = 1 ] && is_zero "${taken[0]}"; then
        kept=()
    else
        kept=(loss "${model[@]}" "${taken[@]}")
    fi
    taken=("${model[@]}" "${taken[@]}")
}

# duplicate and corrupt: one percentage.
words_share() {
    local word=$1
    shift
    take_numbers is_percent 1 "$@"
    [ "${#taken[@]}" = 1 ] || { wrong "$word wants a percentage such as '$word 1%', not '${1-}'"; return; }
    if [ $# -gt 1 ] && is_percent "$2"; then
        wrong "a correlation ($word $1 $2) makes the share far smaller than it says: leave $2 out"
        return
    fi
    if is_zero "$1"; then kept=(); else kept=("$word" "$1"); fi
}

words_reorder() {
    take_numbers is_percent 2 "$@"
    [ "${#taken[@]}" -gt 0 ] || { wrong "reorder wants a percentage such as 'reorder 25% 50%', not '${1-}'"; return; }
    shift "${#taken[@]}"
    if [ "${1-}" = gap ]; then
        [[ ${2-} =~ ^[1-9][0-9]{0,6}$ ]] || { wrong "gap wants a number of packets, not '${2-}'"; return; }
        taken+=(gap "$2")
    fi
}

words_rate() {
    taken=("${1-}")
    is_rate "${1-}" || { wrong "rate wants bits per second such as 20mbit (bit, kbit, mbit, gbit), not '${1-}'"; return; }
    local bits
    rate_bits "$1"
    if [ "$bits" -lt 1000 ] || [ "$bits" -gt "$rate_max_bit" ]; then wrong "rate $1 is not within 1kbit and 1gbit"; fi
}

words_one() {
    local word=$1
    shift
    taken=("${1-}")
    case $word in
        distribution)
            [[ ${1-} =~ ^(uniform|normal|pareto|paretonormal)$ ]] ||
                { wrong "distribution is uniform, normal, pareto or paretonormal, not '${1-}'"; return; }
            # What the kernel does by itself, and tc has no table of that name.
            if [ "$1" = uniform ]; then kept=(); fi
            ;;
        limit) [[ ${1-} =~ ^[1-9][0-9]{0,6}$ ]] || wrong "limit wants a number of packets, not '${1-}'" ;;
        *) wrong "'$word' is not a word of a link: delay, distribution, loss, duplicate, corrupt, reorder, rate, limit (slot, ecn and seed of tc-netem are not understood)" ;;
    esac
}

# words_check WORD...: the words of one way of a link in the order that tc takes, without those that do nothing.
words_check() {
    local -A seen=()
    local word taken=() kept=() out=() jitter=
    [ $# -gt 0 ] || { wrong "a link needs words, such as: delay 40ms loss 1%"; return; }
    while [ $# -gt 0 ]; do
        word=$1
        shift
        [ -z "${seen[$word]-}" ] || { wrong "'$word' is there twice"; return; }
        seen[$word]=1
        kept=(unset)
        case $word in
            delay) words_delay "$@" || return; [ "${#taken[@]}" -lt 2 ] || jitter=1 ;;
            loss) words_loss "$@" || return ;;
            duplicate | corrupt) words_share "$word" "$@" || return ;;
            reorder) words_reorder "$@" || return ;;
            rate) words_rate "$@" || return ;;
            *) words_one "$word" "$@" || return ;;
        esac
        if [ "${kept[0]-}" = unset ]; then kept=("$word" "${taken[@]}"); fi
        shift "${#taken[@]}"
        out+=("${kept[@]}")
    done
    if [ -n "${seen[distribution]-}" ] && [ -z "$jitter" ]; then
        wrong "distribution needs a jitter: delay 40ms 5ms distribution normal"
    elif [ -n "${seen[reorder]-}" ] && [ -z "${seen[delay]-}" ]; then
        wrong "reorder needs a delay, which the packets that are not reordered get"
    else
        printf '%s\n' "${out[*]}"
    fi
}

# rows FILE: a table's rows without comments and empty lines.
rows() {
    [ -r "$1" ] || { wrong "$1 cannot be read"; return; }
    sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' "$1"
}

profile_names() { rows "$profiles_file" | cut -f1; }

# profile_words NAME: the words of a profile, checked.
profile_words() {
    local name words _
    while IFS=$'\t' read -r name words _; do
        if [ "$name" = "$1" ]; then
            # Words are separated by spaces.
            # shellcheck disable=SC2086
            words_check $words
            return
        fi
    done < <(rows "$profiles_file")
    wrong "there is no profile '$1': $(profile_names | tr '\n' ' ')"
}

# spec_words SPEC...: the words of `[profile] NAME`, of words of a link, or nothing for `none`.
spec_words() {
    case ${1-} in
        none)
            [ $# = 1 ] || { wrong "nothing may follow 'none'"; return; }
            ;;
        profile)
            [ $# = 2 ] || { wrong "profile wants one name: $(profile_names | tr '\n' ' ')"; return; }
            profile_words "$2"
            ;;
        delay | distribution | loss | duplicate | corrupt | reorder | rate | limit | '') words_check "$@" ;;
        *)
            [ $# = 1 ] || { words_check "$@"; return; }
            profile_words "$1"
            ;;
    esac
}

# region_words A B: the words of one way from region A to region B.
region_words() {
    rows "$regions_file" | awk -F'\t' -v from="$1" -v to="$2" '
        NR == 1 { for (i = 2; i <= NF; i++) if ($i == to) column = i; next }
        $1 == from { found = 1; if (column) printf "delay %sms limit 20000\n", $column / 2 }
        END { exit !(found && column) }' || wrong "no round trip is known from region '$1' to region '$2': see $regions_file"
}
