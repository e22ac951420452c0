"""Inner products without numba: machine code for any processor, to read or to run."""

import ctypes

import llvmlite.binding as llvm
import torch
from llvmlite import ir
from torch import Tensor

from prelim.kernels import GROUP
from prelim.kernels.dot import BLOCK, Kind, call_dot, pack
from prelim.kernels.instructions import Instructions

_I64, _POINTER = ir.IntType(64), ir.PointerType()
KINDS = {"int4": torch.uint8, "int8": torch.int8, "bf16": torch.bfloat16, "fp32": torch.float32}


def _module(kind: str, instructions: Instructions, rows: int) -> str:
    """A function `whole`, with the arguments of `call_dot`."""
    module = ir.Module()
    signature = ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER, _I64, _I64, *[_POINTER] * 4])
    function = ir.Function(module, signature, "whole")
    b = ir.IRBuilder(function.append_basic_block())
    call_dot(b, kind, instructions, rows, Kind.FIRST, function.args)
    b.ret_void()
    return str(module)


def _compile(triple: str, text: str, instructions: Instructions) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    cpu, features = instructions.least
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=3)
    module = llvm.parse_assembly(text)
    module.triple = triple
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    passes.getModulePassManager().run(module, passes)
    return module, machine


def assembly(kind: str, instructions: Instructions, rows: int) -> str:
    """The code for the least processor that has these instructions."""
    arm = instructions.name.startswith("neon")
    triple = "aarch64-unknown-linux-gnu" if arm else "x86_64-unknown-linux-gnu"
    module, machine = _compile(triple, _module(kind, instructions, rows), instructions)
    return str(machine.emit_assembly(module))


def products(instructions: Instructions, weight: Tensor, scale: Tensor | None, rows: Tensor, scales: Tensor) -> Tensor:
    """Sums of BLOCK outputs, shape (rows, BLOCK), as code for the least such processor computes them on this one.

    weight, scale : as `pack` reads them, of BLOCK outputs
    rows          : of the numbers of the kind, shape (rows, inputs)
    scales        : of their groups, float32, shape (rows, groups)
    """
    kind = next(name for name, dtype in KINDS.items() if dtype == weight.dtype)
    module, machine = _compile(llvm.get_process_triple(), _module(kind, instructions, len(rows)), instructions)
    packed, sums = pack(weight, scale, instructions), torch.empty(len(rows), BLOCK)
    corrections = -128 * rows.view(len(rows), -1, GROUP).long().sum(2).int()
    with llvm.create_mcjit_compiler(module, machine) as engine:
        engine.finalize_object()
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 4)(
            engine.get_function_address("whole")
        )
        addresses = [tensor.data_ptr() for tensor in (packed, rows, scales, corrections, sums, packed)]
        call(*addresses[:2], rows.shape[1], rows.shape[1] // GROUP, *addresses[2:])
    return sums
