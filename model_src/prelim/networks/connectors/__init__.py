"""Connectors: image_features -> image_embeds. Exported as connector.onnx; not imported while serving."""
