"""Vision encoders: pixel_values -> image_features. They become vision.onnx and are not imported while serving."""
