"""The systems that are built in, one file each: parts, prompt, checkpoint keys. Not imported while serving."""

from model_src.architectures import mobilenet_graph, xraygpt
from model_src.architectures.architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    "mobilenet_graph": mobilenet_graph.ARCHITECTURE,
    "xraygpt": xraygpt.ARCHITECTURE,
}
"""Every system that can be trained, imported and exported, by the name that model.yaml gives as `architecture`."""
