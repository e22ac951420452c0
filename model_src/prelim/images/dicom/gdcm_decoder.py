"""Decodes one JPEG-LS codestream by gdcm, which may abort the process: only for a process that may be lost."""

from __future__ import annotations

import gdcm  # type: ignore[import-untyped]  # SWIG has no stubs
import numpy as np


def decode_by_gdcm(stream: bytes, syntax: str, shape: tuple[int, int], *, bits_allocated: int) -> np.ndarray:
    """Samples, (rows, columns) of `bits_allocated` bits, unsigned.

    gdcm would mask what is above the bits stored, also values that lossy coding made, so it gets no such limit.

    Raises ValueError if gdcm returns another number of bytes. On some damaged codestreams gdcm 3.2 throws where
    nothing can catch it, and aborts.
    """
    rows, columns = shape
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement()
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2"))
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, bits_allocated, bits_allocated, bits_allocated - 1))
    # SWIG hands the bytes over as text.
    samples = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), dtype=f"u{bits_allocated // 8}")
    return samples.reshape(rows, columns)
