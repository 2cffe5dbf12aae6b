# Sourced by test.sh: installs Chromium for tests/e2e/test_report_browser.py where that is one
# command (Debian, as root). Elsewhere those tests are skipped, and say so.

_install_chromium() {
    if command -v chromium chromium-browser google-chrome >/dev/null; then return; fi
    if [ "$(id -u)" != 0 ] || ! grep -qsx 'ID=debian' /etc/os-release; then return; fi
    echo "installing chromium (for the report's tests)" >&2
    export DEBIAN_FRONTEND=noninteractive
    if ! { timeout 120 apt-get update && timeout 600 apt-get install -y --no-install-recommends \
        chromium; } >/dev/null 2>&1; then
        echo "chromium could not be installed; the report's tests in a browser are skipped" >&2
    fi
}

(_install_chromium) </dev/null
