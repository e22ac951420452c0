"""The log of an import, printed and also written to the model card."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from prelim.networks.architectures.architecture import Published
from prelim.networks.architectures.facts import Facts


@dataclass(frozen=True)
class ImportRecord:
    """What an import ignored, changed and assumed.

    ignored : published key -> the reason why it is ignored
    notes   : other changes to the weights
    assumed : what is not in the files
    """

    ignored: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    def ignore(self, keys: Mapping[str, str]) -> None:
        """Add ignored keys."""
        self.ignored.update(keys)
        for key, reason in keys.items():
            print(f"ignored {key}: {reason}")

    def note(self, text: str) -> None:
        """Add a note."""
        self.notes.append(text)
        print(text)

    def assume(self, text: str) -> None:
        """Add an assumption."""
        self.assumed.append(f"assumed: {text}")
        print(self.assumed[-1])

    def assume_published(self, published: Published, facts: Facts, stored: Collection[str]) -> None:
        """Add everything in which the model is assumed to be like the published one.

        stored : sections of model.yaml that settings files of the checkpoint gave
        """
        for name, value in facts.assumed.items():
            self.assume(f"{name} = {value!r}, as in the published model; change it with --set {name}=VALUE")
        for text in published.structure:
            self.assume(text)
        given = {*stored, *(["preprocess"] if "preprocess.mean" in facts.asked else [])}
        sections = [name for name in _SECTIONS if name in published.defaults and name not in given]
        self.assume(f"{', '.join(sections)} of model.yaml as in the published model; change them there")


_SECTIONS = ("tokenizer", "input", "preprocess", "prompt", "generation")
