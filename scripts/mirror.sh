# shellcheck shell=sh
# Sourced by scripts/install and by the recipes of guests: where this machine gets Debian from.

# The mirror of Debian's own archive that apt is configured with, from a deb822 or a one-line source.
# Prints "URI keyring", the keyring empty where the source names none.
configured_mirror() {
    suite=$1
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk -v suite="$suite" '
        function flush() {
            if (uri != "" && index(" " suites " ", " " suite " ")) { print uri, key; found = 1; exit }
            uri = suites = key = ""
        }
        /^[ \t]*$/ { flush(); next }
        /^#/ { next }
        tolower($1) == "uris:" { uri = $2 }
        tolower($1) == "suites:" { $1 = ""; suites = $0 }
        tolower($1) == "signed-by:" { key = $2 }
        END { if (!found) flush() }'
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | awk -v suite="$suite" '
        $1 == "deb" {
            key = ""; at = 2
            if ($2 ~ /^\[/) {
                while (1) {
                    word = $at; gsub(/[][]/, "", word)
                    if (word ~ /^signed-by=/) { sub(/^signed-by=/, "", word); key = word }
                    if ($at ~ /\]$/ || at >= NF) break
                    at++
                }
                at++
            }
            if ($(at + 1) == suite) { print $at, key; exit }
        }'
}
