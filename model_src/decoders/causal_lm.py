"""A causal language model of `transformers` that reads the image as a prefix.

The network is the library's; cache, mask and positions are ours, so all beams of a request share its prefix.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from model_src.decoders.decoder import IMAGE
from model_src.decoders.kv_cache import KVCache


class CausalLMState:
    """The cache is all that a causal language model remembers."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy one slot over another; the first `columns` columns of its cache are in use."""
        self.cache.move(source, target, columns)


class CausalLMDecoder(nn.Module):
    """BioGPT, Llama and their like.

    section : the section `decoder` of model.yaml without its `kind`: `model_type` as `transformers` names it, and
              the values of that model's configuration

    Raises ValueError for an unknown model type.
    """

    hidden_from_all: int | None = None

    def __init__(self, section: Mapping[str, Any]) -> None:
        super().__init__()
        values = dict(section)
        self.config = AutoConfig.for_model(values.pop("model_type"), **values)
        self.config.use_cache = False
        self.body: Any = AutoModel.from_config(self.config, attn_implementation="sdpa")  # type: ignore[no-untyped-call]
        if hasattr(self.body, "rotary_emb"):
            # Its frequencies are computed, not stored: they must exist also where the weights do not yet.
            with torch.device("cpu"):
                self.body.rotary_emb = type(self.body.rotary_emb)(config=self.config)
        width, vocab_size = self.config.hidden_size, self.config.vocab_size
        self.lm_head = None if self.config.tie_word_embeddings else nn.Linear(width, vocab_size, bias=False)
        self.max_positions: int = self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.body.get_input_embeddings().weight.device

    def new_state(self, slots: int) -> CausalLMState:
        """An empty memory for so many requests."""
        c = self.config
        heads = c.num_attention_heads
        return CausalLMState(
            KVCache(
                layers=c.num_hidden_layers,
                slots=slots,
                heads=getattr(c, "num_key_value_heads", None) or heads,
                head_width=getattr(c, "head_dim", None) or c.hidden_size // heads,
                columns=0,
                dtype=self.body.get_input_embeddings().weight.dtype,
                device=self.device,
            )
        )

    def prefix_length(self, num_tokens: int, prompt_ids: tuple[int, ...]) -> int:
        """Columns of a prefix: the image's tokens in the place of IMAGE, and the other tokens of the prompt."""
        return num_tokens - 1 + len(prompt_ids)

    def history(self, prompt_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Nothing: `generate` does not see the ids of a prompt that is given as embeddings."""
        return ()

    def embed(self, image_embeds: Tensor, prompt_ids: Tensor) -> Tensor:
        """The prefix as embeddings.

        image_embeds : Tensor, shape (batch, num_tokens, width)
        prompt_ids   : Tensor of int64, shape (batch, prompt_length), IMAGE at the same place in every row
        returns      : Tensor, shape (batch, num_tokens + prompt_length - 1, width)
        """
        place = int((prompt_ids[0] == IMAGE).nonzero()[0, 0])
        words = self.body.get_input_embeddings()
        before, after = words(prompt_ids[:, :place]), words(prompt_ids[:, place + 1 :])
        return torch.cat([before, image_embeds.to(before.dtype), after], dim=1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, shape (..., vocab_size), for hidden states of shape (..., width)."""
        if self.lm_head is None:
            return nn.functional.linear(hidden, self.body.get_input_embeddings().weight)
        return self.lm_head(hidden)

    def prefill(self, state: CausalLMState, slots: slice, image_embeds: Tensor, prompt_ids: Tensor) -> Tensor:
        """Logits of the first token to write, shape (slots, vocab_size); see `Decoder.prefill`."""
        embeds = self.embed(image_embeds, prompt_ids)
        batch, length = embeds.shape[:2]
        positions = torch.arange(length, device=self.device).expand(batch, -1)
        state.cache.open(slots, positions, length)
        causal = torch.ones(length, length, dtype=torch.bool, device=self.device).tril().expand(batch, 1, -1, -1)
        hidden = self._hidden(embeds, positions, causal, state.cache)
        return self.logits(hidden[:, -1])

    def step(self, state: CausalLMState, slots: slice, token_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits of the next token, shape (slots, rows, vocab_size); see `Decoder.step`."""
        embeds = self.body.get_input_embeddings()(token_ids)
        return self.logits(self._hidden(embeds, positions, mask, state.cache))

    def forward(self, embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Teacher forcing: logits for every position.

        embeds         : Tensor, shape (batch, length, width), as `embed` gives them for prefix and text
        attention_mask : Tensor of 0 and 1, shape (batch, length); None looks at everything before
        returns        : logits, Tensor, shape (batch, length, vocab_size)
        """
        return self.logits(self.body(inputs_embeds=embeds, attention_mask=attention_mask).last_hidden_state)

    def _hidden(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: KVCache) -> Tensor:
        output = self.body(inputs_embeds=embeds, position_ids=positions, attention_mask=mask, past_key_values=cache)
        return output.last_hidden_state
