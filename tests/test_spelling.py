"""American spelling everywhere, names of files and modules included; keys of formats that exist already keep theirs."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    *("model_src", "handlers", "export", "training", "client", "launcher", "loadtests", "benchmarks", "bridge", "bulk"),
    *("terminal", "deploy", "web", "docs", "tests"),
)
ENDINGS = {".py", ".md", ".yaml", ".js", ".html", ".css", ".template", ".service", ".sh"}
BRITISH = re.compile(
    r"labell(?:er|ed|ing)|grey|colour|favour|honour|neighbour|behaviour|flavour|licence|defence|artefact|catalogue"
    r"|centre|metre[sd]?\b|fibre|misspelt|travell|modell(?:er|ed|ing)|cancell(?:ed|ing)|signall|towards\b|judgement"
    r"|(?:optim|normal|organ|recogn|initial|serial|token|quant|summar|util|real|final|general|special|minim|maxim|local"
    r"|synchron|parallel|vector|visual|standard|custom|random|author|character|emphas|categor|memor|prior|penal)"
    r"is(?:e[ds]?|er|ing|ation)\b|analyse[ds]?\b"
)
KEYS = re.compile(
    # Of model.yaml, of a table and of a file of ROCO; a warning; a metric; statuses of FHIR, TorchServe and gRPC.
    r"[\"'`{.]licence[\"'`}.]|\.licence\b|\blicence *[=:]|licences\.txt|\\tlicence"
    r"|\bcolour[:\"'`]|cancelled_total|[\"'`]cancelled[\"'`]|iscancelled|\"cancelled"
    # Of HTML.
    r"|aria-labelledby"
)
QUOTED = {
    # Words of reports and of prompts.
    "model_src/prelim/labels/rules.py": {"artefact"},
    "benchmarks/models/smollm2.py": {"colour", "summarise"},
    # Titles of papers.
    "model_src/prelim/networks/architectures/llava_rad.py": {"towards"},
    # Names of shared files.
    "tests/model_src/images/dicom/test_strangers.py": {"grey"},
}


def test_spelling_is_american() -> None:
    """In the names and contents of all files."""
    wrong = []
    for path in (file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in ENDINGS):
        name = path.relative_to(ROOT).as_posix()
        text = name + KEYS.sub("", path.read_text(encoding="utf-8", errors="replace").lower())
        found = set(BRITISH.findall(text)) - QUOTED.get(name, set())
        wrong += [f"{name}: {word}" for word in sorted(found) if path != Path(__file__)]
    assert wrong == []
