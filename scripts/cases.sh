#!/usr/bin/env bash
# The faults that users of comparable programs have reported, tried on this one (November 2026): each with the tests that show what
# becomes of it here. Prints a line for each, and fails if one is not "ok". Runs what is built for the tests: an hour at most, ten
# minutes as a rule.
set -euo pipefail
cd "$(dirname "$0")/.."

# id | what was reported | suite: test, …; …
cases="
C17b | reloading nftables wipes the rules, nobody puts them back | exit: what_others_take_away_is_back
C10b | no kill switch while the program starts, or when it can't | exit: closed_whatever_is_missing, questions_are_no_answers
C33  | a DNS server can't start: port 53 is taken | exit: port_53_stays_free, names_without_nft
C17c | nft rules in a chain of iptables make it incompatible | exit: an_exit_is_a_good_guest, beside_ufw, beside_firewalld
C04  | secrets on the command line | e2e: joining_leaves_no_token_on_the_command_line
C06  | hosts with IPv6 off | exit: a_member_without_ipv6, a_host_without_ipv6
C05b | wrong time at boot | lib: a_wall_clock_is_no_counter; e2e: joining_names_the_clock
C12  | the accept loop ends when descriptors run out | exit: out_of_descriptors
C16  | a read-only /proc/sys in containers | exit: with_a_read_only_proc_sys
C14b | answers leave from the wrong one of two addresses | nat: answers_leave
C02  | half-written identities, tokens refused, names unquoted | e2e: joining_names_are_checked, joining_can_be_repeated, joining_on_a_full_disk, joining_takes_tokens
C34  | which ports a default node takes | exit: port_53_stays_free
C21  | resolv.conf: domain, encodings, fights over it | lib: what_else_is_in_a_resolv_conf_stays; exit: names_of_the_mesh, names_by_resolvconf
C20b | names that never get into DNS | lib: every_name_that_is_taken_resolves, what_members_may_be_called; e2e: joining_a_name_with_an_underscore
C07  | a kernel without IPv6 | exit: a_kernel_without_ipv6
C29  | settings that are silently wrong: exit: no | lib: words_that_mean_none_are_no_nodes; e2e: check_refuses_what_a_start_refuses
C03  | host.home became host-home | lib: hosts_names, what_a_host_is_called_is_a_name
C35  | a panic at a closed pipe | e2e: closed_pipes_end_commands_quietly
C11  | damaged state makes a new identity, or stops the start | lib: daemon::state::tests
C24  | paths whose MTU shrinks, black holes | e2e: narrow_path_is_no_black_hole, a_path_that_shrinks
C25  | odd packets and offloads | lib: wire::ip::tests, wire::coalesce::tests; e2e: offloads_off
C20  | truncation, TCP, NODATA and NXDOMAIN | exit: names_of_the_mesh; lib: names_and_addresses_both_ways
C26  | WireGuard clients' MTU, roaming | exit: stock_wireguard_clients
C18  | strict rp_filter and exits | exit: questions_are_no_answers
C19  | an exit's own subnet and address | exit: an_exit_is_a_good_guest, the_world_sees_the_exit
C17  | Docker drops forwarded packets | exit: other_rules_of_the_host_stay_as_they_are
C30  | boot before the network, addresses that change | e2e: triangle_interface_down, roaming_keeps; nat: a_node_follows_another_default_route
C09  | two daemons on a host | exit: two_daemons_on_one_host
C01  | oddities of YAML | lib: config::; e2e: wrong_configurations
"

# The programs of the tests, by suite.
build=$(cargo test --profile tested --no-run 2>&1) || { echo "$build" >&2; exit 1; }
program() {
    local of="tests/$1/main.rs"
    [ "$1" = lib ] && of=src/lib.rs
    sed -n "s|.*$of (\(.*\))$|\1|p" <<<"$build"
}

logs=$(mktemp -d)
failed=0
declare -A known
while IFS='|' read -r id what tests; do
    id=${id// /}
    [ -n "$id" ] || continue
    verdict=ok
    while read -r part; do
        [ -n "$part" ] || continue
        suite=${part%%:*}
        while read -r name; do
            key="$suite $name"
            if [ -z "${known[$key]:-}" ]; then
                log="$logs/$suite-${name//:/_}"
                # A name that is no test's is a fault of this list.
                if "$(program "$suite")" "$name" >"$log" 2>&1 && ! grep -qE '^test result: ok\. 0 passed' "$log"; then
                    known[$key]=ok
                else
                    known[$key]="FAILED: $suite $name, $log"
                fi
            fi
            [ "${known[$key]}" = ok ] || { verdict=${known[$key]}; failed=1; }
        done < <(tr ',' '\n' <<<"${part#*: }" | sed 's/^ *//; s/ *$//')
    done < <(tr ';' '\n' <<<"$tests" | sed 's/^ *//')
    printf '%-5s %-62s %s\n' "$id" "$(sed 's/^ *//; s/ *$//' <<<"$what")" "$verdict"
done <<<"$cases"
[ "$failed" = 0 ] && rm -r "$logs"
exit "$failed"
