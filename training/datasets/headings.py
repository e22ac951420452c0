"""What headings of radiology reports are called, and how they are written: `FINDINGS:`, `**Impression**`, `BEFUND`."""

import re
import unicodedata

TARGETS = ("findings", "impression")

DESCRIPTION = "description"
"""What is described without a heading of its own: it is `findings` if nothing else is."""

DIFFERENTIAL = "differential diagnosis"
"""A section of its own outside the impression, and text in it."""

CLOSING = "closing"
"""Signatures and other lines that end a report."""

NAMES: dict[str, tuple[str, ...]] = {
    "findings": (
        "FINDINGS?", "RESULTS?", "OBSERVATIONS?", "(?:FINDINGS|RESULTS|OBSERVATIONS) IN DETAIL", "BODY OF REPORT",
        "(?:CHEST|LUNG|RADIOGRAPHIC|RADIOLOGIC|RADIOLOGICAL|RADIOLOGY|IMAGING|IMAGE|EXAM|EXAMINATION|STUDY|CT|CXR|"
        "(?:CHEST )?X-? ?RAY|DETAILED|KEY|MAIN|MAJOR|PRINCIPAL|DIAGNOSTIC|POSITIVE) "
        "(?:FINDINGS?|OBSERVATIONS?|RESULTS?)",
        "(?:SIGNIFICANT|PERTINENT|ABNORMAL|RELEVANT|GENERAL) FINDINGS?", "FINDINGS? SUMMARY",
        "HALLAZGOS?", "HALLAZGOS RADIOLOGICOS", "DESCRIPCION", "BEFUNDE?", "ROENTGENBEFUND", "RONTGENBEFUND",
        "RESULTATS?", "CONSTATATIONS?", "ACHADOS(?: RADIOGRAFICOS)?", "RESULTADOS?", "DESCRICAO",
        "REPERTI", "REFERTO", "BEVINDINGEN", "VERSLAG", "FYND", "FUND", "BESKRIVELSE", "LOYDOKSET", "BULGULAR",
        "OPIS(?: BADANIA)?", "NALEZ", "ОПИСАНИЕ", "РЕЗУЛЬТАТЫ?", "ΕΥΡΗΜΑΤΑ", "影像所见", "影像所見",
        "检查所见", "檢查所見", "放射学所见", "影像表现", "影像学表现", "影像學表現", "放射学表现", "描述",
        "READING", "ANALISE", "所见", "所見", "소견", "판독소견", "MO TA",
    ),
    "impression": (
        "IMPRESSIONS?", "(?:FINAL|OVERALL|RADIOLOGICAL|RADIOLOGIC|RADIOGRAPHIC|DIAGNOSTIC) IMPRESSIONS?",
        "CONCLUSIONS?", "IMP", "(?:FINAL |RADIOLOGIST'?S? )?(?:INTERPRETATION|OPINION|ASSESSMENT)",
        "FINAL CONCLUSIONS?",
        "(?:RADIOLOGICAL|RADIOLOGIC|RADIOGRAPHIC|IMAGING|X-?RAY|FINAL) DIAGNOS[EI]S", "SUMMARY IMPRESSION",
        "IMPRESION(?:ES)?(?: DIAGNOSTICA)?", "CONCLUSION(?:ES)?",
        "DIAGNOSTICO", "JUICIO DIAGNOSTICO", "BEURTEILUNG", "ZUSAMMENFASSUNG", "BEWERTUNG", "SYNTHESE", "IMPRESSAO",
        "IMPRESSAO DIAGNOSTICA", "OPINIAO", "AU TOTAL",
        "CONCLUSAO", "CONCLUSOES", "CONCLUSIONI", "CONCLUSIONE", "CONCLUSIE", "BEDOMNING",
        "UTLATANDE", "KONKLUSION", "KONKLUSJON", "VURDERING", "LAUSUNTO", "SONUC", "IZLENIM", "WNIOSKI", "ZAVER",
        "ЗАКЛЮЧЕНИЕ", "ΣΥΜΠΕΡΑΣΜΑ", "诊断意见", "影像诊断", "影像診斷", "影像学诊断",
        "影像學診斷", "放射学诊断", "诊断印象", "诊断结论", "诊断", "診断", "印象", "结论", "結論", "결론",
        "KET LUAN",
    ),
    "indication": (
        "INDICATIONS?", "(?:CLINICAL |PATIENT |MEDICAL |BRIEF |RELEVANT )?(?:HISTORY|HX)",
        "CLINICAL (?:INDICATIONS?|INFORMATION|INFO|DATA|DETAILS|CONTEXT|CONCERN|BACKGROUND|STATEMENT|NOTES?|"
        "PRESENTATION|DIAGNOSIS|FEATURES|FINDINGS)", "CLINICAL QUESTION",
        "(?:ADMITTING|ADMISSION|PROVISIONAL|ORDERING|REFERRAL|WORKING) DIAGNOSIS", "(?:CHIEF |PRESENTING )?COMPLAINTS?",
        "REASON(?: FOR (?:THIS |THE )?(?:EXAM(?:INATION)?|STUDY|VISIT|REQUEST|TEST|REFERRAL|IMAGING|ORDER))",
        "SYMPTOMS?", "INDICACION(?:ES)?", "MOTIVO(?: DE (?:CONSULTA|LA EXPLORACION|ESTUDIO))?",
        "(?:DATOS|HISTORIA|INFORMACION) CLINIC[AO]S?", "ANTECEDENTES", "(?:KLINISCHE )?INDIKATION(?:EN)?", "ANAMNESE",
        "KLINISCHE (?:ANGABEN?|FRAGESTELLUNG|GEGEVENS|VRAAGSTELLING)", "FRAGESTELLUNG", "RENSEIGNEMENTS CLINIQUES",
        "INDICATION CLINIQUE", "MOTIF", "INDICACAO", "INDICACOES", "DADOS CLINICOS", "HISTORIA CLINICA",
        "QUESITO(?: CLINICO| DIAGNOSTICO)?", "INDICAZION[EI]", "INDICATIE", "KLINIK BILGI", "WSKAZANIA", "临床资料",
        "临床诊断", "病史", "ПОКАЗАНИЯ", "ANAMNES", "FRAGESTALLNING",
    ),
    "comparison": (
        "COMPARISONS?", "COMPARISON (?:STUDY|STUDIES|EXAM|FILMS?)", "PRIORS?", "COMPARED (?:TO|WITH)",
        "(?:PRIOR|PREVIOUS) (?:STUDY|STUDIES|EXAMS?|EXAMINATIONS?|IMAGING|FILMS?|RADIOGRAPHS?|REPORTS?)",
        "COMPARACION(?:ES)?", "ESTUDIOS? PREVIOS?",
        "VERGLEICH", "VORAUFNAHMEN?", "VORUNTERSUCHUNG(?:EN)?", "COMPARAISON", "COMPARACAO",
        "CONFRONTO", "VERGELIJKING",
    ),
    "technique": (
        "(?:EXAM |IMAGING )?TECHNIQUE", "PROCEDURE(?: COMMENTS)?", "(?:NUMBER OF )?VIEWS(?: OBTAINED)?", "PROTOCOL",
        "CONTRAST", "DOSE", "TECNICA(?: DE ESTUDIO)?", "TECHNIK",
        "TECNICA DE EXAME", "METHODE", "TECHNIEK", "TEKNIK", "检查方法", "技术",
    ),
    "examination": (
        "(?:TYPE OF )?EXAMINATION", "EXAM(?: TYPE| DATE)?", "STUDY(?: DATE)?",
        "DATE(?: OF (?:EXAM(?:INATION)?|STUDY))?",
        "UNTERSUCHUNG", "EXAMEN", "EXAME", "ESTUDIO", "EXPLORACION", "ESAME", "ONDERZOEK",
    ),
    "recommendation": (
        "RECOMMENDATIONS?", "PLAN", "FOLLOW[- ]?UP RECOMMENDATIONS?", "RECOMENDACION(?:ES)?", "EMPFEHLUNG(?:EN)?",
        "RECOMMANDATIONS?", "RECOMENDACAO", "RECOMENDACOES", "RACCOMANDAZIONI", "ADVIES",
    ),
    "notification": (
        "NOTIFICATIONS?", "COMMUNICATIONS?", "CRITICAL (?:RESULTS?|FINDINGS?|VALUES?)",
        "(?:RESULT|FINDINGS?) COMMUNICATIONS?",
    ),
    "wet read": ("WET READ",),
    "addendum": ("ADDEND(?:UM|A)", "NACHTRAG"),
    "summary": ("SUMMARY",),
    "diagnosis": ("DIAGNOS[EI]S",),
    DIFFERENTIAL: ("DIFFERENTIAL DIAGNOS[EI]S",),
    "accession number": ("ACCESSION(?: NUMBER| NO\\.?)?",),
    DESCRIPTION: (
        "NARRATIVE", "COMMENTS?",
        "(?:FINAL |RADIOLOGY |X-?RAY |PRELIMINARY )?REPORT", "DESCRIPTION", "INFORME", "LAUDO", "BERICHT",
        "COMPTE[- ]RENDU",
    ),
    CLOSING: (
        "END OF (?:IMPRESSION|REPORT|FINDINGS)", "ATTESTATION", "(?:ELECTRONICALLY )?SIGNED(?: BY)?",
        "DICTATED(?: BY)?", "TRANSCRIBED(?: BY)?",
        "(?:INTERPRETED|APPROVED|VERIFIED|REPORTED|READ) BY", "(?:ATTENDING |REPORTING )?RADIOLOGIST",
        "(?:ATTENDING|RESIDENT|FELLOW|REFERRING|REPORTING)(?: PHYSICIAN| RADIOLOGIST| DOCTOR)?", "TRANSCRIPTIONIST",
        "WORKSTATION(?: ID)?", "(?:CPT|ICD(?:-?10)?|BILLING)(?: CODES?)?", "SIGNATURE", "DISCLAIMER",
        "MEDICO", "FIRMADO(?: POR)?",
    ),
}  # fmt: skip
"""Headings of a section as regular expressions on folded text (see `fold`), in the languages of published reports."""

