"""A processor with fewer instructions than the one at hand, for ours and for the peers alike."""

from collections.abc import Mapping

RESTRICTED: Mapping[str, Mapping[str, str]] = {
    name: {
        "PRELIM_INSTRUCTIONS": name,
        "ATEN_CPU_CAPABILITY": pytorch,
        "ONEDNN_MAX_CPU_ISA": onednn,
        # OpenVINO's own kernels need both.
        "OV_CPU_MAX_ISA": onednn,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
        "CT2_FORCE_CPU_ISA": mkl,
    }
    for name, pytorch, onednn, mkl in (
        ("avx2", "avx2", "AVX2", "AVX2"),
        ("avx_vnni", "avx2", "AVX2_VNNI", "AVX2"),
        ("avx512", "avx512", "AVX512_CORE", "AVX512"),
        ("avx512_vnni", "avx512", "AVX512_CORE_VNNI", "AVX512"),
    )
}
"""Name of `prelim.kernels.instructions` -> environment of all contenders: instructions beyond these are not used."""

BUILT_FOR_THIS_PROCESSOR = ("llama_cpp",)
"""Peers that are left out: their instructions were chosen when they were built."""
