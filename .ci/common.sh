# What the scripts share: a Vulkan adapter where there is none. Sourced, not run.

# As root when we are, through sudo when there is one.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        echo "this needs root: $*" >&2
        return 1
    fi
}

# Debian and its family: install packages that are not there yet.
install() {
    missing=""
    for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"; done
    [ -z "$missing" ] && return 0
    # shellcheck disable=SC2086 # a list of words
    as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

# A graphics driver to talk to: macOS and Windows bring one. On Linux any Vulkan driver will do; where there is none,
# Mesa's lavapipe runs on the CPU.
adapter() {
    # lavapipe complains without it.
    export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$(mktemp -d)}"
    [ "$(uname)" = Linux ] || return 0
    for driver in /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json ${VK_DRIVER_FILES:+"$VK_DRIVER_FILES"}; do
        [ -e "$driver" ] && /sbin/ldconfig -p | grep libvulkan.so.1 >/dev/null && return 0
    done
    if command -v apt-get >/dev/null; then
        echo "no Vulkan driver found: installing Mesa's, which also runs without a GPU" >&2
        install mesa-vulkan-drivers libvulkan1
    else
        echo "no Vulkan driver found. Install your GPU's, or Mesa's lavapipe, which runs on the CPU:" >&2
        echo "  Fedora: dnf install mesa-vulkan-drivers    Arch: pacman -S vulkan-swrast    Alpine: apk add mesa-vulkan-swrast" >&2
        return 1
    fi
}
