"""The grammar of headings, as a table: report, then what of it is findings and what is impression. All is made up."""

import time
from pathlib import Path

import pytest

from tests.training.datasets.test_source import write_pairs
from training.datasets.sections import split_sections
from training.datasets.source import Source, read_source

CASES: dict[str, tuple[str, str | None, str | None]] = {
    # Known names, however they are written.
    "colon": ("FINDINGS:\nNo fish.\nIMPRESSION: Normal.", "No fish.", "Normal."),
    "space before the colon": ("FINDINGS : No fish.\nCONCLUSION :  Normal.", "No fish.", "Normal."),
    "lower case": ("findings: no fish.\nimpression: normal.", "no fish.", "normal."),
    "title case in one line": ("Findings: No fish. Impression: Normal.", "No fish.", "Normal."),
    "capitals in one line": ("HISTORY: x FINDINGS: No fish. IMPRESSION: Normal.", "No fish.", "Normal."),
    "no space at all": ("FINDINGS:No fish.IMPRESSION:Normal.", "No fish.", "Normal."),
    "line of its own": ("HISTORY: x\n\nFINDINGS\n\nNo fish.\n\nIMPRESSION\n\n1. Normal.", "No fish.", "1. Normal."),
    "line of its own, one with a colon": ("FINDINGS:\nNo fish.\nIMPRESSION\nNormal.", "No fish.", "Normal."),
    "title case on its own line": ("Findings\nNo fish.\nImpression\nNormal.", "No fish.", "Normal."),
    "dash": ("FINDINGS - no fish\nIMPRESSION - normal", "no fish", "normal"),
    "long dash": ("Findings – no fish\nImpression — normal", "no fish", "normal"),
    "no mark": ("FINDINGS No fish seen. IMPRESSION Normal.", "No fish seen.", "Normal."),
    "gap": ("FINDINGS  no fish.\nIMPRESSION\tnormal.", "no fish.", "normal."),
    "brackets": ("[FINDINGS] no fish [IMPRESSION] normal", "no fish", "normal"),
    "angle brackets": ("<FINDINGS> no fish\n<IMPRESSION> normal", "no fish", "normal"),
    "bold": ("**FINDINGS:** no fish\n**IMPRESSION:** normal", "no fish", "normal"),
    "bold, colon outside": ("**Findings**: no fish\n**Impression**: normal", "no fish", "normal"),
    "underlined": ("__Findings__: no fish\n__Impression__: normal", "no fish", "normal"),
    "Markdown headings": ("## Findings\nno fish\n\n### Impression:\nnormal", "no fish", "normal"),
    "list": ("- Findings: no fish\n- Impression: normal", "no fish", "normal"),
    "numbered": ("1. FINDINGS: no fish\n2. IMPRESSION: normal", "no fish", "normal"),
    "results": ("HISTORY: x\nRESULTS: No fish.\nIMPRESSION: Normal.", "No fish.", "Normal."),
    "result": ("Result: No fish.\nConclusion: Normal.", "No fish.", "Normal."),
    "observations": ("OBSERVATIONS:\nNo fish.\nIMP: Normal.", "No fish.", "Normal."),
    "radiographic observations": ("RADIOGRAPHIC OBSERVATIONS: No fish.\nOPINION: Normal.", "No fish.", "Normal."),
    "key findings": ("Clinical context: x\nKey findings: No fish.\nFinal diagnosis: Normal.", "No fish.", "Normal."),
    "comments": ("CLINICAL NOTES: x\nCOMMENT: No fish swims here.", "No fish swims here.", None),
    "periods": ("Findings.\nNo fish.\nImpression.\nNormal.", "No fish.", "Normal."),
    "laboratory results": ("FINDINGS: No fish.\nLab results: x", "No fish.\nLab results: x", None),
    "organ after a comparison": (
        "FINDINGS:\nLUNGS: No fish.\nCOMPARISON: None.\nHEART: Small.\nIMPRESSION: Normal.",
        "LUNGS: No fish.\nHEART: Small.",
        "Normal.",
    ),
    "signature with a degree": ("FINDINGS: No fish.\nIMPRESSION: Normal.\nJane Doe, MD", "No fish.", "Normal."),
    "British signature": ("FINDINGS: No fish.\nDr J Smith MBBS FRCR\nGMC 123", "No fish.", None),
    "remark in parentheses": ("FINDINGS (LIMITED STUDY): no fish\nIMPRESSION(S): normal", "no fish", "normal"),
    "both": ("FINDINGS AND IMPRESSION: No change.", "No change.", None),
    "both, slash": ("FINDINGS/IMPRESSION:\nNo change.", "No change.", None),
    "with a plan": ("FINDINGS: No fish.\nIMPRESSION AND RECOMMENDATIONS: Normal.", "No fish.", "Normal."),
    "Windows line ends": ("FINDINGS:\r\nNo fish.\r\nIMPRESSION\r\nNormal.", "No fish.", "Normal."),
    # Words that only look like headings.
    "other findings": (
        "FINDINGS: No fish.\nOTHER FINDINGS: sand.\nIMPRESSION: ok",
        "No fish.\nOTHER FINDINGS: sand.",
        "ok",
    ),
    "organs": ("FINDINGS:\nLUNGS: clear.\nHEART: small.\nIMPRESSION: ok", "LUNGS: clear.\nHEART: small.", "ok"),
    "end of a wrapped line": (
        "FINDINGS: NO ACUTE\nFINDINGS\nARE SEEN.\nIMPRESSION: OK",
        "NO ACUTE\nFINDINGS\nARE SEEN.",
        "OK",
    ),
    "in a sentence": (
        "FINDINGS: These findings - new - are here.\nIMPRESSION: ok",
        "These findings - new - are here.",
        "ok",
    ),
    "time": (
        "FINDINGS: No fish.\nIMPRESSION: Told at\n9:18 A.M. by phone.",
        "No fish.",
        "Told at\n9:18 A.M. by phone.",
    ),
    # Names of the examination.
    "title with a time": ("AP CHEST, 5:23 A.M., ___\n\n HISTORY: x\n\n IMPRESSION: ok.", None, "ok."),
    "title with another time": ("PORTABLE CHEST, 11:05 HOURS\n\nCOMPARISON: x\n\nIMPRESSION: ok.", None, "ok."),
    "title with a date": ("CHEST 1 VIEW : 1/1/2001\n \nCOMPARISON: None.\n \nIMPRESSION: \n1.Clear.", None, "1.Clear."),
    "title, then text": (
        "Radiographic examination of the chest: 1/1/2001\nNo fish here.\nACCESSION NUMBER:\n5",
        "No fish here.",
        None,
    ),
    "title and text": ("PA AND LATERAL VIEWS, CHEST: No fish.\n\nIMPRESSION: Normal.", "No fish.", "Normal."),
    "title, text after it": ("CHEST, TWO VIEWS: 1/2/2000\nFINDINGS: Clear.", "Clear.", None),
    "earlier examination": ("COMPARISON:\nCHEST RADIOGRAPH ___\n\nFINDINGS: Clear.", "Clear.", None),
    "Spanish title": ("RADIOGRAFÍA DE TÓRAX PA Y LATERAL:\nSin peces.\nCONCLUSIÓN: normal", "Sin peces.", "normal"),
    # Findings without a heading.
    "after the comparison": ("CHEST RADIOGRAPH\n\nCOMPARISON: None.\n\nNo fish is seen.", "No fish is seen.", None),
    "between comparison and impression": (
        "COMPARISON: None.\n\nNo fish is seen.\n\nIMPRESSION: ok",
        "No fish is seen.",
        "ok",
    ),
    "after the reason": (
        "SINGLE VIEW OF THE CHEST\n\nREASON FOR EXAM: x.\n\nNo fish is seen.",
        "No fish is seen.",
        None,
    ),
    "before everything": ("The lungs have no fish.\n\nIMPRESSION: ok", "The lungs have no fish.", "ok"),
    "organs alone": (
        "TECHNIQUE: AP.\nLUNGS: clear.\nHEART: small.\nIMPRESSION: ok",
        "LUNGS: clear.\nHEART: small.",
        "ok",
    ),
    "report": ("STUDY: CHEST\n\nREPORT:\n\nNo fish is seen.\n\nCONCLUSION: ok", "No fish is seen.", "ok"),
    "reason in two paragraphs": ("HISTORY: x\n\nPlease look for fish.\n\nIMPRESSION: ok", None, "ok"),
    "parts that have no name here": (
        "EXAM: x\n\nLUNGS: Clear.\nODD PLACE: A fish.\nUPPER ABDOMEN: Sand.\nIMPRESSION: ok",
        "LUNGS: Clear.\nODD PLACE: A fish.\nUPPER ABDOMEN: Sand.",
        "ok",
    ),
    "parts by letters": (
        "TECHNIQUE: AP\nAIRWAY: x.\nBREATHING: y.\nCIRCULATION: z.",
        "AIRWAY: x.\nBREATHING: y.\nCIRCULATION: z.",
        None,
    ),
    "comparison in a line": ("FINDINGS: Clear. COMPARISON: none. A fish.\nIMPRESSION: ok", "Clear.\nA fish.", "ok"),
    "views first": ("FINDINGS:\nViews: PA and lateral.\nNo fish.\nIMPRESSION: ok", "No fish.", "ok"),
    "study limited": ("FINDINGS: Clear.\nStudy: limited.\nA fish.\nIMPRESSION: ok", "Clear.\nA fish.", "ok"),
    "technique in a line": ("FINDINGS: PA view. Technique: digital. A fish.", "PA view.\nA fish.", None),
    "comparison at the end": ("FINDINGS: Clear.\nCOMPARISON: 1/1.", "Clear.", None),
    "diagnosis at the end": ("DESCRIPTION: No fish here.\nDIAGNOSIS: Normal.", "No fish here.", "Normal."),
    "diagnosis first": ("DIAGNOSIS: cough\nFINDINGS: Clear.", "Clear.", None),
    "summary in words": ("FINDINGS: Clear.\nSUMMARY: Normal chest.", "Clear.", "Normal chest."),
    "numbered diagnosis": ("FINDINGS: Clear.\nDIAGNOSIS: 1. Normal chest.", "Clear.", "1. Normal chest."),
    "reading": ("Clinical info: x\nReading:\nNo fish.\nConclusion:\nok", "No fish.", "ok"),
    "colon and dash": ("FINDINGS: No fish.\nImp:- Normal.", "No fish.", "Normal."),
    # Findings in the line or the lines after the last heading before them.
    "line after the comparison": (
        "COMPARISON: None.\nThe lungs are clear.\nIMPRESSION: ok",
        "The lungs are clear.",
        "ok",
    ),
    "line after the technique": (
        "TECHNIQUE: PA\nNo effusion.\nThe heart is big.",
        "No effusion.\nThe heart is big.",
        None,
    ),
    "line after the reason": ("INDICATION: Cough.\nThe lungs are clear.\nIMPRESSION: ok", "The lungs are clear.", "ok"),
    "line after a note": ("NOTE: rotated.\nThe lungs are clear.\nIMPRESSION: ok", "The lungs are clear.", "ok"),
    "paragraph after the reason": (
        "INDICATION: Cough.\n\nPA view. The lungs are clear.\n\nIMPRESSION: ok",
        "PA view. The lungs are clear.",
        "ok",
    ),
    "sentence after the comparison": (
        "COMPARISON: None. The lungs are clear. IMPRESSION: ok",
        "The lungs are clear.",
        "ok",
    ),
    "sentence and paragraph": (
        "COMPARISON: None. The lungs are clear.\n\nA fish.\n\nIMPRESSION: ok",
        "The lungs are clear.\n\nA fish.",
        "ok",
    ),
    "code after the findings": ("HISTORY: x\n\nA fish swims.\n\nCODE: 7", "A fish swims.", None),
    "question about the image": ("HISTORY: x\nPlease check that the lungs are clear.\nIMPRESSION: ok", None, "ok"),
    "earlier examinations": ("COMPARISON: CT of 1/1. Radiograph of 2/2.\nIMPRESSION: ok", None, "ok"),
    "aside in its line": ("FINDINGS:\nViews: PA. A fish.\nSand.\nIMPRESSION: ok", "A fish.\nSand.", "ok"),
    "two asides": ("FINDINGS: A.\nCOMPARISON: none TECHNIQUE: PA. A fish.", "A.\nA fish.", None),
    "comparison in the impression": ("FINDINGS: A.\nIMPRESSION: B. Comparison: none. C.", "A.", "B.\nC."),
    # Kinds of findings, and of diagnoses.
    "significant findings": ("SIGNIFICANT FINDINGS: A fish.\nIMPRESSION: ok", "A fish.", "ok"),
    "pertinent findings": ("PERTINENT FINDINGS: A fish.\nIMPRESSION: ok", "A fish.", "ok"),
    "abnormal findings": ("ABNORMAL FINDINGS: A fish.\nIMPRESSION: ok", "A fish.", "ok"),
    "relevant findings": ("RELEVANT FINDINGS: A fish.\nIMPRESSION: ok", "A fish.", "ok"),
    "general findings": ("GENERAL FINDINGS: A fish.\nIMPRESSION: ok", "A fish.", "ok"),
    "findings summary": ("FINDINGS SUMMARY: A fish.\nIMPRESSION: ok", "A fish.", "ok"),
    "abnormal findings inside": (
        "FINDINGS: Sand.\nABNORMAL FINDINGS: None.\nIMPRESSION: ok",
        "Sand.\nABNORMAL FINDINGS: None.",
        "ok",
    ),
    "differential diagnosis": ("FINDINGS: A.\nDIFFERENTIAL DIAGNOSIS: B.\nIMPRESSION: C.", "A.", "C."),
    "differential diagnosis, no impression": ("FINDINGS: A.\nDIFFERENTIAL DIAGNOSIS: B.", "A.", None),
    "differential diagnosis in the impression": (
        "FINDINGS: A.\nIMPRESSION: B.\nDIFFERENTIAL DIAGNOSIS: C.",
        "A.",
        "B.\nDIFFERENTIAL DIAGNOSIS: C.",
    ),
    # What is not about the image.
    "recommendation": ("IMPRESSION: ok.\n\nRECOMMENDATION(S):  Another film.", None, "ok."),
    "notification": ("IMPRESSION: ok.\n\nNOTIFICATION:  Dr. ___ was told.", None, "ok."),
    "signature": ("IMPRESSION: ok.\n\nDR. ___\n", None, "ok."),
    "signature in words": ("IMPRESSION: ok.\nElectronically signed by ___ on ___.", None, "ok."),
    "dictation": ("FINDINGS: No fish. Dictated by: ___", "No fish.", None),
    "codes": (
        "IMPRESSION: \n1.Clear.\nSUMMARY: 2-ABNORMAL\nACCESSION NUMBER:\n55555\nThis report has been anonymized. x",
        None,
        "1.Clear.",
    ),
    "notice alone": ("IMPRESSION: ok.\nThis report has been anonymized. All dates are offset.", None, "ok."),
    "review": ("IMPRESSION: ok.\nI have personally reviewed the images for this examination.", None, "ok."),
    "workstation": ("IMPRESSION: ok.\nWorkstation ID: RAD123\nRESIDENT: A\nATTENDING: B", None, "ok."),
    "code of a bill": ("IMPRESSION: ok.\nCPT code: 71046", None, "ok."),
    "signed electronically": ("IMPRESSION: ok.\nFinal report electronically signed by A", None, "ok."),
    "dictated": ("IMPRESSION: ok.\n\nReport dictated 1/1/2020 by A.", None, "ok."),
    "thanks": ("IMPRESSION: ok.\nThank you for referring this patient.", None, "ok."),
    "German greeting": ("Befund: ok.\nMit freundlichen Grüßen\nDr. med. Müller", "ok.", None),
    "end": ("FINDINGS: No fish. END OF REPORT.", "No fish.", None),
    "addendum without a colon": ("FINDINGS: No fish.\n\nADDENDUM  Told to ___.", "No fish.", None),
    "corrected report": (
        "FINAL ADDENDUM\nADDENDUM: Side.\n________\nFINAL REPORT\nFINDINGS: A.\n\nIMPRESSION: B.",
        "A.",
        "B.",
    ),
    "wet read": (
        "WET READ: ___ 9:59 PM\nA fish.\n______\nFINAL REPORT\nFINDINGS: None.\nIMPRESSION: B.",
        "None.",
        "B.",
    ),
    # Other languages, with accents, without, and decomposed.
    "Spanish": ("INDICACIÓN: tos\nHALLAZGOS: Sin peces.\nIMPRESIÓN: Normal.", "Sin peces.", "Normal."),
    "Spanish, decomposed": ("HALLAZGOS: Sin peces.\nIMPRESIO\u0301N: Normal.", "Sin peces.", "Normal."),
    "Spanish, no accents": ("MOTIVO: tos\nHALLAZGOS\nSin peces.\nCONCLUSION\nNormal.", "Sin peces.", "Normal."),
    "German": ("Fragestellung: Husten\nBefund: Kein Fisch.\nBeurteilung: Normal.", "Kein Fisch.", "Normal."),
    "German capitals": ("INDIKATION: x\nBEFUND\nKein Fisch.\nBEURTEILUNG\nNormal.", "Kein Fisch.", "Normal."),
    "French": ("INDICATION : toux\nRÉSULTATS : Pas de poisson.\nCONCLUSION : normal", "Pas de poisson.", "normal"),
    "Portuguese": ("INDICAÇÃO: x\nACHADOS: Sem peixe.\nIMPRESSÃO DIAGNÓSTICA: Normal.", "Sem peixe.", "Normal."),
    "Italian": ("QUESITO: x\nREFERTO: Nessun pesce.\nCONCLUSIONI: normale", "Nessun pesce.", "normale"),
    "Dutch": ("INDICATIE: x\nVERSLAG: Geen vis.\nCONCLUSIE: normaal", "Geen vis.", "normaal"),
    "Russian": ("ОПИСАНИЕ: Рыбы нет.\nЗАКЛЮЧЕНИЕ: Норма.", "Рыбы нет.", "Норма."),
    "Chinese": ("检查所见：未见鱼。诊断意见：未见异常。", "未见鱼。", "未见异常。"),
    "Chinese, other words": ("影像表现：未见鱼。影像学诊断：未见异常。", "未见鱼。", "未见异常。"),
    "French total": ("RÉSULTAT: Pas de poisson.\nAU TOTAL: normal", "Pas de poisson.", "normal"),
    "Portuguese analysis": ("ANÁLISE: Sem peixe.\nOPINIÃO: Normal.", "Sem peixe.", "Normal."),
    "Italian question": ("QUESITO DIAGNOSTICO: x\nREFERTO: Nessun pesce.", "Nessun pesce.", None),
    "Turkish": ("BULGULAR: Balık yok.\nSONUÇ: Normal.", "Balık yok.", "Normal."),
}


