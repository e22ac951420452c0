"""Settings are checked before anything is loaded."""

from pathlib import Path

import pytest

from training.settings import Settings, SettingsError, read_settings

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "demo.yaml"


def test_the_command_line_changes_the_file() -> None:
    """A key=value override wins over the file and takes the type of its default."""
    settings = read_settings(CONFIG, ["learning_rate=1", "epochs=3", "resume=true"])
    assert (settings.learning_rate, settings.epochs, settings.resume) == (1.0, 3, True)


def test_an_unknown_key_lists_the_known_ones() -> None:
    """A mistyped key is an error that names it and every key there is."""
    with pytest.raises(SettingsError, match=r"'epoch'.*data, out, run.*epochs.*stop_after"):
        read_settings(CONFIG, ["epoch=3"])


@pytest.mark.parametrize("override", ["epochs=many", "epochs=true", "image_size=150", "captions_per_batch=65", "seed"])
def test_a_value_that_cannot_be_used_is_refused(override: str) -> None:
    """A value of another type, or out of its range, is an error that names the key."""
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        read_settings(CONFIG, [override])


def test_the_demo_config_only_names_what_it_changes() -> None:
    """The committed configuration is one that can be read, and trains the model that is committed."""
    assert read_settings(CONFIG).out == "models/demo"
    assert Settings().name == "demo"
