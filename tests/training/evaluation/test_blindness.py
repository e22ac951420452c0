"""Texts made wrong on purpose are wrong in what they should be, and in nothing else."""

from prelim.labels.labeler import Labeler, positive
from training.evaluation.blindness import remove_denials, same_labels, swap_sides


def test_denials_are_removed() -> None:
    """Denied findings become positive ones."""
    assert remove_denials("No effusion, without edema.") == "effusion, edema."


def test_sides_swapped_twice_is_the_text() -> None:
    """A swap is its own inverse, and needs whole words."""
    text = "left effusion, right base, upright view"
    assert swap_sides(text) == "right effusion, left base, upright view"
    assert swap_sides(swap_sides(text)) == text


def test_a_report_of_the_same_labels_has_them() -> None:
    """Wherever training has such a report."""
    train = ["Lungs are clear.", "Left effusion.", "Heart normal."]
    (drawn,) = same_labels(train, ["Small right effusion."])
    assert positive(Labeler().read(drawn)) == {"pleural effusion"}