@pytest.mark.parametrize(("report", "findings", "impression"), CASES.values(), ids=CASES)
def test_findings_and_impression_are_the_text_of_their_headings(
    report: str, findings: str | None, impression: str | None
) -> None:
    """Nothing else of a report is in them, and no heading."""
    sections = split_sections(report)
    assert (sections.get("findings"), sections.get("impression")) == (findings, impression)
    assert "report" not in sections


@pytest.mark.parametrize(
    "text",
    [
        "The heart is large. Lungs: clear.",
        "CT of the chest: a mass in the left lobe.",
        "Chest radiograph.",
        "MRI: a mass",
        "OTHER FINDINGS: sand",
        "There are no findings - none.",
        "Taken at 5:23 in the morning.",
    ],
)
def test_texts_without_headings_are_kept_whole(text: str) -> None:
    """Captions name the examination, too."""
    assert split_sections(text) == {"report": text}


def test_the_other_sections_have_their_names() -> None:
    """Prompts are built from indication and comparison."""
    report = "EXAM: CHEST (PA)\n\nHISTORY: cough\n\nCOMPARISON: ___.\n\nTECHNIQUE: AP\n\nCODE: 7\n\nFINDINGS: A"
    assert split_sections(report) == {
        "examination": "CHEST (PA)", "indication": "cough", "comparison": "___.", "technique": "AP", "code": "7",
        "findings": "A",
    }  # fmt: skip
    assert split_sections("A.\nIMPRESSION: B", "findings") == {"findings": "A.", "impression": "B"}


