"""Section `prompt` of a folder's chat template gives the token ids that `transformers` gives."""

import json
import shutil
import string
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from export.checkpoints.record import ImportRecord
from export.tokenizers.chat_template import ImageWords, find_template, templated_prompt, transformers_tokenizer
from export.tokenizers.read import read_tokenizer
from prelim.decoders.decoder import IMAGE
from prelim.errors import ArchiveError
from prelim.generation.prompt import Prompter
from prelim.generation.prompt_config import PromptConfig

SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<start>", "<end>", "<vision>", "<visionend>")
VOCABULARY = [*SPECIAL, *string.printable, "▁"]
PUBLISHED = PromptConfig(default="Report.", max_images=3, accepts={"age": " Age: {age}."})

VICUNA = (
    "{% for m in messages %}{{ m['role'] | upper }}: "
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
CHATML = (
    "<start>system\nBe kind.<end>\n{% for m in messages %}<start>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<vision><image><visionend>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<end>\n{% endfor %}{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}<start>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<vision>{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}"
    "<end>\n{% endfor %}{% if add_generation_prompt %}<start>model\n{% endif %}"
)
WORDS_FIRST = (
    "{% for m in messages %}[INST] {% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'image' %} <image>{% endfor %} [/INST]{% endfor %}"
)
NUMBERED = (
    "{% for c in messages[0]['content'] %}{% if c['type'] == 'image' %}{{ loop.index }}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
)
WITHIN = ImageWords("<vision>", "\n\n<vision>{image}<visionend>\n\n")
TEMPLATES = {
    "vicuna": (VICUNA, None),
    "chatml": (CHATML, None),
    "turns": (TURNS, WITHIN),
    "words first": (WORDS_FIRST, None),
}
SCHEMES = ("first", "always", "never", "none")


def save_tokenizer(folder: Path, template: str, scheme: str, *, bos: bool, **properties: bool) -> Tokenizer:
    """A folder of `transformers` with one token for each character.

    scheme     : of the space before a text's first word
    bos        : the tokenizer adds a token before each text
    properties : of the image's token
    """
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(VOCABULARY)}, [], unk_token="<unk>"))  # noqa: S106
    if scheme != "none":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL if "image" not in token])
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, **properties)])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    whole.chat_template = template
    whole.save_pretrained(folder)
    return tokenizer


def prompt_of(folder: Path, served: Tokenizer, image: ImageWords | None = None) -> PromptConfig:
    """Section `prompt` of a folder."""
    prompt = templated_prompt(
        PUBLISHED,
        folder,
        served,
        image_token_id=SPECIAL.index("<image>"),
        vocab_size=len(VOCABULARY),
        image=image,
        record=ImportRecord(),
    )
    assert prompt is not None
    return prompt


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_is_that_of_the_template(name: str, scheme: str, bos: bool, tmp_path: Path) -> None:
    """For one image and several, whatever the request's words are."""
    template, image = TEMPLATES[name]
    served = save_tokenizer(tmp_path, template, scheme, bos=bos)

    prompt = prompt_of(tmp_path, served, image)

    theirs = transformers_tokenizer(tmp_path)
    prompter = Prompter(prompt, served, len(VOCABULARY), one_text=True)
    for images in (1, 2, 3):
        for words in ("Effusion?", "  spaced ", "a\n\nb", "{prompt} {x}"):
            content = [{"type": "image"}] * images + [{"type": "text", "text": words}]
            text = theirs.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
            if image is not None:
                text = text.replace(image.marker, image.text.replace("{image}", "<image>"))
            expected = theirs(text, add_special_tokens=not text.startswith("<s>")).input_ids
            found = [SPECIAL.index("<image>") if i == IMAGE else i for i in prompter.ids(words, None, images)]
            assert found == expected
    assert (prompt.default, prompt.max_images, prompt.accepts) == ("Report.", 3, PUBLISHED.accepts)


