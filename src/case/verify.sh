#!/bin/sh
# Checks this case without impound: sha256sum, ssh-keygen, and what every POSIX system has. GNU or busybox, both do.
#
#   sh verify.sh [-s ALLOWED_SIGNERS] [-h COUNT:HASH] [CASE]
#
#   -s  keys that you trust (ssh-keygen(1), ALLOWED SIGNERS); everything must be signed by one of them. Without it the
#       case's own list is used, which whoever made the case wrote.
#   -h  a head of the custody log that you noted earlier; the log must contain it.
#
# Exit: 0 all sealed evidence is there, unchanged, complete, and nothing was added; 3 unchanged, and something was never
# complete or never sealed; 5 something is not as it was sealed; 2 it could not be checked.
#
# Who can change the case can change this copy too: take the script from a place you trust.

set -u
LC_ALL=C
export LC_ALL
signers='' expected=''
while getopts s:h: option; do
    case $option in
        s) signers=$OPTARG ;;
        h) expected=$OPTARG ;;
        *) echo "usage: verify.sh [-s ALLOWED_SIGNERS] [-h COUNT:HASH] [CASE]" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))

for tool in sha256sum find sed awk sort uniq cmp tr grep ls tail dirname mktemp rm; do
    command -v "$tool" >/dev/null || { echo "verify.sh needs $tool" >&2; exit 2; }
done
case $signers in ''|/*) ;; *) signers=$PWD/$signers ;; esac
[ -z "$signers" ] || [ -r "$signers" ] || { echo "cannot read the keys to trust" >&2; exit 2; }
cd -- "${1:-$(dirname -- "$0")}" || exit 2
case=$PWD
t=$(mktemp -d) || exit 2
trap 'rm -rf "$t"' EXIT
trap 'exit 2' HUP INT TERM
: >"$t/bad"
: >"$t/open"

# A message for each finding. Names are hostile: nothing but printable ASCII reaches the terminal.
say() { printf '%s\n' "$2" | tr -c '[:print:]\n' '?' | sed "s/^/$1: /"; }
bad() { say FAILED "$1"; echo x >>"$t/bad"; }
unfinished() { say unfinished "$1"; echo x >>"$t/open"; }
# Every line of standard input is a finding, with this behind it.
bad_lines() { while IFS= read -r found; do bad "$found$1"; done; }
# The lines of standard input that are not in the file.
not_in() { awk -v known="$1" 'BEGIN { while ((getline line < known) > 0) k[line] } !($0 in k)'; }
hash_of() { sha256sum <"$1" | sed 's/ .*//'; }
plain_file() { [ -f "$1" ] && [ ! -L "$1" ]; }

# --- names and kinds: what impound writes is plain, so all that is not was put there
check_names() {
    find . -name '*[!A-Za-z0-9._-]*' | bad_lines ': added: impound gives no such name'
    find . ! -type f ! -type d | bad_lines ': added: neither a file nor a folder'
    find . -type d | while IFS= read -r dir; do
        case $dir in ./exhibits|./journal|./exhibits/*/data) continue ;; esac
        [ -n "$(ls -A -- "$dir" 2>/dev/null)" ] || bad "$dir: added: an empty folder"
    done
}

# --- custody log: each line carries the hash of the one before; leaves "N HASH" of each line in $t/hashes
check_chain() {
    n=0 prev=0000000000000000000000000000000000000000000000000000000000000000
    : >"$t/hashes"
    plain_file custody.jsonl || { bad 'custody.jsonl: removed'; return; }
    # The shell drops zero bytes when it reads, so they would go unseen below.
    tr -d '\000' <custody.jsonl | cmp -s - custody.jsonl || bad 'custody.jsonl: has zero bytes in it'
    while IFS= read -r line; do
        n=$((n + 1))
        case $line in
            "{\"n\":$n,\"prev\":\"$prev\",\"time\":\""*) ;;
            "{\"n\":$n,"*) bad "custody.jsonl: event $((n - 1)) was altered: event $n was chained to another" ;;
            *) bad "custody.jsonl: line $n is not event $n: removed, added or reordered" ;;
        esac
        prev=$(printf '%s' "$line" | sha256sum | sed 's/ .*//')
        echo "$n $prev" >>"$t/hashes"
    done <custody.jsonl
    [ -z "$line" ] || bad 'custody.jsonl: ends in the middle of a line'
}

# The fields in front of all free text are in a fixed order and have no quotes in them, so sed reads what is there.
head='^{"n":[0-9]*,"prev":"[0-9a-f]*","time":"[0-9TZ:.-]*"'
name='\([A-Za-z0-9._/-]*\)'
hex='\([0-9a-f]\{64\}\)'
# SUBJECT DIGEST SIGNER of the last event of a kind for each subject
events() {
    sed -n "s|$head,\"event\":\"$1\",\"subject\":\"$name\",\"digest\":\"$hex\",\"signer\":\"\{0,1\}\([A-Za-z0-9:+/=]*\)\"\{0,1\},\"who\":\".*|\1 \2 \3|p" \
        custody.jsonl 2>/dev/null | awk '{ d[$1] = $0 } END { for (s in d) print d[s] }' | sort
}
subjects() {
    sed -n "s|$head,\"event\":\"$1\",\"subject\":\"$name\",.*|\1|p" custody.jsonl 2>/dev/null | sort -u
}

