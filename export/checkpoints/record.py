"""The log of an import, printed and also written to the model card."""

from collections.abc import Mapping
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

    def assume_published(self, published: Published, facts: Facts) -> None:
        """Add everything in which the model is assumed to be like the published one."""
        for name, value in facts.assumed.items():
            self.assume(f"{name} = {value!r}, as in the published model; change it with --set {name}=VALUE")
        for text in published.structure:
            self.assume(text)
        sections = [
            name for name in ("tokenizer", "input", "preprocess", "prompt", "generation") if name in published.defaults
        ]
        self.assume(f"{', '.join(sections)} of model.yaml as in the published model, unless noted above")