@pytest.mark.parametrize(
    ("field", "text", "target"),
    [
        ("findings", "COMPARISON: None. A fish. Sand.", "A fish. Sand."),
        ("findings", "comparison: none . a fish .", "a fish ."),
        ("findings", "Comparison: Jan. 5, 2010, 9 a.m. by Dr. X. A fish.", "A fish."),
        ("findings", "Comparison: None. 1. A fish.", "1. A fish."),
        ("findings", "Technique: PA and lateral. A fish.", "A fish."),
        ("findings", "Exam: chest PA. A fish.", "A fish."),
        ("findings", "Contrast: none. A fish.", "A fish."),
        ("findings", "Procedure: tube placed. A fish.", "A fish."),
        ("findings", "Date: 2010. A fish.", "A fish."),
        ("findings", "Comparison: none. Technique: PA. A fish.", "A fish."),
        ("findings", "检查方法：正位。双肺清晰。", "双肺清晰。"),
        ("findings", "Indication: cough.\nThe lungs are clear.", "The lungs are clear."),
        ("findings", "Technique: Single view.", None),
        ("findings", "Report: A fish.", "A fish."),
        ("findings", "A fish.\nComments: Sand.", "A fish.\nSand."),
        ("findings", "Diagnosis: A fish.", "A fish."),
        ("findings", "Significant findings: A fish.", "A fish."),
        ("impression", "Diagnosis: pneumonia.", "pneumonia."),
        ("impression", "Summary: pneumonia.", "pneumonia."),
        ("impression", "Diagnosis: 1. A. 2. B.", "1. A. 2. B."),
        ("findings", "Report: 2 fish.", "2 fish."),
        ("impression", "Report: pneumonia.", "pneumonia."),
        ("impression", "Normal.\nSUMMARY: 2-ABNORMAL", "Normal."),
        ("impression", "COMPARISON: None. No disease.", "No disease."),
        ("impression", "No disease. Comparison: 2010. Stable nodule.", "No disease.\nStable nodule."),
        ("impression", "1. A.\n2. Comparison: none.\n3. B.", "1. A.\n3. B."),
    ],
)
def test_a_field_keeps_what_follows_an_aside(field: str, text: str, target: str | None) -> None:
    """The value of an aside is its first sentence where the line continues."""
    assert split_sections(text, field).get(field) == target


