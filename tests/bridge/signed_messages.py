"""Signed reports as a RIS sends them."""

from collections.abc import Sequence

EFFUSION = "Small left pleural effusion. No pneumothorax."


def oru(
    *texts: str,
    status: str = "F",
    accession: str = "ACC-1",
    placer: str = "",
    study: str = "",
    at: str = "20260302113000+0000",
    header: Sequence[tuple[int, str]] = (),
    observation: str = "59776-5^Findings^LN",
) -> bytes:
    """Return an ORU^R01 with one OBX for each text; `header` has (number, value) of fields of MSH to replace."""
    msh = ["MSH", "^~\\&", "RIS", "H", "PRELIM", "", "20260302120000+0000", "", "ORU^R01^ORU_R01", "77", "P", "2.5.1"]
    for number, value in header:
        msh[number - 1] = value
    obr = ["OBR", "1", placer, accession, "36643-5^Chest^LN", *[""] * 17, at, "", "", status]
    lines = [msh, ["PID", "1", "", "P-4711^^^H", "", "Doe^Jane"], obr]
    lines += [
        ["OBX", str(number), "TX", observation, "", text, *[""] * 5, status]
        for number, text in enumerate(texts or (EFFUSION,), start=1)
    ]
    if study:
        lines.append(["OBX", "9", "ST", "113014^DICOM Study^DCM", "", study, *[""] * 5, status])
    return ("\r".join("|".join(fields) for fields in lines) + "\r").encode()
