"""The built-in systems, one file each: parts, prompt, checkpoint keys. Not imported while serving."""

from prelim.networks.architectures import (
    biomedclip_qformer_biogpt,
    blip,
    densenet_disease_llama,
    encoder_decoder,
    gemma3,
    llava,
    llava_mistral,
    llava_rad,
    maira2,
    mobilenet_graph,
    qwen2_5_vl,
    xraygpt,
    xreport,
)
from prelim.networks.architectures.architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    "biomedclip_qformer_biogpt": biomedclip_qformer_biogpt.ARCHITECTURE,
    "blip": blip.ARCHITECTURE,
    "densenet_disease_llama": densenet_disease_llama.ARCHITECTURE,
    "encoder_decoder": encoder_decoder.ARCHITECTURE,
    "gemma3": gemma3.ARCHITECTURE,
    "llava": llava.ARCHITECTURE,
    "llava_mistral": llava_mistral.ARCHITECTURE,
    "llava_rad": llava_rad.ARCHITECTURE,
    "maira2": maira2.ARCHITECTURE,
    "mobilenet_graph": mobilenet_graph.ARCHITECTURE,
    "qwen2_5_vl": qwen2_5_vl.ARCHITECTURE,
    "xraygpt": xraygpt.ARCHITECTURE,
    "xreport": xreport.ARCHITECTURE,
}
"""`architecture` in model.yaml -> the system."""
