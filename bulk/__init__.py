"""Reports for many studies at once: an archive of studies in, a folder of Parquet files out, on Ray Data.

It runs the library itself, on one machine or on the nodes of a Ray cluster, without a server.
"""

from terminal.program import begin

begin()