_JOIN = r"(?: ?[&/+,] ?| (?:AND|UND|ET|Y|E|EN|OCH|OG) )"
_ANY = "|".join(sorted((name for names in NAMES.values() for name in names), key=lambda name: (-len(name), name)))
HEADING = rf"(?:{_ANY})(?:{_JOIN}(?:{_ANY}))*(?: ?\([^()\n]{{0,30}}\))?"
"""One name, or several such as `FINDINGS/IMPRESSION`; `(S)` or another remark in parentheses may follow."""

_SECTIONS = [(section, re.compile("|".join(names), re.IGNORECASE)) for section, names in NAMES.items()]

_OPENED = r"[ \t>#*=•~|\[(<{-]*_{0,2}(?:\d{1,2}[.)][ \t]*)?[*_]{0,3}"
"""Marks of lists and of Markdown in front of a heading."""

_CLOSED = r"(?:\*{1,3}|__?(?!_)|=+|#+|~+)?"
SEPARATOR = (
    rf"(?P<colon>[ \t]*{_CLOSED}[ \t]*[:：](?:[-–—]+(?=\s))?{_CLOSED})|(?P<bracket>[ \t]*[\]>)}}]{_CLOSED}[ \t]*[:：]?)"
    rf"|(?P<dash>[ \t]*{_CLOSED}[ \t]*[-–—]+(?=\s))|(?P<end>[ \t]*{_CLOSED}[ \t]*\.?[ \t]*(?=\n|\Z))"
    rf"|(?P<gap>(?:[ \t]{{2,}}|\t)(?=\S))|(?P<glued>[ \t](?=(?-i:[A-Z][a-z])|\d+[.)][ \t]))"
)
"""What ends a heading: a colon, a bracket, a dash, the end of its line, a gap, or text that continues in lower case."""

