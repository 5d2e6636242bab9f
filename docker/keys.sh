#!/bin/sh
# Write the keys of compose.yaml as files into a folder: those that the environment gives, and by chance those that are
# missing there and in the folder. Nothing is printed but where each one comes from.
set -eu
folder=$1
umask 022 # the folder is a volume that only those services see that need a key; each has a user of its own

store() { # NAME VALUE WHENCE
    printf '%s' "$2" > "$folder/.$1"
    mv "$folder/.$1" "$folder/$1"
    echo "$1: $3"
}

keep() { # NAME VALUE PREFIX
    if [ -n "$2" ]; then
        store "$1" "$2" "as given"
    elif [ -s "$folder/$1" ]; then
        echo "$1: kept"
    else
        store "$1" "$3$(head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n')" "made"
    fi
}

keep gateway_key "${GATEWAY_KEY:-}" gw-
keep grafana_password "${GRAFANA_PASSWORD:-}" ""
store hf_token "${HF_TOKEN:-}" "$([ -n "${HF_TOKEN:-}" ] && echo "as given" || echo none)"
