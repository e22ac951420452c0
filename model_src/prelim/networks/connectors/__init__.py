"""Connectors: image_features -> image_embeds. They become connector.onnx and are not imported while serving."""
