"""Decodes one JPEG Lossless codestream in a process of its own: gdcm aborts the process on damaged data.

Run by `dicom_pixels`: the codestream on standard input, raw samples in the machine's byte order on standard output.
    python gdcm_child.py ROWS COLUMNS BITS_ALLOCATED BITS_STORED SIGNED TRANSFER_SYNTAX
"""

import resource
import sys

import gdcm  # type: ignore[import-untyped]  # SWIG has no stubs

# gdcm and its buffers; what the pixels need comes on top, a few copies of them.
BASE_MEMORY = 2**30
COPIES = 8


def main() -> None:
    """Decode; any exit status but 0 means that the codestream is damaged."""
    rows, columns, allocated, stored, signed = (int(argument) for argument in sys.argv[1:6])
    limit = BASE_MEMORY + COPIES * rows * columns * allocated // 8
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # An abort must not write its memory, which holds the image, to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(sys.stdin.buffer.read())
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2"))
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(sys.argv[6])))
    image.SetPixelFormat(gdcm.PixelFormat(1, allocated, stored, stored - 1, signed))
    # SWIG hands the bytes over as text.
    sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    main()
