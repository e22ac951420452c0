"""Decoders: image_embeds and a prompt -> logits, with a KV cache."""
