"""Vision encoder and connector: pixel_values -> image_embeds, in ONNX Runtime."""
