"""Reads data sets, trains models and evaluates them. Imports prelim; never imported while serving."""

import os

from terminal.program import begin

# Before PyTorch loads OpenMP: waiting threads sleep. While they spin instead, one other busy process on the
# machine slows training ten times. The arithmetic is the same.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

begin()
