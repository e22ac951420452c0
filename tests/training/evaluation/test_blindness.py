"""Texts made wrong on purpose are wrong in what they should be, and in nothing else."""

from training.evaluation.blindness import same_labels, sides_swapped, without_denials
from training.evaluation.metrics.labeller import Labeller, positive


def test_denials_are_removed() -> None:
    """What was denied is said to be there."""
    assert without_denials("No effusion, without edema.") == "effusion, edema."


def test_sides_swapped_twice_is_the_text() -> None:
    """A swap is its own inverse, and needs whole words."""
    text = "left effusion, right base, upright view"
    assert sides_swapped(text) == "right effusion, left base, upright view"
    assert sides_swapped(sides_swapped(text)) == text


def test_a_report_of_the_same_labels_has_them() -> None:
    """Wherever training has such a report."""
    train = ["Lungs are clear.", "Left effusion.", "Heart normal."]
    (drawn,) = same_labels(train, ["Small right effusion."])
    assert positive(Labeller().read(drawn)) == {"pleural effusion"}
