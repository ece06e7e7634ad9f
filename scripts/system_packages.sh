#!/bin/sh
# Installs what pip cannot: Pango and HarfBuzz, which WeasyPrint needs to write PDF reports, and a font for
# reports in Chinese. With the argument "tests": the programs that tests run against; a test whose program is
# missing is skipped, so what cannot be installed is left out without a word.
set -eu

if [ "${1:-}" = tests ]; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq >/dev/null 2>&1 || true
        for package in orthanc orthanc-dicomweb dcmtk dicom3tools postgresql chromium; do
            dpkg -s "$package" >/dev/null 2>&1 ||
                DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$package" \
                    >/dev/null 2>&1 || true
        done
    fi
    exit 0
fi

packages="libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0 fontconfig fonts-wqy-zenhei"
missing=""
for library in libpango-1.0.so.0 libpangoft2-1.0.so.0 libharfbuzz-subset.so.0; do
    ldconfig -p 2>/dev/null | grep -q "$library" || missing="$missing $library"
done
[ -n "$(fc-list :lang=zh 2>/dev/null)" ] || missing="$missing font-for-Chinese"
# Reports in Chinese need a font with its characters; without one they are made, with boxes for them.
if command -v fc-list >/dev/null && [ -z "$(fc-list :lang=zh)" ] && [ "$(id -u)" = 0 ]; then
    apt-get install -qq -y fonts-wqy-zenhei >/dev/null 2>&1 || echo "No font for Chinese reports." >&2
fi
[ -z "$missing" ] && exit 0

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y $packages >/dev/null
else
    echo "Missing for PDF reports:$missing. As root: apt-get install $packages" >&2
fi
