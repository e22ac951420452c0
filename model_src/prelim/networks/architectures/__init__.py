"""The systems that are built in, one file each: parts, prompt, checkpoint keys. Not imported while serving."""

from prelim.networks.architectures import (
    biomedclip_qformer_biogpt,
    densenet_disease_llama,
    mobilenet_graph,
    xraygpt,
    xreport,
)
from prelim.networks.architectures.architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    "biomedclip_qformer_biogpt": biomedclip_qformer_biogpt.ARCHITECTURE,
    "densenet_disease_llama": densenet_disease_llama.ARCHITECTURE,
    "mobilenet_graph": mobilenet_graph.ARCHITECTURE,
    "xraygpt": xraygpt.ARCHITECTURE,
    "xreport": xreport.ARCHITECTURE,
}
"""Every system that can be trained, imported and exported, by the name that model.yaml gives as `architecture`."""