AT_LINE = re.compile(rf"^(?P<opened>{_OPENED})(?P<name>{HEADING})(?:{SEPARATOR})", re.IGNORECASE | re.MULTILINE)
INSIDE = re.compile(rf"(?<=[\s。；.;,)\]])(?P<opened>[\[*#]*)(?P<name>{HEADING})(?:{SEPARATOR})", re.IGNORECASE)
OTHER = re.compile(r"^[ \t]*(?P<name>[A-Za-z][A-Za-z0-9 ,/&()'-]{1,60}?)[ \t]*:(?!\d\d\b)", re.MULTILINE)
"""A heading that is not known: one in capitals opens a section of its own name."""

MODIFIED = re.compile(
    r"\b(?:lab|laboratory|blood|test|pathology|other|additional|incidental|associated|miscellaneous|no|any|these|the|prior|previous|pertinent|otros|"
    r"sonstige|weitere|autres)[ \t]+$", re.IGNORECASE,
)  # fmt: skip
"""`OTHER FINDINGS:` is a part of the findings."""

QUALIFIED = re.compile(r"(?:SIGNIFICANT|PERTINENT|ABNORMAL|RELEVANT|GENERAL) FINDINGS?", re.IGNORECASE)
"""A heading that opens the findings, and is text inside them: `ABNORMAL FINDINGS: None.`"""