def test_special_tokens_of_a_request_are_words(tmp_path: Path) -> None:
    """Unlike in `transformers`, a request cannot end the user's turn."""
    served = save_tokenizer(tmp_path, CHATML, "never", bos=False)
    prompter = Prompter(prompt_of(tmp_path, served), served, len(VOCABULARY), one_text=True)

    assert prompter.ids("<end><image>", None).count(SPECIAL.index("<end>")) == 2
    assert prompter.ids("<end><image>", None).count(IMAGE) == 1
    assert SPECIAL.index("<image>") not in prompter.ids("<end><image>", None)


def test_words_of_the_context_follow_those_of_the_request(tmp_path: Path) -> None:
    """Before the image too, if the template has the words there."""
    served = save_tokenizer(tmp_path, WORDS_FIRST, "never", bos=False)
    prompter = Prompter(prompt_of(tmp_path, served), served, len(VOCABULARY), one_text=True)

    before, after = prompter.parts("Why?", None, {"age": "64"})

    assert "".join(before) == "[INST] Why? Age: 64. "
    assert "".join(after) == " [/INST]"


def test_numbered_images_are_not_several(tmp_path: Path) -> None:
    """A template that writes each image otherwise is served with one."""
    served = save_tokenizer(tmp_path, NUMBERED, "never", bos=False)
    assert prompt_of(tmp_path, served).max_images == 1


@pytest.mark.parametrize(
    ("template", "properties", "message"),
    [
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", {}, "without one '<image>' for each image"),
        ("{{ raise_exception('No images.') }}", {}, "cannot be rendered: No images"),
        (VICUNA, {"rstrip": True}, "cannot be served: for 1 images and 'Quux 7 quux' its token ids are"),
        ("{{ messages[0]['content'][-1]['text'] | upper }}<image>", {}, "without the words"),
        (CHATML.replace("{{ c['text'] }}", "{{ c['text'] | replace('e', 'E') }}"), {}, "'Is the heart enlarged"),
    ],
)
def test_what_cannot_be_served_is_refused(
    template: str, properties: dict[str, bool], message: str, tmp_path: Path
) -> None:
    """A prompt with other ids is never guessed."""
    served = save_tokenizer(tmp_path, template, "never", bos=False, **properties)
    with pytest.raises(ArchiveError, match=message) as refusal:
        prompt_of(tmp_path, served)
    assert "--set prompt.chat_template=false" in str(refusal.value)


def test_where_a_template_is_found(tmp_path: Path) -> None:
    """A file of its own comes first, as in `transformers`; of several templates the one named default is read."""
    assert find_template(tmp_path) is None
    named = [{"name": "other", "template": "o"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}), encoding="utf-8")
    assert find_template(tmp_path) == "d"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "j"}), encoding="utf-8")
    assert find_template(tmp_path) == "j"
    (tmp_path / "chat_template.jinja").write_text("f", encoding="utf-8")
    assert find_template(tmp_path) == "f"
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": 3}), encoding="utf-8")
    with pytest.raises(ArchiveError, match="chat_template is int; expected a text"):
        find_template(tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("legacy", [True, False])
def test_prompt_with_the_vocabulary_of_llama_2_in_shared_data(legacy: bool, shared: Path, tmp_path: Path) -> None:
    """Read as transformers reads it, which puts a space before the first word of all, or of every piece of a text."""
    shutil.copy(shared / "data" / "tokenizers" / "llama2" / "tokenizer.model", tmp_path)
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": legacy,
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "added_tokens_decoder": {"32000": {"content": "<image>", "special": True, "normalized": False}},
        "chat_template": VICUNA,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    served = read_tokenizer("transformers", tmp_path)

    prompt = templated_prompt(
        PUBLISHED, tmp_path, served, image_token_id=32000, vocab_size=32064, image=None, record=ImportRecord()
    )

    assert prompt is not None
    ids = Prompter(prompt, served, 32064, one_text=True).ids("Why?", None)
    assert ids[:4] == (1, 3148, 1001, 29901)
    assert (prompt.before, prompt.after) == ("USER: ", "\n{prompt} ASSISTANT:")
