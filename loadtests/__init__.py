"""Load tests of a running server over HTTP and gRPC; they do not import the library."""

from terminal.program import begin

begin()
