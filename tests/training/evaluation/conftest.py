"""One process of METEOR's jar for all tests: it takes 5 s to start."""

import subprocess
from collections.abc import Iterator, Sequence

import pytest

from training.evaluation.metrics import meteor


@pytest.fixture(scope="session", autouse=True)
def one_jar() -> Iterator[None]:
    """Ask a running jar, which answers every line by itself; two tests start one of their own."""
    running: list[subprocess.Popen[str]] = []

    def ask(lines: Sequence[str]) -> list[str]:
        if not running:
            command, folder = meteor.jar_command()
            running.append(
                subprocess.Popen(
                    command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
                )
            )
        (jar,) = running
        assert jar.stdin is not None
        assert jar.stdout is not None
        answers = []
        for line in lines:
            print(line, file=jar.stdin, flush=True)
            answers.append(jar.stdout.readline().rstrip("\n"))
        return answers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "_jar", ask)
        yield
    for jar in running:
        jar.communicate()
