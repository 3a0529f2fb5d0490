#!/usr/bin/env bash
# Checks what building and the lab need, and with the argument `tests` what the tests need as well;
# installs what is missing on Debian and Ubuntu, says how elsewhere.
set -euo pipefail

sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"

missing=()
# Whose recommendations nobody needs here.
lean=()
# want PROGRAM PACKAGE...: the packages are missing when the program is.
want() {
    local program=$1
    shift
    command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || missing+=("$@")
}

want cc gcc libc6-dev
want c++ g++
want make make
if [ "${1:-}" = tests ]; then
    # The real programs that the tests set up in their namespaces: routers, a TURN server, the website that
    # the disguise hides behind, and proxies on the way to it.
    want nft nftables
    want iptables iptables
    want conntrack conntrack
    want miniupnpd miniupnpd miniupnpd-nftables
    want turnserver coturn
    want nginx nginx-light
    want openssl openssl
    want curl curl
    want dig bind9-dnsutils
    # Others' servers for names, which want port 53 of the whole host.
    want dnsmasq dnsmasq-base
    want unbound unbound
    want ping iputils-ping
    # An IRC client, and the judge of accessible pages.
    want irssi irssi
    want ip iproute2
    want setpriv util-linux
    # The first process of a boot.
    want systemctl systemd
    want microsocks microsocks
    want tinyproxy tinyproxy
    # Wrong clocks, and those who watch: dissectors, and a browser to be compared with. Ubuntu has no package of it.
    want faketime faketime
    want tshark tshark
    want ndpiReader libndpi-bin
    if grep -qs '^ID=debian' /etc/os-release; then want chromium chromium; fi
    # A stock WireGuard client.
    command -v wireguard-go >/dev/null || lean+=(wireguard-go)
    # Its recommendations are compilers.
    command -v pip3 >/dev/null || lean+=(python3-pip)
    command -v wg-quick >/dev/null || lean+=(wireguard-tools)
    want sysctl procps
    # BoringSSL, for the browser's ClientHello.
    want cmake cmake
    want clang clang libclang-dev
fi
if [ $((${#missing[@]} + ${#lean[@]})) -gt 0 ]; then
    if command -v apt-get >/dev/null; then
        echo "installing: ${missing[*]} ${lean[*]}"
        $sudo apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${lean[@]}" >/dev/null
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "${missing[@]}" >/dev/null
        # Some packages start a service at once; nobody asked for one that serves this machine.
        for service in miniupnpd coturn nginx tinyproxy unbound; do
            case " ${missing[*]} " in
            *" $service "* | *" $service-light "*)
                $sudo systemctl disable --now "$service" >/dev/null 2>&1 ||
                    $sudo service "$service" stop >/dev/null 2>&1 || true
                ;;
            esac
        done
    else
        echo "missing: ${missing[*]} ${lean[*]}; install them with your package manager and try again" >&2
        exit 1
    fi
fi

# The real resolvconf(8), but not installed: this machine's names are none of the tests' business.
if [ "${1:-}" = tests ] && [ ! -x target/openresolv/sbin/resolvconf ] && command -v apt-get >/dev/null; then
    mkdir -p target/openresolv
    # Lists of packages may be missing where nothing else was.
    apt-cache show openresolv >/dev/null 2>&1 || $sudo apt-get update -qq
    (cd target/openresolv && apt-get download -qq openresolv && dpkg -x openresolv_*.deb . && rm openresolv_*.deb)
fi

# Other people's firewalls, not installed either: some of them exclude each other.
if [ "${1:-}" = tests ] && [ ! -x target/others/usr/sbin/ufw ] && command -v apt-get >/dev/null; then
    mkdir -p target/others/debs/partial
    apt-cache show ufw >/dev/null 2>&1 || $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends --download-only -o Dir::Cache::archives="$PWD/target/others/debs" firewalld dbus >/dev/null
    (
        cd target/others
        (cd debs && apt-get download -qq ufw netfilter-persistent iptables-persistent)
        for package in debs/*.deb; do dpkg -x "$package" .; done
        rm -rf debs
        mkdir -p etc usr var
        # On merged systems /lib is a link.
        if [ -d lib ]; then cp -a lib usr/ && rm -r lib; fi
        # The system's own interpreter, whatever is first on the PATH.
        sed -i '1s|^#!.*python3$|#!/usr/bin/python3|' usr/sbin/ufw
    )
fi

# axe, by which the chat's page is judged.
if [ "${1:-}" = tests ] && [ ! -f target/axe/axe.min.js ] && command -v pip3 >/dev/null; then
    mkdir -p target/axe
    pip3 download --quiet --no-deps --dest target/axe axe-core-python==0.1.0 >/dev/null 2>&1 &&
        python3 -c 'import sys, zipfile; f = zipfile.ZipFile(sys.argv[1]); n = next(n for n in f.namelist() if n.endswith("axe.min.js")); open("target/axe/axe.min.js", "wb").write(f.read(n))' target/axe/*.whl ||
        echo "note: axe is not to be had: the chat's page is not judged by it" >&2
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
