#!/bin/sh
# Installs what `make test-pacs` needs, from Debian's archive; does nothing where it is installed.
set -eu
if command -v npm >/dev/null && [ ! -d build/fhir/node_modules/fhir ]; then
    npm install --silent --no-audit --no-fund --prefix build/fhir fhir@4.12.0 ||
        echo "the FHIR validator could not be installed: its tests are skipped" >&2
fi
plugin=/usr/share/orthanc/plugins/libOrthancDicomWeb.so
if command -v Orthanc >/dev/null && command -v storescu >/dev/null && command -v dciodvfy >/dev/null && [ -e "$plugin" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "Orthanc, its DICOMweb plugin, dcmtk and dicom3tools are not installed, and this is not Debian: the tests are skipped" >&2
    exit 0
fi
root=
[ "$(id -u)" = 0 ] || root="sudo -n"
if ! { $root apt-get update -qq && $root apt-get install -qq -y --no-install-recommends orthanc orthanc-dicomweb dcmtk dicom3tools; } >/dev/null
then
    echo "orthanc, orthanc-dicomweb, dcmtk and dicom3tools could not be installed: the tests are skipped" >&2
fi
# Debian starts the service, which would listen on all interfaces; the tests start their own.
if command -v systemctl >/dev/null; then
    $root systemctl disable --now orthanc >/dev/null 2>&1 || true
fi