_SHOWN = (
    r"\b(?:lungs?|heart|cardi\w+|mediastin\w+|hil(?:a|ar|um)|pleura\w*|(?:hydro)?pneumothora\w+|(?:hemi)?diaphragm\w*|"
    r"effusions?|consolidat\w+|opaci\w+|infiltrat\w+|o?edema|atelecta\w+|nodul\w+|mass(?:es)?|bones?|bony|osseous|"
    r"ribs?|spine|costophrenic|silhouette|aort\w+|thorax|lunge\w*|herz\w*|erguss\w*|pulm\w+|corazon|derrames?|"
    r"poumons?|coeur|epanchements?|coracao|cuore|polmon\w+|longen|hart)\b|肺|心影"
)
_STATE = (
    r"\b(?:is|are|was|were|has|have|no|not|without|there|clear|normal\w*|unremarkable|unchanged|stable|seen|present|"
    r"intact|enlarged|expanded|small|large|mild|moderate|severe|new|sin|sem|pas|kein\w*|geen|unauffallig\w*|"
    r"clar[oa]s?|limp[oa]s?|libres?|frei)\b|未见|正常|清晰"
)
_ASKED = (
    r"\?|\b(?:please|eval\w*|assess\w*|rule out|r/o|check|(?:year|yr)s?[- ]old|y/?o|history|known|suspect\w*|"
    r"concern\w*|presents?|presenting|complain\w*)\b"
)
DESCRIBED = re.compile(rf"(?=.*?(?:{_SHOWN}))(?=.*?(?:{_STATE}))(?!.*?(?:{_ASKED})).", re.IGNORECASE | re.DOTALL)
"""A sentence on what the image shows, not one on what is asked or known; matched from its start, in folded text."""

_TIME = r"\d{1,2}[:.]\d{2}(?:[ \t]*[AP]\.?M\b\.?|[ \t]*(?:HOURS|HRS|H)\b)?|[AP]\.M\.|\b[AP]M\b"
_DATE = r"\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}"
_VIEW_WORDS = (
    "AP|PA|LAT|LATERAL|FRONTAL|OBLIQUE|LORDOTIC|DECUBITUS|VIEWS?|PORTABLE|BEDSIDE|UPRIGHT|ERECT|SUPINE|SEMI-?ERECT|"
    "SEMI-?UPRIGHT|SEMI|SINGLE|ONE|TWO|THREE|MULTIPLE|[1-4]|AND|OF|THE|A|AN|ON|AT|IN|DATED?|WITH|FOR|LEFT|RIGHT|PORT|"
    "ADULT|PEDIATRIC|INFANT|DIGITAL|PLAIN|COMPLETE|LIMITED|ROUTINE|REPEAT|FOLLOW-?UP|INTERVAL|DE|DEL|LA|DU|Y|E|ET|DO|"
    "ZWEI|2|EBENEN|VON|UND|SIMPLE|PROYECCIONES|IM|STEHEN|LIEGEN|INCIDENCES?|FACE|PROFIL|EN|EXAMINATION|STUDY|EXAM|"
    "RADIOGRAPHIC|RADIOLOGIC|RADIOLOGICAL|SERIES|PROJECTIONS?|LINE|PLACEMENT|ABDOMEN|RIBS?|INSPIRATION|EXPIRATION"
)
_STUDY_WORDS = (
    "CHEST|THORAX|TORAX|THORAXAUFNAHME|RADIOGRAPHS?|RADIOGRAPHY|RADIOGRAM|ROENTGENOGRAM|X-?RAYS?|CXR|XR|FILMS?|RX|"
    "RADIOGRAFIA|RADIOGRAPHIE|RONTGEN|ROENTGEN|THORACIQUE|POUMONS|TELERADIOGRAFIA"
)
_DATES = rf"(?>[ \t,.]*(?:{_TIME}|{_DATE}|_{{2,}}|(?:AT|ON|DATED?)\b))*+"
TITLE = re.compile(
    rf"^[ \t]*(?P<name>(?>(?:{_TIME}|{_DATE}|_{{2,}}|(?:{_VIEW_WORDS}|{_STUDY_WORDS})\b)[ \t,/&()#.-]*+)++)"
    rf"(?:(?P<colon>:(?!\d\d\b){_DATES}[ \t.]*)|(?=\n|\Z))", re.IGNORECASE | re.MULTILINE,
)  # fmt: skip
"""A line that only names the examination: `AP CHEST, 5:23 A.M., ___` or `Radiographic examination of the chest:`.

One of its words must be an EXAMINATION.
"""