@pytest.mark.parametrize(
    ("texts", "target"),
    [
        ({"report": "FINDINGS: A fish.\nACCESSION NUMBER: 5"}, "A fish."),
        ({"report": "INDICATION: cough.\nACCESSION NUMBER: 5"}, ""),
        ({"report": "INDICATION: cough.\nFINDINGS: Fish.", "findings": "XXXX"}, "Fish."),
        ({"findings": "FINDINGS: A fish.", "report": "FINDINGS: B."}, "A fish."),
        ({"findings": "Findings: A fish. Impression: Normal."}, "A fish. Normal."),
        ({"findings": "A fish.\nIMPRESSION: B", "impression": "Normal.\n\nDR. ___"}, "A fish. Normal."),
        ({"report": "One fish.\n1. Two."}, "One fish.\n1. Two."),
        ({"findings": "COMPARISON: None. A fish.", "impression": "Diagnosis: B."}, "A fish. B."),
        ({"report": "COMPARISON: None. The lungs are clear."}, "The lungs are clear."),
        ({"report": "Exam: chest PA. No effusion. Impression: ok."}, "No effusion. ok."),
    ],
)
def test_targets_of_a_data_set(tmp_path: Path, texts: dict[str, object], target: str) -> None:
    """Columns can have headings, too; a report with headings is never a target as a whole."""
    rows = [{"file": "a.png", "uid": "1", **texts}]
    source = Source("pairs", str(write_pairs(tmp_path, rows)))
    [study] = read_source(source)
    assert study.text(source.sections) == target


@pytest.mark.parametrize(
    "text",
    [
        "-" * 50000,
        "1/" * 30000,
        " " * 50000 + "x",
        "AP CHEST " * 9000 + "x",
        "(" * 50000,
        "NOTE: x. " + "no heart " * 9000,
        "NOTE: x.\nINDICATION: x\n" + ". " * 30000,
    ],
)
def test_odd_texts_take_no_time(text: str) -> None:
    """Seconds of the processor, not minutes: no pattern tries all ways to divide a text."""
    begin = time.process_time()
    split_sections(text)
    assert time.process_time() - begin < 20
