#!/bin/sh
# Installs what `make test-pacs` needs; does nothing where it is installed.
set -eu
if command -v npm >/dev/null && [ ! -d build/fhir/node_modules/fhir ]; then
    npm install --silent --no-audit --no-fund --prefix build/fhir fhir@4.12.0 ||
        echo "the FHIR validator could not be installed: its tests are skipped" >&2
fi
plugin=/usr/share/orthanc/plugins/libOrthancDicomWeb.so
exec "$(dirname "$0")/install_debian.sh" \
    "/usr/sbin/Orthanc $plugin /usr/bin/storescu /usr/bin/dciodvfy /usr/bin/DicomSRValidator" \
    "orthanc orthanc-dicomweb dcmtk dicom3tools libpixelmed-java pixelmed-apps"
