"""Load tests of a running server over HTTP and gRPC; they do not import the library."""

from prelim.program import begin

begin()
