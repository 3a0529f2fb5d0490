#!/usr/bin/env bash
# Checks what building and testing need; installs what is missing on Debian and Ubuntu, says how elsewhere.
set -euo pipefail

sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"

missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v c++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
# The NAT routers of the tests.
command -v nft >/dev/null || [ -x /usr/sbin/nft ] || missing+=(nftables)
command -v miniupnpd >/dev/null || [ -x /usr/sbin/miniupnpd ] || missing+=(miniupnpd miniupnpd-nftables)
if ! command -v turnserver >/dev/null; then missing+=(coturn); fi
# The website that the disguise's tests hide behind.
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
command -v openssl >/dev/null || missing+=(openssl)
command -v microsocks >/dev/null || missing+=(microsocks)
command -v tinyproxy >/dev/null || missing+=(tinyproxy)
command -v conntrack >/dev/null || [ -x /usr/sbin/conntrack ] || missing+=(conntrack)
if [ ${#missing[@]} -gt 0 ]; then
    if command -v apt-get >/dev/null; then
        echo "installing: ${missing[*]}"
        $sudo apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "${missing[@]}" >/dev/null
        # The tests run their own, in namespaces; nobody asked for one that serves this machine.
        case " ${missing[*]} " in *" coturn "*) $sudo systemctl disable --now coturn >/dev/null 2>&1 || true ;; esac
        case " ${missing[*]} " in *" nginx-light "*) $sudo systemctl disable --now nginx >/dev/null 2>&1 || true ;; esac
        case " ${missing[*]} " in *" tinyproxy "*) $sudo systemctl disable --now tinyproxy >/dev/null 2>&1 || true ;; esac
    else
        echo "missing: ${missing[*]}; install them with your package manager and try again" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    if command -v apt-get >/dev/null && $sudo apt-get update -qq && $sudo apt-get install -y -qq rustup >/dev/null 2>&1; then
        rustup default stable
    else
        echo "missing: Rust 1.95 or newer; get it with rustup (its page says how), then try again" >&2
        exit 1
    fi
fi

need=1.95
have=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n' "$need" "$have" | sort -V | head -n1)" != "$need" ]; then
    echo "Rust $have is too old: AegisRay needs $need or newer (\`rustup update stable\`)" >&2
    exit 1
fi

if [ ! -e /dev/net/tun ]; then
    $sudo modprobe tun 2>/dev/null || echo "note: /dev/net/tun is missing; \`modprobe tun\` makes it (lab and end-to-end tests need it)" >&2
fi