check_head() {
    plain_file custody.head || { bad 'custody.head: removed'; return; }
    printf '{"schema":"impound-head/1","count":%s,"hash":"%s"}\n' "$n" "$prev" | cmp -s - custody.head && return
    count=$(sed -n 's/^{"schema":"impound-head\/1","count":\([0-9]\{1,18\}\),"hash":"[0-9a-f]*"}$/\1/p' custody.head | sed 1q)
    if [ -z "$count" ]; then bad 'custody.head: is not impound-head/1'
    elif [ "$count" -gt "$n" ]; then bad "custody.jsonl: $n events, its head counts $count: the tail was cut off"
    elif [ "$count" -lt "$n" ]; then bad "custody.jsonl: $n events, its head counts $count: killed while adding, or added to"
    else bad "custody.head: not the head of event $n: altered or replaced"; fi
}

# FILE SIGNER: is FILE.sig a signature over FILE by a trusted key, and by the key that the log names?
check_signature() {
    if ! plain_file "$1.sig"; then
        if [ -n "$2" ]; then bad "$1: not signed, although $2 should have"
        elif [ -n "$signers" ]; then bad "$1: not signed"; fi
        return
    fi
    command -v ssh-keygen >/dev/null || { bad "$1: signature not checked: there is no ssh-keygen"; return; }
    said=$(ssh-keygen -Y check-novalidate -n impound -s "$1.sig" <"$1" 2>&1) || { bad "$1: the signature does not fit"; return; }
    by=$(printf '%s\n' "$said" | sed -n 's/.* \(SHA256:[A-Za-z0-9+/=]*\)$/\1/p' | sed 1q)
    [ -z "$2" ] || [ "$2" = "$by" ] || bad "$1: signed by $by, the log names $2"
    who=$(ssh-keygen -Y find-principals -s "$1.sig" -f "$trusted" 2>/dev/null | sed 1q)
    if [ -n "$who" ] && ssh-keygen -Y verify -f "$trusted" -I "$who" -n impound -s "$1.sig" <"$1" >/dev/null 2>&1
    then echo "signed: $1 by $who"
    else bad "$1: signed by $by, a key that is not trusted"; fi
}

check_kept() {
    events kept >"$t/kept"
    while read -r file digest _; do
        case /$file/ in */../*|*//*) bad "custody.jsonl: keeps a path that leads out"; continue ;; esac
        if ! plain_file "$file"; then bad "$file: removed"
        elif [ "$(hash_of "$file")" != "$digest" ]; then bad "$file: changed"; fi
    done <"$t/kept"
    grep -q '^  "schema": "impound-case/1",$' case.json 2>/dev/null || bad 'case.json: is not impound-case/1'
}

# Everything outside the exhibits is known to the log or one of the log's own files.
check_strays() {
    subjects run-begun >"$t/begun"
    subjects run-ended >"$t/ended"
    not_in "$t/ended" <"$t/begun" >"$t/runs"
    while read -r run; do unfinished "run $run began and did not end"; done <"$t/runs"
    {
        sed 's/ .*//' "$t/kept"
        sed 's|.*|journal/&.jsonl|p; s|\.jsonl$|.wire.jsonl|' "$t/runs"
        printf '%s\n' case.json custody.jsonl custody.head custody.head.sig
    } >"$t/known"
    find . -type f ! -path './exhibits/*' | sed 's|^\./||' | not_in "$t/known" | bad_lines ': added'
    find . -type d ! -path './exhibits/*' ! -path . ! -path ./exhibits ! -path ./journal | bad_lines ': added'
    find exhibits -type f ! -path 'exhibits/*/*' | bad_lines ': added'
}

# --- one exhibit: FOLDER NAME DIGEST SIGNER
check_manifest() {
    plain_file "$1" || { bad "$2/$1: removed"; return; }
    sed '/^[0-9a-f]\{64\}  [A-Za-z0-9._-][A-Za-z0-9._/-]*$/d' "$1" | sed "s|.*|$2/$1: a line that is none|" | bad_lines ''
    [ -z "$(tail -c 1 "$1")" ] || bad "$2/$1: cut off"
    sed 's/^[^ ]*  //' "$1" | sort | uniq -d | sed "s|^|$2/$1: listed twice: |" | bad_lines ''
    sed 's/^[^ ]*  //' "$1" | sed -n '\|^\.\.\{0,1\}/\|/\.\.\{0,1\}/\|/\.\.\{0,1\}$\|^\.\.$\|//|p' | bad_lines ': leads out of the bag'
    [ -s "$1" ] || return 0
    sha256sum -c "$1" 2>/dev/null | sed '/: OK$/d' | sed "s|^|$2/|" | bad_lines ' (changed or removed)'
}

