"""Unpack an archive in a clean process and generate one report with only its contents.

    python -m export.verify model_store/demo.mar docs/images/chest.jpg

The process runs in isolated mode (no PYTHONPATH, no working directory on the path), so a file that is missing
from the archive is missing here too. The check also fails if a library was imported that serving must not need.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from prelim.archive.mar import unpack_mar
from prelim.errors import ArchiveError
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

NOT_WHILE_SERVING = ("transformers", "torchvision", "timm", "open_clip", "peft", "onnx", "onnxscript", "matplotlib")
"""Libraries that a worker must not import, because they add seconds to every start."""

_PROGRAM = """
import sys
from pathlib import Path
folder, image, forbidden = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(",")
sys.path.insert(0, str(folder))
import report_handler
from prelim.report_generator import ReportGenerator, ReportRequest
generator = ReportGenerator.load(folder)
(report,) = generator.generate([ReportRequest(image=image.read_bytes())])
if isinstance(report, Exception):
    sys.exit(f"{type(report).__name__}: {report}")
if generator.config.served_encoder.runtime != "openvino":
    forbidden.append("openvino")
imported = [name for name in forbidden if name in sys.modules]
if imported:
    sys.exit(f"serving imported {', '.join(imported)}")
ours = [module for name, module in sys.modules.items() if name.startswith("prelim")]
outside = [module for module in ours if not module.__file__.startswith(str(folder))]
if outside:
    sys.exit(f"{outside[0].__file__} came from outside the archive")
print(f"{generator.config.name} {generator.config.version}, sha256 {generator.sha256}")
print(f"{report.status}: {report.text}")
"""


def verify(archive: Path, image: Path) -> str:
    """The report that the archive's own code generates for the image. Exits with its message on an error."""
    if not image.is_file():
        sys.exit(f"{image} is not a file")
    with tempfile.TemporaryDirectory() as folder:
        try:
            unpack_mar(archive, Path(folder))
        except ArchiveError as error:
            sys.exit(f"{error}")
        command = [sys.executable, "-I", "-c", _PROGRAM, folder, str(image.resolve()), ",".join(NOT_WHILE_SERVING)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{archive} does not work: {done.stderr.strip()[-2000:]}")
    return done.stdout


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("image", type=Path, help="DICOM, PNG, JPEG, WebP or TIFF file")
    arguments = parser.parse_args()
    with sign_of_life(f"verifying {arguments.archive}"):
        report = verify(arguments.archive, arguments.image)
    print(report, end="")


if __name__ == "__main__":
    main()
