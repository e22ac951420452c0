"""Remarks on scores that say less than they seem to."""

from training.evaluation.metrics.r2gen import Protocol
from training.evaluation.systems import remark_on_rare_words


def test_many_rare_words_are_said() -> None:
    """Two texts without a common word score as equals where training has none of their words."""
    protocol = Protocol(["The lungs are clear."] * 3)
    rare, known = protocol("Cardiomegaly persists today."), protocol("The lungs are clear.")

    assert rare == protocol("Bilateral infiltrates noted.")
    (remark,) = remark_on_rare_words([rare, known])
    assert remark.startswith("43% of the references' words")
    assert remark_on_rare_words([known] * 20 + [protocol("The lungs are hyperinflated.")]) == []
    assert remark_on_rare_words([""]) == []