check_bag() (
    cd -- "$1" || exit
    plain_file tagmanifest-sha256.txt && [ "$(hash_of tagmanifest-sha256.txt)" != "$3" ] &&
        bad "$1: not the exhibit that was sealed: its tag manifest is another than the log says"
    check_manifest tagmanifest-sha256.txt "$1"
    check_manifest manifest-sha256.txt "$1"
    {
        sed 's/^[^ ]*  //' tagmanifest-sha256.txt manifest-sha256.txt 2>/dev/null
        printf 'tagmanifest-sha256.txt%s\n' '' .sig .tsr
    } >"$t/listed"
    find . -type f | sed 's|^\./||' | not_in "$t/listed" | sed "s|^|$1/|" | bad_lines ': added'
    grep -q '^  "schema": "impound-exhibit/1",$' exhibit.json 2>/dev/null || bad "$1/exhibit.json: is not impound-exhibit/1"
    grep -q "^  \"name\": \"$2\",\$" exhibit.json 2>/dev/null || bad "$1/exhibit.json: is that of another exhibit"
    [ "$(sed -n 1p bagit.txt 2>/dev/null)" = 'BagIt-Version: 1.0' ] || bad "$1/bagit.txt: is not BagIt 1.0"
    # The log as it was at sealing must still be the beginning of the log.
    at=$(sed -n '/^  "custody": {$/,/^  }/{s/^    "count": \([0-9]*\),\{0,1\}$/\1/p;}' exhibit.json 2>/dev/null)
    was=$(sed -n '/^  "custody": {$/,/^  }/{s/^    "hash": "\([0-9a-f]*\)",\{0,1\}$/\1/p;}' exhibit.json 2>/dev/null)
    grep -q -x -F -- "$at $was" "$t/hashes" || bad "custody.jsonl: $1 was sealed after an event that is not in it: rolled back or replaced"
    check_signature tagmanifest-sha256.txt "$4"
    outcome=$(sed -n '/^  "outcome": {$/,/^  }/{s/^    "state": "\([a-z]*\)".*/\1/p;}' exhibit.json 2>/dev/null)
    [ "$outcome" = complete ] || unfinished "$1: ${outcome:-its outcome is not known}"
)

check_exhibits() {
    events sealed >"$t/sealed"
    while read -r exhibit digest key; do
        [ "$key" != null ] || key=''
        case $exhibit in */*|.*|-*) bad "custody.jsonl: seals a path that leads out"; continue ;; esac
        if [ -d "exhibits/$exhibit" ]; then check_bag "exhibits/$exhibit" "$exhibit" "$digest" "$key"
        elif [ -d "exhibits/$exhibit.partial" ]; then check_bag "exhibits/$exhibit.partial" "$exhibit" "$digest" "$key"
        else bad "exhibits/$exhibit: sealed by the log, and not there"; fi
    done <"$t/sealed"
    sed 's/ .*//' "$t/sealed" >"$t/names"
    for dir in exhibits/*; do
        exhibit=${dir#exhibits/}
        [ -d "$dir" ] && [ ! -L "$dir" ] || continue
        grep -q -x -F -- "$exhibit" "$t/names" && continue
        case $exhibit in
            *.partial) [ ! -d "exhibits/${exhibit%.partial}" ] && unfinished "$dir: a draft, never sealed or never named" && continue ;;
        esac
        bad "$dir: the custody log does not know it"
    done
}

[ -f case.json ] || [ -f custody.jsonl ] || [ -f custody.head ] || { echo "this is no case" >&2; exit 2; }
trusted=${signers:-$case/allowed_signers}
check_names
check_chain
check_head
if [ -n "$expected" ]; then
    grep -q -x -F -- "${expected%%:*} ${expected#*:}" "$t/hashes" || bad 'custody.jsonl: does not contain the expected head'
fi
signer=$(sed -n "s|$head,\"event\":\"[a-z-]*\",\"subject\":[^,]*,\"digest\":[^,]*,\"signer\":\"\([A-Za-z0-9:+/=]*\)\",\"who\":.*|\1|p" custody.jsonl 2>/dev/null | tail -n 1)
plain_file custody.head && check_signature custody.head "$signer"
check_kept
check_strays
check_exhibits
if [ -z "$signer" ]; then echo "note: nothing is signed: whoever could write here could have made all of it again"
elif [ -z "$signers" ]; then echo "note: checked against the keys that come with the case: give -s with keys you got elsewhere"; fi
[ ! -s "$t/bad" ] || exit 5
[ ! -s "$t/open" ] || exit 3
echo "all that was sealed is there, unchanged, complete, and nothing was added"
