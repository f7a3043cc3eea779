#!/usr/bin/env bash
# Copia de seguridad de varias carpetas, con rotación y verificación.
#
#   backup.sh -d DESTINO [-k CUANTAS] [-x PATRON] CARPETA...

set -euo pipefail

destination=""
keep=7
excludes=()
verbose=0

usage() {
  sed -n '2,4p' "$0" | sed 's/^# \{0,1\}//'
  exit 2
}

log() {
  if [ "$verbose" -eq 1 ]; then
    printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2
  fi
}

fail() {
  printf 'backup: %s\n' "$*" >&2
  exit 1
}

while getopts "d:k:x:vh" option; do
  case "$option" in
    d) destination=$OPTARG ;;
    k) keep=$OPTARG ;;
    x) excludes+=("--exclude=$OPTARG") ;;
    v) verbose=1 ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))

[ -n "$destination" ] || fail "no destination; give -d"
[ "$#" -gt 0 ] || fail "no folders to save"
case "$keep" in
  '' | *[!0-9]*) fail "-k needs a number, not '$keep'" ;;
esac

# Cada copia tiene la fecha y la hora en su nombre.
stamp=$(date +%Y%m%d-%H%M%S)
mkdir -p "$destination"
archive="$destination/backup-$stamp.tar.gz"
partial="$archive.partial"

# Si algo falla, no queda un archivo a medias.
trap 'rm -f "$partial"' EXIT

# Solo se guardan las carpetas que existen.
folders=()
for folder in "$@"; do
  if [ -d "$folder" ]; then
    folders+=("$folder")
  else
    log "skipping $folder: not a folder"
  fi
done
[ "${#folders[@]}" -gt 0 ] || fail "none of the folders exists"

log "writing $archive"
tar -czf "$partial" "${excludes[@]}" "${folders[@]}"

# La copia se verifica antes de darle su nombre definitivo.
gzip -t "$partial" || fail "the archive is damaged"
tar -tzf "$partial" >/dev/null || fail "the archive cannot be read"
mv "$partial" "$archive"
sha256sum "$archive" >"$archive.sha256"

# Se borran las copias más antiguas.
mapfile -t old < <(ls -1 "$destination"/backup-*.tar.gz | sort -r | tail -n +"$keep")
for file in "${old[@]}"; do
  log "removing $file"
  rm -f "$file" "$file.sha256"
done

size=$(du -h "$archive" | cut -f1)
printf '%s (%s)\n' "$archive" "$size"