EXAMINATION = re.compile(rf"\b(?:{_STUDY_WORDS}|VIEWS?|PORTABLE)\b", re.IGNORECASE)
"""Words that name the examination."""

ANATOMY = re.compile(
    r"^[ \t]*(?P<name>(?:LUNGS?|PULMONARY|HEART|CARDIAC|MEDIASTINUM|CARDIOMEDIASTIN\w+|PLEURAL?|BONES?|OSSEOUS|"
    r"SOFT TISSUES?|AIRWAYS?|TRACHEA|DIAPHRAGM|CARDIOVASCULAR|BREATHING|CIRCULATION|VESSELS|AORTA|VASCULATURE|"
    r"(?:UPPER |VISUALI[SZ]ED |LIMITED )?(?:UPPER )?ABDOMEN|SKELETON|SKELETAL|RIBS?|SPINE|CHEST WALL|LINES?|TUBES?|"
    r"DEVICES|SUPPORT DEVICES|HILA|PULMONES|CORAZON|MEDIASTINO|"
    r"LUNGEN?|HERZ|POUMONS|COEUR|PULMOES|CORACAO)"
    r"(?:[ \t]*(?:[/&,]|\bAND\b)[ \t]*\w+(?: \w+)?|[ \t]+\w+){0,3}):(?=[ \t])", re.IGNORECASE | re.MULTILINE,
)  # fmt: skip
"""A part of the body as a heading: it is a part of the findings, and text."""

CLOSERS = re.compile(
    r"^[ \t]*(?:DR\.?[ \t]+[_A-Z][_A-Z .,'-]*|_{2,},?[ \t]*M\.?D\.?)[ \t]*$"
    r"|^[ \t]*(?:(?:Dr|Prof)\.?[ \t]+)?(?:[A-Z][\w.'-]*[ \t]+){0,3}[A-Z][\w'-]+,?[ \t]+"
    r"(?:M\.?D|D\.?O|MBBS|FRCR|MBChB)\b[A-Za-z0-9 .,()/:-]*$"
    r"|^[ \t]*(?:GMC|NPI)[ \t:]*(?:(?:No|Number)[.:]?[ \t]*)?\d+[ \t.]*$"
    r"|(?:^[ \t]*|(?<=[.:!?])\s+)(?:This report has been (?:anonymized|de-?identified)|"
    r"Physician to Physician Radiology|"
    r"I,? (?:the |a )?(?:attending|teaching|undersigned)|I(?:,[^.\n]{1,40},)? have (?:personally )?reviewed|"
    r"Workstation ID|CPT codes?\b|"
    r"Thank(?:s| you) (?:very much )?for (?:referring|(?:the|this|your) (?:kind )?referral|allowing|involving)|"
    r"(?:Mit|Freundliche) (?:freundlichen |besten |kollegialen )*Gru(?:ß|ss)e?n?|Sincerely|(?:Kind |Best )?[Rr]egards,|"
    r"Cordialement|Atentamente|Atenciosamente|(?:Cordiali|Distinti) saluti|Met vriendelijke groet|"
    r"(?:(?:Final|Preliminary) )?[Rr]eport (?:(?:electronically|digitally) )?"
    r"(?:signed|dictated|transcribed|finalized|verified|approved|by)\b|"
    r"(?:Electronically|Digitally) (?:signed|verified|approved)|"
    r"(?:Signed|Dictated|Transcribed|Interpreted|Reviewed|Verified|Approved|Finalized) (?:electronically )?(?:by|on)\b|"
    r"END OF (?:IMPRESSION|REPORT)|\*{2,} ?(?:Final|End)\b)", re.MULTILINE,
)  # fmt: skip
"""Sentences after which nothing is said of the image."""


def name_section(heading: str) -> str:
    """The section that a known heading opens, in folded text; `FINDINGS AND IMPRESSION` opens findings."""
    whole = heading.partition("(")[0].strip()
    for text in (whole, re.split(_JOIN, whole, maxsplit=1, flags=re.IGNORECASE)[0]):
        for section, names in _SECTIONS:
            if names.fullmatch(text):
                return section
    return DESCRIPTION


def fold(text: str) -> str:
    """The text without accents, of the same length: `IMPRESIÓN` is found as `IMPRESION`. Takes composed text (NFC)."""
    return "".join(map(_fold_character, text))


def _fold_character(character: str) -> str:
    if character.isascii():
        return character
    if character == "\xa0":
        return " "
    first, marks = (decomposed := unicodedata.normalize("NFD", character))[0], decomposed[1:]
    return first if marks and all(map(unicodedata.combining, marks)) else character
